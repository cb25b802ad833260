"""What containers ask of their nodes, against numbers worked out by hand."""

from typing import Any

import pytest
from child_jobs import GIB, JobCase, cases, make_settings, pod_templates

from opd_api.spec import Resources
from opd_operator.build.resources import gpu_memory_affinity, memory, sized, small

CUDA = cases()["megatron"].job
CPU = cases()["arithmetic"].job


def user(requests: dict[str, Any] | None = None, limits: dict[str, Any] | None = None) -> Resources:
    return Resources(requests=requests or {}, limits=limits or {})


SIZED = [
    pytest.param(
        CUDA,
        user(),
        {"requests": {"cpu": "8", "memory": "6Gi", "nvidia.com/gpu": "2"}, "limits": {"nvidia.com/gpu": "2"}},
        id="CUDA: by the plan, memory without a limit",
    ),
    pytest.param(CPU, user(), {"requests": {"cpu": "250m", "memory": "6Gi"}}, id="CPU: no GPUs"),
    pytest.param(
        CPU,
        user({"cpu": 2}),
        {"requests": {"memory": "6Gi", "cpu": 2}},
        id="a request of the user wins for its key alone",
    ),
    pytest.param(
        CPU,
        user(limits={"memory": "4Gi"}),
        {"requests": {"cpu": "250m"}, "limits": {"memory": "4Gi"}},
        id="a limit alone is its own request: ours would be above it",
    ),
    pytest.param(
        CUDA,
        user(limits={"nvidia.com/gpu": 4}),
        {"requests": {"cpu": "8", "memory": "6Gi", "nvidia.com/gpu": "4"}, "limits": {"nvidia.com/gpu": "4"}},
        id="GPUs of the user are both request and limit",
    ),
]


@pytest.mark.parametrize(("job", "resources", "want"), SIZED)
def test_the_user_wins_key_by_key(job: Any, resources: Resources, want: dict[str, Any]) -> None:
    assert sized(job, resources, 2, 3 * GIB) == want


@pytest.mark.parametrize(("job", "cpu"), [(CUDA, "1"), (CPU, "100m")])
def test_a_pod_without_processes_of_the_plan_is_small(job: Any, cpu: str) -> None:
    assert small(job, user(), 2 * GIB) == {"requests": {"cpu": cpu, "memory": "2Gi"}}


@pytest.mark.parametrize(("size", "want"), [(1, "256Mi"), (GIB, "1Gi"), (GIB + 1, "1280Mi")])
def test_memory_is_rounded_up_to_256_mib(size: int, want: str) -> None:
    assert memory(size) == want


def test_a_pod_goes_where_a_gpu_has_the_memory_it_needs() -> None:
    """Gt n is at least n + 1."""
    affinity = gpu_memory_affinity(make_settings(), 40 * GIB)
    [term] = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    [wanted] = term["matchExpressions"]
    assert wanted == {"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": [str(40 * 1024 - 1)]}
    assert gpu_memory_affinity(make_settings(), 0) == {}
    assert gpu_memory_affinity(make_settings(gpu_memory_label=""), 40 * GIB) == {}


def test_only_pods_with_gpus_ask_for_a_node_with_their_memory() -> None:
    for name, want in (("everything", {"trainer", "engine", "teacher"}), ("arithmetic", set())):
        pods = pod_templates(cases()[name].children())
        assert {role for role, pod in pods.items() if "nodeAffinity" in pod["spec"].get("affinity", {})} == want


def test_trainers_rather_have_nodes_of_their_own() -> None:
    pods = pod_templates(cases()["everything"].children())
    assert {role for role, pod in pods.items() if "podAntiAffinity" in pod["spec"].get("affinity", {})} == {"trainer"}


def test_a_teacher_of_unknown_shape_still_gets_its_gpus() -> None:
    case = cases()["everything"]
    models = case.models.model_copy(update={"models": {"student": case.models.models["student"]}})
    pods = pod_templates(JobCase(job=case.job, models=models, settings=case.settings).children())
    container = pods["teacher"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert "affinity" not in pods["teacher"]["spec"]
