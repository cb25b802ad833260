"""The plan is total and pure: no nonsense of an old operator, a forged mailbox or half-deleted children stops it."""

import random
from dataclasses import replace

import pytest
from child_jobs import UID, make_summary
from operator_makers import (
    MODELS,
    NOW,
    SETTINGS,
    ago,
    make_cluster,
    make_config,
    make_deployment,
    make_job,
    make_mailbox,
    make_models_job,
    make_observed,
    make_pod,
    make_progress,
    make_rayjob,
    stored_models,
)

from opd_api.conditions import REASONS, ConditionType
from opd_api.documents import DocumentError, ModelsReport, Progress, Request
from opd_api.errors import Problem
from opd_api.status import Columns, Condition, Status, StatusProgress
from opd_operator.observed import Observed
from opd_operator.plan import plan
from opd_operator.plan.times import stamp

OBSERVATIONS = 1500
TIMES = (
    "",
    "soon",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59Z",
    stamp(NOW),
    stamp(ago(40)),
    stamp(ago(4000)),
    stamp(ago(-90)),
)
ABSURD = make_summary(
    **dict.fromkeys(
        ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim", "ffn_hidden_size"), 2**31 - 1
    )
)
OWNERS = (UID, UID, UID, "", "another")
JOBS = tuple(
    make_job(spec, **teacher)
    for spec, teacher in (
        ({}, {}),
        ({"suspend": True}, {}),
        ({"steps": 1}, {"mode": "Megatron"}),
        ({"scheduling": {"queueName": "q"}}, {"model": "", "sglang": {"endpoint": "http://t:1"}}),
        ({"checkpoint": {"claimName": ""}, "head": {"podTemplate": {"spec": []}}}, {}),
        ({"runPolicy": {"backoffLimit": 0, "activeDeadlineSeconds": 1, "ttlSecondsAfterFinished": 0}}, {"name": "t"}),
    )
)


def some(rng: random.Random, maker, most: int = 3) -> tuple:
    return tuple(maker(rng) for _ in range(rng.randint(0, most)))


def some_condition(rng: random.Random) -> Condition:
    kind = rng.choice((*ConditionType, "Ancient"))
    reasons = REASONS.get(kind, ()) or ("Once",)
    return Condition(
        type=kind,
        status=rng.choice(("True", "False", "Unknown")),
        reason=rng.choice((*reasons, "Forgotten")),
        last_transition_time=rng.choice(TIMES),
    )


def some_status(rng: random.Random) -> Status:
    """Of an older operator, or of nobody. That no type is there twice is the API server's work."""
    attempt = rng.choice((None, 1, 2, 3, 40_000))
    return Status(
        observed_generation=rng.choice((None, 0, 5)),
        attempt=attempt,
        attempt_start_time=rng.choice((None, *TIMES)),
        retries=rng.choice((None, 0, 3, 2**31 - 2)),
        start_time=rng.choice((None, *TIMES)),
        completion_time=rng.choice((None, None, *TIMES)),
        ray_job_name=rng.choice((None, f"job-a{attempt}", "other")),
        progress=rng.choice((None, StatusProgress(), StatusProgress(step=7, last_report_time=rng.choice(TIMES)))),
        columns=rng.choice((None, Columns(kl="x"))),
        conditions=tuple({each.type: each for each in some(rng, some_condition, 8)}.values()),
    )


def some_progress(rng: random.Random) -> Progress | DocumentError | None:
    error = {
        "actor": rng.choice(("User", "Infrastructure")),
        "reason": rng.choice(("SameAsStudent", "x")),
        "message": "",
    }
    return rng.choice(
        (
            None,
            DocumentError(reason=rng.choice(("TooLarge", "Unreadable")), message="é" * 5000),
            make_progress(
                rng.choice((1, 2, 3)),
                rng.choice(("Starting", "Training", "Stopped", "Succeeded", "Failed")),
                step=rng.choice((0, 7, 2**31 - 1)),
                total_steps=rng.choice((0, 1, 300)),
                time=rng.choice(TIMES),
                trend=rng.choice((None, "Spike")),
                metrics={
                    "opd/reverse_kl": rng.choice((-1.7e308, 0.0, 1.7e308)),
                    "time/left": 1e308,
                    "reward/raw": -1e-320,
                },
                error=rng.choice((None, error)),
                message="m" * 4096,
            ),
        )
    )


def some_observation(rng: random.Random) -> Observed:
    owner = lambda: rng.choice(OWNERS)  # noqa: E731
    job = rng.choice((*JOBS, None))
    request = rng.choice(
        (None, Request(attempt=9, stop="Evict", time="x"), DocumentError(reason="Unreadable", message=""))
    )
    absurd = ModelsReport(models={"student": ABSURD, "teacher": ABSURD})
    report = rng.choice(
        (None, MODELS, ModelsReport(), absurd, stored_models(job or JOBS[0]), stored_models(job or JOBS[0], absurd))
    )
    observed = make_observed(
        deleting=rng.random() < 0.05,
        problems=some(rng, lambda _: Problem(path="spec", message="is odd")),
        status=some_status(rng),
        kuberay=rng.random() < 0.85,
        rejection=rng.choice(("", "", "no\n" * 3000)),
        config=rng.choice((None, make_config(models=report, owner_uid=owner()))),
        mailbox=rng.choice((None, replace(make_mailbox(some_progress(rng), request), owner_uid=owner()))),
        models_job=rng.choice(
            (None, make_models_job(owner_uid=owner(), succeeded=rng.random() < 0.5, failed=rng.choice(("", "x"))))
        ),
        rayjobs=some(
            rng,
            lambda r: make_rayjob(
                r.choice((1, 2, 3, 0)),
                owner_uid=owner(),
                job_status=r.choice(("", "RUNNING", "FAILED", "SUCCEEDED", "NEW WORD")),
                deployment_status=r.choice(("", "Running", "ValidationFailed", "Complete", "NEW WORD")),
                deleting=r.random() < 0.3,
                suspended=r.random() < 0.2,
                cluster_name=r.choice(("", "c" * 400)),
            ),
        ),
        rayclusters=some(
            rng, lambda r: make_cluster(r.choice((1, 2)), head_ready=r.random() < 0.5, deleting=r.random() < 0.3)
        ),
        deployments=some(rng, lambda r: make_deployment(owner_uid=owner(), name=r.choice(("job-teacher", "job-old")))),
        pods=some(
            rng,
            lambda r: make_pod(
                r.choice(("head", "trainer", "engine", "teacher", "models", "stranger")),
                attempt=r.choice((None, 1, 2, 0)),
                phase=r.choice(("Pending", "Running", "Failed", "Unknown")),
                ready=r.random() < 0.5,
                waiting_reason=r.choice(("", "ErrImagePull", "CrashLoopBackOff", "NewReason")),
                terminated_reason=r.choice(("", "OOMKilled")),
                termination_message=r.choice(("", "{", "é", "{}", MODELS.model_dump_json(), absurd.model_dump_json())),
                created=r.choice((ago(5), ago(4000))),
            ),
            6,
        ),
    )
    return replace(observed, job=job)


@pytest.mark.parametrize("hundreds", range(OBSERVATIONS // 500))
def test_no_observation_stops_the_plan(hundreds):
    for seed in range(500 * hundreds, 500 * hundreds + 500):
        observed = some_observation(random.Random(seed))
        try:
            decision = plan(observed, SETTINGS, NOW)
            again = plan(observed, SETTINGS, NOW)
        except Exception as error:
            raise AssertionError(f"observation {seed}") from error
        assert decision == again, f"observation {seed}: not pure"
        holds(observed, decision, seed)


def holds(observed: Observed, decision, seed: int) -> None:
    """What a plan says can be written, and is safe whatever it is based on."""
    status = decision.status
    assert Status.model_validate(status.model_dump()) == status, f"observation {seed}"
    types = [each.type for each in status.conditions]
    ended = {each.type: each for each in observed.status.conditions if each.status == "True"}.keys() & {
        "Complete",
        "Failed",
    }
    if not observed.deleting:
        assert len(set(types)) == len(types), f"observation {seed}: a type twice"
    if ended:
        assert status.conditions == observed.status.conditions, f"observation {seed}: a terminal state changed"
        assert not decision.apply, f"observation {seed}: something is made of a job that has ended"
    if decision.fence is not None:
        assert [each["kind"] for each in decision.apply][-1] == "RayJob"
        mine = [each for each in observed.rayjobs if each.owner_uid == UID]
        ray_pods = [pod for pod in observed.pods if pod.role in ("head", "trainer", "engine")]
        assert not mine and not ray_pods, f"observation {seed}: an attempt beside another"
    assert len([each for each in decision.apply if each["kind"] == "RayJob"]) == (decision.fence is not None)
