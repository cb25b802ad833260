"""What a digest covers: equal digest, nothing to apply. The functions that make manifests are covered by snapshots."""

import json
from dataclasses import replace
from typing import Any

import pytest
from child_jobs import REQUEST, JobCase, cases, make_settings

from opd_api.load import load_job
from opd_api.memory import estimate
from opd_api.spec import Metadata, OPDJob
from opd_operator import build
from opd_operator.build.digest import digest
from opd_operator.objects import DOCUMENT_DIGEST, Manifest


@pytest.fixture(scope="module")
def case() -> JobCase:
    return cases()["arithmetic"]


def changed(job: OPDJob, **fields: Any) -> OPDJob:
    return job.model_copy(update={"spec": job.spec.model_copy(update=fields)})


def deployment_of(case: JobCase, **settings: Any) -> Manifest:
    memory = estimate(case.job, case.models.models)
    return build.teacher_set(case.job, case.job.spec.teachers[0], make_settings(**settings), memory)[-1]


def rayjob_of(case: JobCase, job: OPDJob | None = None) -> Manifest:
    return build.rayjob(job or case.job, case.attempt, case.settings, estimate(case.job, case.models.models))


def test_the_config_carries_the_digest_of_the_whole_foundation(case: JobCase) -> None:
    job, models, settings = case.job, case.models, case.settings
    *_, config = build.foundation(job, 1, models, REQUEST, settings)
    assert build.digest_of(config) == build.foundation_digest(job, 1, models, settings)


def test_a_request_is_in_the_mailbox_and_not_in_the_digest(case: JobCase) -> None:
    with_request = build.foundation(case.job, 1, None, REQUEST, case.settings)
    without = build.foundation(case.job, 1, None, None, case.settings)
    assert build.digest_of(with_request[-1]) == build.digest_of(without[-1])
    [mailbox] = [each for each in with_request if each["metadata"]["name"] == "arithmetic-mailbox"]
    assert json.loads(mailbox["data"]["request.json"])["stop"] == "Suspend"
    assert mailbox == build.mailbox(case.job, REQUEST)
    assert build.mailbox(case.job, None)["data"] == {"request.json": ""}, "else one put there by others would stay"


def test_attempt_models_steps_and_settings_are_in_the_foundations_digest(case: JobCase) -> None:
    job, settings = case.job, case.settings
    digests = [
        build.foundation_digest(job, 1, None, settings),
        build.foundation_digest(job, 2, None, settings),
        build.foundation_digest(job, 1, case.models, settings),
        build.foundation_digest(changed(job, steps=500), 1, None, settings),
        build.foundation_digest(job, 1, None, replace(settings, network_policies=False)),
    ]
    assert len(set(digests)) == len(digests)


def test_a_pause_and_what_kubernetes_keeps_about_the_object_change_no_digest(case: JobCase) -> None:
    noted = Metadata.model_validate(
        case.job.metadata.model_dump() | {"resourceVersion": "7", "generation": 3, "annotations": {"a": "b"}}
    )
    paused = changed(case.job, suspend=True).model_copy(update={"metadata": noted})
    assert build.foundation_digest(paused, 1, None, case.settings) == build.foundation_digest(
        case.job, 1, None, case.settings
    )
    assert rayjob_of(case, paused) == rayjob_of(case)


def test_the_image_is_in_the_teachers_digest_and_the_key_is_not(case: JobCase) -> None:
    known = build.digest_of(deployment_of(case))
    assert build.digest_of(deployment_of(case, runtime_image="other:1")) != known
    assert build.digest_of(deployment_of(case, network_policies=False)) != known
    assert build.digest_of(deployment_of(case, key_seed="another seed")) == known


def test_the_digest_does_not_depend_on_the_order_of_keys(case: JobCase) -> None:
    rayjob = rayjob_of(case)
    known = build.digest_of(rayjob)
    bare = {key: rayjob[key] for key in reversed(rayjob)}
    metadata = rayjob["metadata"]
    bare["metadata"] = metadata | {"annotations": {DOCUMENT_DIGEST: metadata["annotations"][DOCUMENT_DIGEST]}}
    assert digest(bare) == known


@pytest.mark.parametrize("case", cases().values(), ids=cases().keys())
def test_the_models_job_has_the_same_job_in_an_annotation_without_the_defaults(case: JobCase) -> None:
    annotations = build.models_job(case.job, case.settings)["spec"]["template"]["metadata"]["annotations"]
    *_, config = build.foundation(case.job, 1, case.models, None, case.settings)
    assert load_job(annotations["opd.dev/job"]) == load_job(config["data"]["opdjob.yaml"])
    assert "maxTokensPerGPU" not in annotations["opd.dev/job"], "a default"


def test_the_config_is_the_job_with_every_default_and_nothing_of_the_clusters_bookkeeping(case: JobCase) -> None:
    *_, config = build.foundation(case.job, 1, case.models, None, case.settings)
    text = config["data"]["opdjob.yaml"]
    assert "maxTokensPerGPU: 16384" in text
    assert "resourceVersion" not in text
    assert json.loads(config["data"]["models.json"])["models"].keys() == {"student", "teacher"}
