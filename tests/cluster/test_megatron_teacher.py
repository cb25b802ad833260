"""The arithmetic job with its teacher in the trainers, in pods: suspended and resumed in CI, every fault in full."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from cluster_job import START_SECONDS, ClusterJob, apply
from cluster_namespace import Namespace
from waiting import wait_until
from witness import Witness, watched

from opd_api import names

from .conftest import EXAMPLES

pytestmark = pytest.mark.timeout(2400)

JOB_FILE = EXAMPLES / "arithmetic" / "opdjob-megatron-teacher.yaml"
CHECKPOINT_STEPS = 20
STEPS_BEFORE = 25
"""Of an attempt, before it is disturbed: a checkpoint is there."""
HOG = "head -c 5632M /dev/zero >/dev/shm/hog"
"""Leaves the container less than its trainer has, and belongs to no process: so the trainer is the largest and goes."""

type Fault = Callable[[ClusterJob], None]


def suspend_and_resume(job: ClusterJob) -> None:
    job.edit(suspend=True)
    job.wait_for_phase("Suspended")
    wait_until(lambda: not _pods(job), 120, lambda: f"no pod is left of a suspended job: {_pods(job)}")
    job.edit(suspend=False)


def trainer_pod(job: ClusterJob) -> None:
    job.kill_pod("trainer")


def evicted_trainer(job: ClusterJob) -> None:
    """As a drained node does it: with the grace that the pod asks for."""
    job.namespace.kubectl("delete", "pod", job.pod("trainer"), "--wait=false")


def head_pod(job: ClusterJob) -> None:
    job.kill_pod("head")


def out_of_memory(job: ClusterJob) -> None:
    """The exec ends with the container it is in."""
    job.execute("trainer", "bash", "-c", f"{HOG} 2>/dev/null &")


@dataclass(frozen=True, slots=True)
class Finished:
    """`status` of the end."""

    job: ClusterJob
    status: dict[str, Any]
    witness: Witness


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(((suspend_and_resume,), 0), id="suspended"),
        pytest.param(
            ((trainer_pod, evicted_trainer, head_pod, out_of_memory, suspend_and_resume), 3),
            id="every fault",
            marks=pytest.mark.full,
        ),
    ],
)
def finished(request: pytest.FixtureRequest, namespace: Namespace) -> Finished:
    faults, retries = request.param
    job = apply(namespace, JOB_FILE, _spec(steps=120 + 60 * retries))
    with watched(job, with_teacher_pods=False) as witness:
        step = 0
        for attempt, fault in enumerate(faults, start=1):
            job.wait_for_step(step + STEPS_BEFORE, START_SECONDS)
            fault(job)
            job.wait(lambda status, old=attempt: status["attempt"] > old, "another attempt", START_SECONDS)
            step = job.wait_for_step(1, START_SECONDS)["progress"]["step"]
        status = job.wait_for_phase("Succeeded", START_SECONDS)
    assert status.get("retries", 0) == retries, witness.story()
    return Finished(job, status, witness)


def test_the_student_closes_in_on_its_teacher(finished: Finished):
    distillation = finished.status["distillation"]
    assert distillation["initialReverseKL"] >= 5 * distillation["reverseKL"]
    assert finished.status["evaluation"]["passAt1"] >= 0.9


def test_no_more_than_a_checkpoint_interval_is_lost(finished: Finished):
    restarts = finished.witness.restarts()
    assert len(restarts) == finished.status["attempt"] - 1
    assert all(first > last - CHECKPOINT_STEPS for last, first in restarts), restarts
    steps = [record["step"] for record in finished.job.records()]
    assert steps == list(range(finished.status["progress"]["totalSteps"] + 1))


def test_there_was_no_teacher_pod(finished: Finished):
    assert all("teacher" not in sample.ready for sample in finished.witness.samples)


def test_how_long_a_start_takes(finished: Finished, record_property: Callable[[str, object], None]):
    finished.witness.record_start(record_property)


def test_nothing_untrue_was_told(finished: Finished):
    assert finished.witness.lies() == []
    assert {"Suspended", "Succeeded"} <= set(finished.witness.phases())
    assert "Failed" not in finished.witness.phases()


def test_nothing_is_left_of_a_deleted_job_but_its_folder(finished: Finished):
    """The last of this file: it takes the job away."""
    job = finished.job
    folder = job.run_dir()
    job.namespace.kubectl("delete", "opdjob", job.name)
    kinds = "rayjobs,rayclusters,jobs,deployments,services,configmaps,secrets,serviceaccounts,roles,rolebindings"
    kinds += ",networkpolicies,poddisruptionbudgets,pods"

    def left() -> list[str]:
        found = job.namespace.get(kinds, "-l", f"{names.LABEL_JOB}={job.name}")["items"]
        return [f"{each['kind']} {each['metadata']['name']}" for each in found]

    wait_until(lambda: not left(), 120, lambda: f"everything of it is gone: {left()}")
    assert (folder / "export" / "config.json").is_file()


def _spec(steps: int) -> dict[str, Any]:
    """With a memory limit, which a hog can pass."""
    trainers = {"resources": {"limits": {"memory": "6Gi"}}}
    model = "pvc://opd-examples/arithmetic/models/student"
    checkpoint = {"claimName": "opd-runs", "everySteps": CHECKPOINT_STEPS}
    return {"steps": steps, "checkpoint": checkpoint, "student": {"model": model, "trainers": trainers}}


def _pods(job: ClusterJob) -> list[dict[str, Any]]:
    return [pod for role in ("head", "trainer", "engine") for pod in job.pods(role)]
