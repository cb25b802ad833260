"""Raw objects, as the API server gives them, and the facts that are left of them."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from opd_operator.kube.facts import ConfigText, facts_of, job_key
from opd_operator.objects import JobKey, Kind
from opd_operator.observed import DeploymentFacts, ModelsJobFacts, PodFacts, RayClusterFacts, RayJobFacts

type Make = Callable[..., dict[str, Any]]
BORN = datetime(2026, 1, 1, tzinfo=UTC)


def container(name: str = "ray", **parts: Any) -> dict[str, Any]:
    return {"name": name, "ready": False, "restartCount": 0, **parts}


POD_STATES = [
    pytest.param(
        {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [container()]},
        {"phase": "Running", "ready": True},
        id="a pod that runs",
    ),
    pytest.param(
        {
            "phase": "Pending",
            "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
            ],
        },
        {"unschedulable": "0/3 nodes"},
        id="a pod that finds no node",
    ),
    pytest.param(
        {"containerStatuses": [container(state={"waiting": {"reason": "ImagePullBackOff", "message": "back-off"}})]},
        {"waiting_reason": "ImagePullBackOff", "waiting_message": "back-off"},
        id="a container whose image is not there",
    ),
    pytest.param(
        {
            "initContainerStatuses": [container("init", state={"waiting": {"reason": "ErrImagePull"}})],
            "containerStatuses": [container(state={"waiting": {"reason": "PodInitializing"}})],
        },
        {"waiting_reason": "ErrImagePull"},
        id="an init container waits before the others",
    ),
    pytest.param(
        {
            "phase": "Running",
            "containerStatuses": [
                container("sidecar", state={"terminated": {"reason": "Completed", "exitCode": 0}}),
                container(restartCount=2, lastState={"terminated": {"reason": "OOMKilled", "exitCode": 137}}),
            ],
        },
        {"terminated_reason": "OOMKilled", "exit_code": 137, "restarts": 2},
        id="the main container was killed and runs again",
    ),
    pytest.param(
        {"phase": "Failed", "reason": "Evicted", "message": "the node was low on memory"},
        {"phase": "Failed", "terminated_reason": "Evicted"},
        id="an evicted pod has no containers",
    ),
]


@pytest.mark.parametrize(("status", "want"), POD_STATES)
def test_a_pod(child_body: Make, status: dict[str, Any], want: dict[str, Any]) -> None:
    spec = {"containers": [{"name": "ray"}, {"name": "sidecar"}], "nodeName": "n1"}
    facts = facts_of(Kind.POD, child_body("a", spec=spec, status=status))
    assert isinstance(facts, PodFacts)
    assert (facts.role, facts.attempt, facts.node, facts.scheduled) == ("trainer", 1, "n1", True)
    assert {name: getattr(facts, name) for name in want} == want


@pytest.mark.parametrize(
    ("role", "reason", "said", "message", "line"),
    [
        pytest.param("models", "Completed", "{}", "{}", "", id="a models pod's last words are a document"),
        pytest.param("models", "Error", "{}", "{}", "", id="and so they are when it failed"),
        pytest.param(
            "models", "StartError", "runc: no opd", "", "runc: no opd", id="what the container runtime says is none"
        ),
        pytest.param(
            "trainer",
            "Completed",
            "a long story\n \x1b[31mno memory left\x1b[0m\n\n",
            "",
            "no memory left",
            id="of other pods the last line is kept",
        ),
    ],
)
def test_last_words(child_body: Make, role: str, reason: str, said: str, message: str, line: str) -> None:
    ended = {"terminated": {"reason": reason, "exitCode": 0, "message": said}}
    status = {"phase": "Succeeded", "containerStatuses": [container(state=ended)]}
    facts = facts_of(Kind.POD, child_body("a", role=role, spec={"containers": [{"name": "ray"}]}, status=status))
    assert isinstance(facts, PodFacts) and (facts.termination_message, facts.last_words) == (message, line)


def test_a_pod_that_was_only_just_made_says_little(child_body: Make) -> None:
    facts = facts_of(Kind.POD, child_body("a", metadata={"labels": {"opd.dev/job": "demo"}}))
    assert isinstance(facts, PodFacts)
    assert (facts.phase, facts.role, facts.attempt, facts.node) == ("Pending", "", None, "")


def test_a_rayjob(child_body: Make) -> None:
    status = {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed", "reason": "AppFailed", "rayClusterName": "c"}
    body = child_body("demo-a1", spec={"suspend": True}, status=status, metadata={"deletionTimestamp": "now"})
    body["metadata"]["annotations"]["opd.dev/document"] = "0.1.0/fedcba9876543210"
    assert facts_of(Kind.RAY_JOB, body) == RayJobFacts(
        name="demo-a1",
        owner_uid="job-uid",
        attempt=1,
        document="0.1.0/fedcba9876543210",
        job_status="FAILED",
        deployment_status="Failed",
        reason="AppFailed",
        cluster_name="c",
        suspended=True,
        deleting=True,
    )


def test_a_raycluster(child_body: Make) -> None:
    status = {
        "state": "ready",
        "desiredWorkerReplicas": 2,
        "readyWorkerReplicas": 1,
        "conditions": [
            {"type": "HeadPodReady", "status": "True"},
            {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"},
        ],
    }
    assert facts_of(Kind.RAY_CLUSTER, child_body("c", status=status)) == RayClusterFacts(
        name="c", attempt=1, head_ready=True, desired_workers=2, ready_workers=1, replica_failure="exceeded quota"
    )


def test_a_teachers_deployment(child_body: Make) -> None:
    status = {"readyReplicas": 1, "conditions": [{"type": "ReplicaFailure", "status": "False", "message": "old"}]}
    assert facts_of(Kind.DEPLOYMENT, child_body("t", spec={"replicas": 2}, status=status)) == DeploymentFacts(
        name="t", owner_uid="job-uid", teacher="teacher", digest="0123456789abcdef", replicas=2, ready_replicas=1
    )


def test_a_models_job_that_failed(child_body: Make) -> None:
    failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "too often"}
    body = child_body("demo-models", status={"conditions": [failed]})
    assert facts_of(Kind.JOB, body) == ModelsJobFacts(owner_uid="job-uid", created=BORN, failed="too often")


def test_a_models_job_in_a_queue(child_body: Make) -> None:
    body = child_body("demo-models", spec={"suspend": True}, status={"conditions": [suspended("True")]})
    assert facts_of(Kind.JOB, body) == ModelsJobFacts(owner_uid="job-uid", created=BORN, suspended=True)
    body = child_body("demo-models", spec={"suspend": False}, status={"conditions": [suspended("False")]})
    assert facts_of(Kind.JOB, body) == ModelsJobFacts(
        owner_uid="job-uid", created=BORN, resumed=datetime(2026, 1, 1, 0, 5, tzinfo=UTC)
    )


def suspended(status: str) -> dict[str, Any]:
    return {"type": "Suspended", "status": status, "lastTransitionTime": "2026-01-01T00:05:00Z"}


def test_a_config_map_of_another_name_says_nothing(child_body: Make) -> None:
    assert facts_of(Kind.CONFIG_MAP, child_body("demo-notes", data={"progress.json": "{}"})) is None
    assert isinstance(facts_of(Kind.CONFIG_MAP, child_body("demo-config")), ConfigText)


def test_an_object_without_our_label_is_nobodys(child_body: Make) -> None:
    assert job_key(Kind.POD, child_body("a", metadata={"labels": None})) is None
    assert job_key(Kind.POD, child_body("a")) == JobKey("ml", "demo")
