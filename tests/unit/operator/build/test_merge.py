"""A podTemplate over ours. What Kubernetes' own strategic merge does with the same input is written beside each case
where ours differs on purpose."""

from typing import Any

import pytest
from child_jobs import JobCase, cases, make_job, make_settings, pod_templates

from opd_api.documents import ModelsReport
from opd_operator import build
from opd_operator.build.merge import merge

CONTAINERS = {"containers": [{"name": "trainer", "image": "a", "command": ["x"]}]}
ENV = {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}
TABLE = [
    pytest.param({"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"b": 1, "c": 2}}, id="objects merge key by key"),
    pytest.param({"a": 1, "b": 2}, {"a": None}, {"b": 2}, id="null takes a key out"),
    pytest.param({}, {"a": {"b": None, "c": 1}}, {"a": {"c": 1}}, id="null in a new object leaves nothing behind"),
    pytest.param(
        CONTAINERS,
        {"containers": [{"name": "trainer", "image": "b"}]},
        {"containers": [{"name": "trainer", "image": "b", "command": ["x"]}]},
        id="containers merge by name",
    ),
    pytest.param(
        CONTAINERS,
        {"containers": [{"name": "sidecar"}]},
        {"containers": [*CONTAINERS["containers"], {"name": "sidecar"}]},
        id="a new container comes behind ours",
    ),
    pytest.param(
        {"command": ["opd", "serve"]}, {"command": ["sh"]}, {"command": ["sh"]}, id="a list without a key is replaced"
    ),
    pytest.param(
        ENV,
        {"env": [{"name": "A", "valueFrom": {"fieldRef": {}}}]},
        {"env": [{"name": "A", "valueFrom": {"fieldRef": {}}}, ENV["env"][1]]},
        id="a variable is replaced whole (Kubernetes would keep the value beside the reference)",
    ),
    pytest.param(
        {"volumes": [{"name": "tmp", "emptyDir": {}}]},
        {"volumes": [{"name": "tmp", "hostPath": {"path": "/x"}}]},
        {"volumes": [{"name": "tmp", "hostPath": {"path": "/x"}}]},
        id="a volume is replaced whole (kubectl sends $retainKeys for that)",
    ),
    pytest.param(
        {"volumeMounts": [{"mountPath": "/tmp", "name": "tmp"}]},
        {"volumeMounts": [{"mountPath": "/tmp", "subPath": "x"}, {"mountPath": "/y", "name": "y"}]},
        {"volumeMounts": [{"mountPath": "/tmp", "name": "tmp", "subPath": "x"}, {"mountPath": "/y", "name": "y"}]},
        id="mounts merge by path",
    ),
    pytest.param(
        {"ports": [{"containerPort": 1, "name": "a"}]},
        {"ports": [{"containerPort": 1, "hostPort": 2}]},
        {"ports": [{"containerPort": 1, "name": "a", "hostPort": 2}]},
        id="ports merge by containerPort",
    ),
    pytest.param(
        {"topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1}]},
        {"topologySpreadConstraints": [{"topologyKey": "host", "maxSkew": 1}]},
        {"topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1}, {"topologyKey": "host", "maxSkew": 1}]},
        id="spread constraints merge by topologyKey",
    ),
    pytest.param(
        {"tolerations": [{"key": "a"}]},
        {"tolerations": [{"key": "b"}, {"key": "a"}]},
        {"tolerations": [{"key": "a"}, {"key": "b"}]},
        id="tolerations are added (Kubernetes would replace)",
    ),
    pytest.param(
        {"envFrom": [{"secretRef": {"name": "hub"}}]},
        {"envFrom": [{"secretRef": {"name": "mine"}}]},
        {"envFrom": [{"secretRef": {"name": "hub"}}, {"secretRef": {"name": "mine"}}]},
        id="envFrom is added (Kubernetes would replace)",
    ),
    pytest.param(
        {"tolerations": [{"key": "a"}]},
        {"tolerations": [{"$patch": "replace"}, {"key": "b"}]},
        {"tolerations": [{"key": "b"}]},
        id="$patch: replace replaces a list",
    ),
    pytest.param(ENV, {"env": [{"$patch": "replace"}]}, {"env": []}, id="$patch: replace alone empties a list"),
    pytest.param(
        ENV,
        {"env": [{"$patch": "delete", "name": "A"}]},
        {"env": [ENV["env"][1]]},
        id="$patch: delete takes an item out",
    ),
    pytest.param(
        {"affinity": {"nodeAffinity": {"x": 1}}},
        {"affinity": {"$patch": "replace", "podAffinity": {"y": 1}}},
        {"affinity": {"podAffinity": {"y": 1}}},
        id="$patch: replace replaces an object",
    ),
    pytest.param(
        {"affinity": {"nodeAffinity": {"x": 1}}, "hostNetwork": True},
        {"affinity": {"$patch": "delete"}},
        {"hostNetwork": True},
        id="$patch: delete takes an object out",
    ),
    pytest.param({"env": []}, {"env": "text"}, {"env": "text"}, id="nonsense is left for the API server to refuse"),
    pytest.param(
        {"env": [{"name": "A"}]}, {"env": [{"nome": "B"}]}, {"env": [{"nome": "B"}]}, id="an item without its key"
    ),
    pytest.param({"env": [{"name": "A"}]}, {"env": [{"name": ["x"]}]}, {"env": [{"name": ["x"]}]}, id="an odd key"),
]


@pytest.mark.parametrize(("base", "patch", "want"), TABLE)
def test_a_template_merges_as_kubernetes_would(base: Any, patch: Any, want: Any) -> None:
    assert merge(base, patch) == want


@pytest.mark.parametrize("case", cases().values(), ids=cases().keys())
def test_an_empty_template_changes_nothing(case: JobCase) -> None:
    for template in pod_templates(case.children()).values():
        assert merge(template, {}) == template


def template_of(trainer_template: dict[str, Any]) -> dict[str, Any]:
    """The trainers' pod template with the user's over it."""
    return pod_templates(case_with(trainer_template).children())["trainer"]


def case_with(trainer_template: Any) -> JobCase:
    arithmetic = cases()["arithmetic"]
    document = {
        "apiVersion": "opd.dev/v1alpha1",
        "kind": "OPDJob",
        "metadata": {"name": "arithmetic"},
        "spec": arithmetic.job.spec.model_dump(mode="json", exclude_defaults=True),
    }
    document["spec"]["student"] |= {"trainers": {"podTemplate": trainer_template}}
    models: ModelsReport = arithmetic.models
    return JobCase(job=make_job(document), models=models, settings=make_settings())


def test_the_labels_we_find_pods_by_stay_ours() -> None:
    merged = template_of({"metadata": {"labels": {"opd.dev/job": "other", "opd.dev/attempt": "7", "team": "a"}}})
    assert merged["metadata"]["labels"]["opd.dev/job"] == "arithmetic"
    assert merged["metadata"]["labels"]["opd.dev/attempt"] == "1"
    assert merged["metadata"]["labels"]["team"] == "a"


def test_a_template_can_name_another_image() -> None:
    merged = template_of({"spec": {"containers": [{"name": "trainer", "image": "mine:1"}]}})
    assert merged["spec"]["containers"][0]["image"] == "mine:1"


def test_the_main_container_stays_the_first() -> None:
    sidecar = {"name": "a-sidecar", "image": "s"}
    merged = template_of({"spec": {"containers": [sidecar, {"name": "trainer", "tty": True}]}})
    assert [each["name"] for each in merged["spec"]["containers"]] == ["trainer", "a-sidecar"]


BAD_TEMPLATES = [
    pytest.param({"spec": "x"}, ".spec", id="a spec that is text"),
    pytest.param({"spec": None}, ".spec", id="no spec"),
    pytest.param({"metadata": []}, ".metadata", id="metadata that is a list"),
    pytest.param({"metadata": {"labels": "x"}}, ".metadata.labels", id="labels that are text"),
    pytest.param({"metadata": {"annotations": []}}, ".metadata.annotations", id="annotations that are a list"),
    pytest.param({"spec": {"containers": {}}}, ".spec.containers", id="containers that are an object"),
    pytest.param({"spec": {"containers": ["x"]}}, ".spec.containers", id="a container that is text"),
    pytest.param({"spec": {"containers": [{"image": "x"}]}}, ".spec.containers", id="a container without a name"),
    pytest.param({"spec": {"containers": None}}, ".spec.containers", id="containers taken out"),
    pytest.param(
        {"spec": {"containers": [{"$patch": "delete", "name": "trainer"}]}}, ".spec.containers", id="ours deleted"
    ),
    pytest.param(
        {"spec": {"containers": [{"$patch": "replace"}, {"name": "a"}]}}, ".spec.containers", id="ours replaced"
    ),
]


@pytest.mark.parametrize(("template", "path"), BAD_TEMPLATES)
def test_a_template_that_leaves_no_pod_is_said_with_its_path(template: dict[str, Any], path: str) -> None:
    [problem] = build.template_problems(case_with(template).job)
    assert problem.path == f"spec.student.trainers.podTemplate{path}"
    assert problem.hint


@pytest.mark.parametrize("case", cases().values(), ids=cases().keys())
def test_good_templates_have_no_problem(case: JobCase) -> None:
    assert build.template_problems(case.job) == []
