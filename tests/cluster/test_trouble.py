"""What keeps a job from training is told by name while it lasts, and ends as documented when nobody helps."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cluster_job import ClusterJob, claim_folder
from cluster_namespace import Namespace
from waiting import wait_until

pytestmark = pytest.mark.timeout(900)

ARITHMETIC = "pvc://opd-examples/arithmetic"
SMALL_CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "small"},
    "spec": {
        "storageClassName": "small",
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "512Ki"}},
    },
}


@pytest.fixture
def apply(namespace: Namespace) -> Iterator[Callable[..., ClusterJob]]:
    """A job that trains on the arithmetic example; gone after the test."""
    jobs: list[ClusterJob] = []

    def apply(name: str, teacher: dict[str, Any], **spec: Any) -> ClusterJob:
        document = {
            "apiVersion": "opd.dev/v1alpha1",
            "kind": "OPDJob",
            "metadata": {"name": name},
            "spec": {
                "device": "CPU",
                "student": {"model": f"{ARITHMETIC}/models/student"},
                "teachers": [{"model": f"{ARITHMETIC}/models/teacher", **teacher}],
                "data": {"prompts": [{"uri": f"{ARITHMETIC}/prompts/train.jsonl"}], "applyChatTemplate": False},
                "rollout": {"batchSize": 8, "samplesPerPrompt": 4, "maxPromptTokens": 8, "maxResponseTokens": 5},
                "checkpoint": {"claimName": "opd-runs"},
                "steps": 10,
                **spec,
            },
        }
        namespace.apply(document)
        jobs.append(ClusterJob(namespace, name))
        return jobs[-1]

    yield apply
    for job in jobs:
        namespace.kubectl("delete", "opdjob", job.name)


def test_a_teacher_image_that_does_not_exist(
    apply: Callable[..., ClusterJob], record_property: Callable[[str, object], None]
):
    container = {"name": "teacher", "image": "registry.invalid/teacher:0"}
    job = apply("image", {"mode": "SGLang", "sglang": {"podTemplate": {"spec": {"containers": [container]}}}})
    waiting = wait_until(lambda: _waiting(job), 180, lambda: f"the kubelet's words: {job.pods('teacher')}")
    known = time.monotonic()
    job.wait(lambda status: "registry.invalid/teacher:0" in status.get("message", ""), f"{waiting} is told")
    record_property("kubelet's words to the job's message, seconds (goal 10)", round(time.monotonic() - known, 1))
    condition = job.condition("TeacherReady")
    assert (condition["status"], condition["reason"]) == ("False", "ImagePullFailed")


@pytest.mark.full
def test_a_teacher_that_never_gets_ready(apply: Callable[..., ClusterJob]):
    """Its server does not know an argument; `startupDeadlineSeconds` ends the wait."""
    teacher = {"mode": "SGLang", "sglang": {"args": ["--no-such-option"]}}
    job = apply("never-ready", teacher, runPolicy={"startupDeadlineSeconds": 120})
    job.wait(lambda status: "--no-such-option" in status.get("message", ""), "the server's last words are told")
    status = wait_until(lambda: _failed(job), 240, lambda: f"the deadline: {job.status()}")
    assert job.condition("Failed")["reason"] == "StartupDeadlineExceeded"
    assert "startupDeadlineSeconds" in status.get("message", "") and "teacher" in status.get("message", "")


@pytest.mark.full
def test_a_full_volume(apply: Callable[..., ClusterJob], namespace: Namespace):
    namespace.apply(SMALL_CLAIM)
    job = apply("full", {"mode": "Megatron"}, checkpoint={"claimName": "small"})
    wait_until(lambda: claim_folder(namespace, "small"), 60, "the claim has its volume")
    status = wait_until(lambda: _failed(job), 400, lambda: f"a full volume is told: {job.status()}")
    assert "No space left" in status.get("message", "") and "small" in status.get("message", "")
    assert job.condition("Failed")["reason"] == "UserError"


def _waiting(job: ClusterJob) -> str:
    """Why the kubelet cannot start the teacher; empty while it tries."""
    states = [each["state"] for pod in job.pods("teacher") for each in pod["status"].get("containerStatuses", ())]
    reasons = [state["waiting"]["reason"] for state in states if "waiting" in state]
    return next((reason for reason in reasons if "Image" in reason), "")


def _failed(job: ClusterJob) -> dict[str, Any]:
    status = job.status()
    return status if status.get("phase") == "Failed" else {}
