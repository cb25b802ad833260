"""The arithmetic job with an SGLang teacher, in pods: one fault, an engine process, in CI; every fault in full."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cluster_job import START_SECONDS, ClusterJob, apply, claim_folder, evaluate
from cluster_namespace import Namespace
from helm import NAMESPACE
from node import NAME
from waiting import wait_until
from witness import Witness, watched

from .conftest import EXAMPLES

pytestmark = pytest.mark.timeout(1800)

JOB_FILE = EXAMPLES / "arithmetic" / "opdjob.yaml"
STEPS_AFTER = 10
"""So many more must be done after a fault before the next one comes."""

type Fault = Callable[[ClusterJob], None]


def engine_process(job: ClusterJob) -> None:
    job.execute("engine", "pkill", "-KILL", "-f", "sglang::scheduler")


def teacher_pod(job: ClusterJob) -> None:
    job.kill_pod("teacher")
    job.wait(_teacher(False), "the missing teacher is told")
    job.wait(_teacher(True), "the teacher is back", START_SECONDS)


def operator_pod(job: ClusterJob) -> None:
    _kill(job, NAMESPACE, "opd-operator")


def kuberay(job: ClusterJob) -> None:
    _kill(job, "ray-system", "kuberay-operator")


def kubelet(job: ClusterJob) -> None:
    job.cluster.stop("kubelet")
    job.cluster.start("kubelet")


def cordon(job: ClusterJob) -> None:
    """With a teacher that has to be scheduled anew meanwhile."""
    job.cluster.kubectl("cordon", NAME)
    job.kill_pod("teacher")
    job.wait(lambda status: "unschedulable" in str(status).lower(), "the status says why there is no teacher")
    job.cluster.kubectl("uncordon", NAME)
    job.wait(_teacher(True), "the teacher is back", START_SECONDS)


ALL = (engine_process, teacher_pod, operator_pod, kuberay, kubelet, cordon)


@dataclass(frozen=True, slots=True)
class Finished:
    """`status` of the end; `stranger` is what Ray's dashboard answered a submission without the cluster's token."""

    job: ClusterJob
    status: dict[str, Any]
    witness: Witness
    stranger: int


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((None, (engine_process,)), id="an engine's process"),
        pytest.param(({"steps": 300}, ALL), id="every fault", marks=pytest.mark.full),
    ],
)
def finished(request: pytest.FixtureRequest, namespace: Namespace) -> Iterator[Finished]:
    spec, faults = request.param
    job = apply(namespace, JOB_FILE, spec)
    with watched(job, with_teacher_pods=True) as witness:
        job.wait_for_step(1, START_SECONDS)
        stranger = _submit_without_a_token(job)
        for fault in faults:
            before = job.step()
            fault(job)
            job.wait_for_step(before + STEPS_AFTER, START_SECONDS)
        status = job.wait_for_phase("Succeeded", START_SECONDS)
    yield Finished(job, status, witness, stranger)
    namespace.kubectl("delete", "opdjob", job.name)


def test_the_student_closes_in_on_its_teacher(finished: Finished):
    distillation = finished.status["distillation"]
    assert distillation["initialReverseKL"] >= 5 * distillation["reverseKL"]
    before = next(record["eval/pass@1"] for record in finished.job.records() if record["step"] == 0)
    assert before <= 0.5
    assert finished.status["evaluation"]["passAt1"] >= 0.9


def test_no_step_is_lost_and_none_comes_twice(finished: Finished):
    steps = [record["step"] for record in finished.job.records()]
    assert steps == list(range(finished.status["progress"]["totalSteps"] + 1))
    assert finished.status["attempt"] == 1, finished.witness.story()


def test_how_long_a_start_takes(finished: Finished, record_property: Callable[[str, object], None]):
    finished.witness.record_start(record_property)


def test_nothing_untrue_was_told(finished: Finished):
    assert finished.witness.lies() == []
    assert finished.witness.phases()[-1] == "Succeeded"


def test_the_exported_student_is_as_good_as_the_status_says(finished: Finished):
    claims = {claim: claim_folder(finished.job.namespace, claim) for claim in ("opd-examples", "opd-runs")}
    measured = evaluate(JOB_FILE, finished.job.run_dir() / "export", claims)
    assert math.isclose(measured, finished.status["evaluation"]["passAt1"])


def test_ray_takes_no_job_without_the_clusters_token(finished: Finished):
    assert finished.stranger == 401


def test_pods_are_given_back_and_the_teacher_with_them(finished: Finished):
    roles = ("trainer", "engine", "teacher")
    wait_until(
        lambda: not any(finished.job.pods(role) for role in roles), 120, "trainers, engines and teachers are gone"
    )


def _submit_without_a_token(job: ClusterJob) -> int:
    """The status code, by way of the API server."""
    service = f"http:{job.status()['rayClusterName']}-head-svc:8265"
    path = f"/api/v1/namespaces/{job.namespace.name}/services/{service}/proxy/api/jobs/"
    return job.cluster.http.post(path, json={"entrypoint": "true"}).status_code


def _teacher(ready: bool) -> Callable[[dict[str, Any]], bool]:
    wanted = ("TeacherReady", str(ready))
    return lambda status: any((each["type"], each["status"]) == wanted for each in status["conditions"])


def _kill(job: ClusterJob, namespace: str, deployment: str) -> None:
    """Its pod, without warning; another one is there afterwards."""
    label = f"app.kubernetes.io/name={deployment}"
    job.cluster.kubectl("delete", "pods", "-n", namespace, "-l", label, "--grace-period=0", "--force", "--wait=false")
    job.cluster.kubectl("rollout", "status", f"deployment/{deployment}", "-n", namespace, "--timeout=120s")
