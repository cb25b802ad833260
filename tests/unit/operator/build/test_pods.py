"""What holds for every pod of every kind of job: names that fit, restricted security, no secret in the open, volumes
that are there. That Kubernetes agrees is asked in tests/controlplane/test_children.py."""

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from child_jobs import JobCase, cases, documents, make_job, pod_templates

from opd_api.names import JOB_NAME_LENGTH, TEACHER_NAME_LENGTH
from opd_operator import build
from opd_operator.objects import Manifest

CASES = cases()
PODS = [
    pytest.param(template, id=f"{name}, {role}")
    for name, case in CASES.items()
    for role, template in pod_templates(case.children()).items()
]
each_pod = pytest.mark.parametrize("pod", PODS)
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())

DNS_LABEL = re.compile("[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL_VALUE = re.compile("([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
RESTRICTED_VOLUMES = {"configMap", "downwardAPI", "emptyDir", "persistentVolumeClaim", "secret", "projected"}


def containers(pod: Manifest) -> list[dict[str, Any]]:
    return [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]


def variables(pod: Manifest, container: int = 0) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in containers(pod)[container]["env"]}


@each_pod
def test_a_pod_fits_the_restricted_standard(pod: Manifest) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/, Restricted."""
    spec = pod["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] != 0
    assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    for volume in spec["volumes"]:
        assert volume.keys() - {"name"} <= RESTRICTED_VOLUMES
    for container in containers(pod):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert not context.get("privileged")
        assert not any("hostPort" in port for port in container.get("ports", []))


@each_pod
def test_a_pods_own_container_is_the_first_and_cannot_write_its_root(pod: Manifest) -> None:
    container = containers(pod)[0]
    assert container["name"] == pod["metadata"]["labels"]["opd.dev/role"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


@each_pod
def test_every_mount_has_its_volume_and_every_volume_a_mount(pod: Manifest) -> None:
    volumes = [volume["name"] for volume in pod["spec"]["volumes"]]
    mounts = [mount for container in containers(pod) for mount in container.get("volumeMounts", [])]
    paths = [mount["mountPath"] for mount in mounts]
    assert len(set(volumes)) == len(volumes)
    assert len(set(paths)) == len(paths)
    assert {mount["name"] for mount in mounts} == set(volumes)


@each_pod
def test_service_links_are_off_and_only_the_head_has_a_token(pod: Manifest) -> None:
    assert pod["spec"]["enableServiceLinks"] is False
    is_head = pod["metadata"]["labels"]["opd.dev/role"] == "head"
    assert pod["spec"]["automountServiceAccountToken"] is is_head


@each_pod
def test_a_variable_is_set_once(pod: Manifest) -> None:
    names = [each["name"] for each in containers(pod)[0]["env"]]
    assert len(set(names)) == len(names)


@each_case
def test_the_key_is_nowhere_but_in_its_secret(case: JobCase) -> None:
    children = case.children()
    keys = [child["data"]["api-key"] for child in children if child["kind"] == "Secret"]
    others = json.dumps([child for child in children if child["kind"] != "Secret"])
    for key in keys:
        assert key not in others
        assert base64.b64decode(key).decode() not in others
    assert case.settings.key_seed not in json.dumps(children)


def test_a_key_belongs_to_one_life_of_one_job_and_one_teacher() -> None:
    def keys(uid: str, teacher: str) -> list[str]:
        document = next(each for each in documents() if each["metadata"]["name"] == "arithmetic")
        document["spec"]["teachers"][0]["name"] = teacher
        case = CASES["arithmetic"]
        models = case.models.model_copy(update={"models": {"student": case.models.models["student"]}})
        again = JobCase(job=make_job(document, uid=uid), models=models, settings=case.settings)
        return [child["data"]["api-key"] for child in again.children() if child["kind"] == "Secret"]

    found = [keys("a", "t"), keys("a", "u"), keys("b", "t")]
    assert len({key for [key] in found}) == 3
    assert keys("a", "t") == keys("a", "t")


LONGEST = {
    "apiVersion": "opd.dev/v1alpha1",
    "kind": "OPDJob",
    "metadata": {"name": "j" * JOB_NAME_LENGTH},
    "spec": {
        "student": {"model": f"pvc://{'c' * 253}/student"},
        "teachers": [{"name": "t" * TEACHER_NAME_LENGTH, "mode": "SGLang", "model": "pvc://dotted.claim-name/x"}],
        "data": {"prompts": [{"uri": "pvc://prompts/x.jsonl"}]},
        "steps": 1,
    },
}


@pytest.fixture(scope="module")
def longest() -> list[Manifest]:
    summary = CASES["arithmetic"].models
    models = summary.model_copy(update={"models": {"student": summary.models["student"]}})
    case = JobCase(job=make_job(LONGEST), models=models, settings=CASES["arithmetic"].settings, attempt=99_999)
    return case.children()


def test_the_models_pod_is_shaped_like_the_head_and_keeps_what_it_needs() -> None:
    container = {"name": "head", "volumeMounts": [{"name": "mine", "mountPath": "/mine"}]}
    template = {
        "metadata": {"annotations": {"team": "a", "opd.dev/job": "forged"}, "labels": {"opd.dev/role": "head"}},
        "spec": {
            "$patch": "replace",
            "containers": [container],
            "initContainers": [{"name": "before", "image": "x"}],
            "volumes": [{"name": "mine", "emptyDir": {}}],
            "restartPolicy": "Always",
            "tolerations": [{"operator": "Exists"}],
            "securityContext": {"fsGroup": 2000},
        },
    }
    head = {"podTemplate": template, "resources": {"limits": {"memory": "3Gi"}}}
    document = LONGEST | {"spec": LONGEST["spec"] | {"head": head}}
    pod = build.models_job(make_job(document), CASES["arithmetic"].settings)["spec"]["template"]
    spec = pod["spec"]
    assert [each["name"] for each in spec["containers"]] == ["models"] and "initContainers" not in spec
    assert spec["containers"][0]["resources"] == {"requests": {"cpu": "1"}, "limits": {"memory": "3Gi"}}
    assert spec["restartPolicy"] == "Never" and "mine" not in [each["name"] for each in spec["volumes"]]
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert (spec["securityContext"]["fsGroup"], spec["securityContext"]["runAsNonRoot"]) == (2000, True)
    assert pod["metadata"]["labels"]["opd.dev/role"] == "models"
    assert pod["metadata"]["annotations"]["team"] == "a" and pod["metadata"]["annotations"]["opd.dev/job"] != "forged"


def test_names_of_the_longest_job_fit(longest: list[Manifest]) -> None:
    for child in longest:
        name = child["metadata"]["name"]
        assert DNS_LABEL.fullmatch(name)
        assert len(name) <= (47 if child["kind"] == "RayJob" else 63)
    for pod in pod_templates(longest).values():
        for volume in pod["spec"]["volumes"]:
            assert DNS_LABEL.fullmatch(volume["name"]) and len(volume["name"]) <= 63


def test_labels_of_the_longest_job_fit(longest: list[Manifest]) -> None:
    for value in label_values(longest):
        assert len(value) <= 63
        assert LABEL_VALUE.fullmatch(value)


def label_values(node: Any) -> Iterator[str]:
    """Of every `labels` and `matchLabels` anywhere."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("labels", "matchLabels"):
                yield from value.values()
            else:
                yield from label_values(value)
    elif isinstance(node, list):
        for item in node:
            yield from label_values(item)


@each_case
def test_every_child_belongs_to_the_job_and_goes_with_it(case: JobCase) -> None:
    for child in case.children():
        [owner] = child["metadata"]["ownerReferences"]
        assert owner["uid"] == case.job.metadata.uid
        assert owner["controller"] is True
        assert child["metadata"]["namespace"] == case.job.metadata.namespace


@each_case
def test_manifests_are_plain_data(case: JobCase) -> None:
    """What JSON and YAML both bring back as it was."""
    children = case.children()
    assert json.loads(json.dumps(children)) == children
    assert list(yaml.safe_load_all(yaml.safe_dump_all(children))) == children
