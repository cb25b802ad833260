"""Whole lives of OPDJobs against a real API server, controller-manager and garbage collector, the operator under the
chart's ServiceAccount.

KubeRay's CRDs are there and its operator is not: the test plays it, the kubelet and the runtime (`played_job`). What
KubeRay itself makes of our RayJobs is tested in test_children.py; that training works in pods is not tested here.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from cluster import Cluster
from cluster_namespace import Namespace
from operator_process import OperatorProcess
from played_job import MODEL, SGLANG, PlayedJob, now, small_job, until

from opd_api import names

MEGATRON = {"mode": "Megatron", "model": "pvc://models/teacher"}
MODES = [pytest.param(SGLANG, id="SGLang teacher"), pytest.param(MEGATRON, id="Megatron teacher")]
IN_EITHER_MODE = pytest.mark.parametrize(
    "teacher", [MODES[0], pytest.param(*MODES[1].values, id=MODES[1].id, marks=pytest.mark.full)]
)

type NewJob = Callable[..., PlayedJob]


def train(job: PlayedJob, attempt: int, step: int = 0, **fields: Any) -> None:
    """The attempt's RayJob is there, its head runs and the driver reports."""
    job.wait_rayjob(attempt)
    until(lambda: job.status().get("rayJobName") == names.rayjob(job.name, attempt), "the RayJob in status")
    job.rayjob_says(attempt, jobDeploymentStatus="Running", jobStatus="RUNNING", rayClusterName=f"{job.name}-rc")
    job.report(attempt, "Training", step, **fields)
    until(
        lambda: job.status().get("progress", {}).get("step") == step, lambda: f"step {step} in status: {job.status()}"
    )


def fails(job: PlayedJob, attempt: int, actor: str, **error: Any) -> None:
    error = {"actor": actor, "reason": "TrainerLost", "message": "a trainer process died", **error}
    job.report(attempt, "Failed", 10, error=error)
    job.driver_ends(attempt, failed=True)


@pytest.mark.parametrize("teacher", MODES)
def test_a_job_fails_is_retried_suspended_resumed_and_completes(new_job: NewJob, teacher: dict[str, Any]) -> None:
    job = new_job(teacher, runPolicy={"ttlSecondsAfterFinished": 3})
    job.wait_condition("ModelsReady", "False", "Unschedulable")  # there is no node
    job.models_pod_says()
    job.wait_condition("ModelsReady")

    job.wait_phase("Starting")
    metrics = {"opd/reverse_kl": 0.5, "reward/raw": 0.25, "opd/reverse_kl_first": 0.9}
    train(job, 1, 10, metrics=metrics, trend="Falling", checkpoint={"step": 8, "uri": "file:///opd/run/checkpoints"})
    status = job.wait_phase("Training")
    assert status["columns"]["step"] == "10/100"
    assert status["columns"]["kl"] == "0.500"
    assert status["distillation"] == {"reverseKL": 0.5, "initialReverseKL": 0.9, "trend": "Falling"}
    deployment = job.get("Deployment", names.teacher(job.name, "teacher"), "apps/v1")
    assert (deployment is not None) == (teacher["mode"] == "SGLang")

    fails(job, 1, "Infrastructure")
    status = job.wait_phase("Retrying")
    assert status["attempt"] == 2 and status["retries"] == 1
    assert len(job.rayjobs()) <= 1
    train(job, 2, 20)
    assert [each["metadata"]["name"] for each in job.rayjobs()] == [names.rayjob(job.name, 2)]

    job.edit(suspend=True)
    job.wait_phase("Suspending")
    until(lambda: job.request().get("stop") == "Suspend", "a stop request in the mailbox")
    assert job.request()["attempt"] == 2
    job.report(2, "Stopped", 21, checkpoint={"step": 21, "uri": "file:///opd/run/checkpoints"})
    job.wait_phase("Suspended")
    job.wait_no_rayjob()
    if teacher["mode"] == "SGLang":
        until(lambda: job.get("Deployment", f"{job.name}-teacher", "apps/v1") is None, "the teacher given back")

    job.edit(suspend=False)
    train(job, 3, 22)
    assert job.status()["retries"] == 1, "a resume is no retry"
    job.report(3, "Succeeded", 100)
    job.driver_ends(3)
    status = job.wait_condition("Complete") and job.wait_phase("Succeeded")
    assert "completionTime" in status
    job.wait_no_rayjob()
    until(lambda: job.get("OPDJob", job.name, "opd.dev/v1alpha1") is None, "TTL deleted the job")
    until(lambda: not job.children("ConfigMap"), "its ConfigMaps are gone")


def test_a_job_changed_and_resumed_in_one_go_stops_what_trained_the_old_document(new_job: NewJob) -> None:
    """Whether or not the operator looked in between."""
    job = new_job()
    job.models_pod_says()
    train(job, 1, 20)
    job.edit(suspend=True)
    job.edit(suspend=False, seed=7)
    until(lambda: job.request().get("stop") == "Suspend", "a stop request in the mailbox")
    job.report(1, "Stopped", 21, checkpoint={"step": 21, "uri": "pvc://checkpoints/x"})
    train(job, 2, 22)
    assert job.status().get("retries") is None


@IN_EITHER_MODE
def test_a_users_error_ends_the_job_without_a_retry(new_job: NewJob, teacher: dict[str, Any]) -> None:
    job = new_job(teacher)
    job.models_pod_says()
    train(job, 1)
    fails(job, 1, "User", path="spec.reward.function", reason="UserError", message="no module named rewards")
    failed = job.wait_condition("Failed", "True", "UserError")
    assert "spec.reward.function" in failed["message"] and "no module named rewards" in failed["message"]
    assert job.wait_phase("Failed")["attempt"] == 1
    job.wait_no_rayjob()


def test_models_that_cannot_be_read_yet_are_named_at_once_and_found_by_the_next_try(new_job: NewJob) -> None:
    job = new_job()
    problem = {"path": "spec.student.model", "message": "/opd/volumes/models/student does not exist", "hint": "put it"}
    job.models_pod_says({"models": {}, "problems": [problem]}, exit_code=1)
    told = job.wait_condition("ModelsReady", "False", "FetchFailed")
    assert "spec.student.model" in told["message"] and "does not exist" in told["message"]
    assert job.condition("Failed").get("status") != "True"
    job.models_pod_says(seconds=60)
    job.wait_rayjob(1)


def test_a_teacher_of_another_tokenizer_is_refused_before_anything_starts(new_job: NewJob) -> None:
    job = new_job()
    job.models_pod_says({"models": {"student": MODEL, "teacher": MODEL | {"tokenizerFingerprint": "0" * 32}}})
    job.wait_condition("ModelsReady", "False", "TokenizerMismatch")
    assert "spec.teachers[0].model" in job.wait_condition("Failed")["message"]
    assert not job.rayjobs()


@IN_EITHER_MODE
def test_a_silent_trainer_past_its_deadline_is_retried(new_job: NewJob, teacher: dict[str, Any]) -> None:
    job = new_job(teacher, runPolicy={"progressDeadlineSeconds": 3})
    job.models_pod_says()
    train(job, 1, 5)
    assert job.wait_phase("Retrying")["attempt"] == 2


def test_retries_end_at_the_backoff_limit(new_job: NewJob) -> None:
    job = new_job(runPolicy={"backoffLimit": 0})
    job.models_pod_says()
    train(job, 1, 5)
    fails(job, 1, "Infrastructure")
    assert "a trainer process died" in job.wait_condition("Failed", "True", "BackoffLimitExceeded")["message"]


def test_the_next_attempt_waits_for_the_pods_of_the_last(new_job: NewJob) -> None:
    """A pod that will not go (its node is unreachable, say) is held by a finalizer here."""
    job = new_job()
    job.models_pod_says()
    train(job, 1, 5)
    pod = job.make_pod("trainer", 1, finalizers=["opd.dev/test"])
    fails(job, 1, "Infrastructure")
    job.wait_phase("Retrying")
    until(lambda: (job.get("Pod", pod) or {}).get("metadata", {}).get("deletionTimestamp"), "the pod being deleted")
    until(lambda: "pod" in job.status().get("message", "") or None, lambda: f"a word about the pod: {job.status()}", 40)
    assert not job.rayjobs()
    job.release(pod)
    job.wait_rayjob(2)


@IN_EITHER_MODE
def test_a_zombie_attempt_changes_nothing_and_is_said(new_job: NewJob, teacher: dict[str, Any]) -> None:
    job = new_job(teacher)
    job.models_pod_says()
    train(job, 1, 5)
    fails(job, 1, "Infrastructure")
    train(job, 2, 6)

    def zombie_speaks() -> list[dict[str, Any]]:
        job.report(1, "Succeeded", 100)
        return job.events("ReportIgnored")

    until(zombie_speaks, "an Event about the ignored report")
    job.report(2, "Training", 7)
    until(lambda: job.status()["progress"]["step"] == 7, "the living attempt's report")
    assert job.condition("Complete").get("status") != "True"


@pytest.mark.full
@pytest.mark.parametrize("program", ["kube-apiserver", "etcd"])
def test_a_minute_without_the_api_server_costs_a_job_nothing(
    new_job: NewJob, cluster: Cluster, operator: OperatorProcess, program: str
) -> None:
    job = new_job()
    job.models_pod_says()
    train(job, 1, 5)
    before = job.wait_rayjob(1)["metadata"]["uid"]
    back = time.monotonic() + 60
    cluster.stop(program)
    until(lambda: not operator.leads() and time.monotonic() > back, "a minute over, and nobody leads", 90)
    cluster.start(program)
    until(operator.leads, "the operator leads again", 60)
    job.report(1, "Training", 9)
    until(lambda: job.status()["progress"]["step"] == 9, "the newest step")
    assert job.wait_rayjob(1)["metadata"]["uid"] == before
    assert job.status()["attempt"] == 1 and not job.status().get("retries")


FORGED = {
    "oversized": json.dumps({"attempt": 1, "phase": "Training", "message": "x" * 70_000}),
    "not JSON": "{",
    "wrong types": json.dumps({"attempt": "one", "phase": 7, "step": "many", "totalSteps": [], "time": {}}),
    "unknown phase": json.dumps({"attempt": 1, "phase": "Winning", "step": 1, "totalSteps": 1, "time": now()}),
    "an attempt to come": json.dumps({"attempt": 9, "phase": "Succeeded", "step": 1, "totalSteps": 1, "time": now()}),
    "a field of status": json.dumps({"attempt": 1, "phase": "Training", "step": 1, "conditions": []}),
}


def test_forged_reports_are_dropped_and_said_and_break_nothing(new_job: NewJob) -> None:
    job = new_job()
    job.models_pod_says()
    train(job, 1, 5, metrics={"opd/reverse_kl": 0.5})
    before = job.status()
    for count, (what, text) in enumerate(FORGED.items(), start=1):
        job.report_raw(text)
        until(lambda n=count: len(job.events("ReportIgnored")) >= n or None, f"an Event about {what}")
        assert job.status()["progress"]["step"] == 5 and job.status()["columns"] == before["columns"], what
    job.report(1, "Training", 6)
    until(lambda: job.status()["progress"]["step"] == 6, "a good report after all that")


def test_a_mailbox_under_another_jobs_name_reports_nothing_there_and_comes_back(new_job: NewJob) -> None:
    """All that a trainer's account may change is its own mailbox, with its labels."""
    job, other = new_job(), new_job(name="other")
    for each in (job, other):
        each.models_pod_says()
        train(each, 1, 5)
    said = json.dumps({"attempt": 1, "phase": "Succeeded", "step": 100, "totalSteps": 100, "time": now()})
    job.patch_mailbox(metadata={"labels": {"opd.dev/job": "other"}}, data={names.PROGRESS_KEY: said})
    until(lambda: job.mailbox()["metadata"]["labels"]["opd.dev/job"] == job.name, "its own label again")
    other.report(1, "Training", 6)
    until(lambda: other.status()["progress"]["step"] == 6, "the other job's own report")
    assert other.condition("Complete").get("status") != "True"


def test_a_spike_of_the_kl_is_a_condition_and_an_event_until_it_is_over(new_job: NewJob) -> None:
    job = new_job()
    job.models_pod_says()
    train(job, 1, 20, metrics={"opd/reverse_kl": 4.0, "opd/reverse_kl_first": 1.0}, trend="Spike")
    told = job.wait_condition("Degraded", "True", "KLSpike")
    until(lambda: job.events("KLSpike"), "an Event")
    assert told["message"] in job.status()["message"]
    job.report(1, "Training", 21, metrics={"opd/reverse_kl": 0.9, "opd/reverse_kl_first": 1.0}, trend="Stable")
    job.wait_condition("Degraded", "False")


def test_a_document_deeper_than_any_library_reads_fails_alone(new_job: NewJob, cluster: Cluster) -> None:
    """The API server takes it: whoever may create an OPDJob could stop everybody's."""
    other = new_job()
    levels = 8000
    deep = {"podTemplate": {"spec": "DEEP"}}
    text = json.dumps(small_job(name="deep", head=deep)).replace('"DEEP"', '{"a":' * levels + "1" + "}" * levels)
    jobs = f"/apis/opd.dev/v1alpha1/namespaces/{other.namespace}/opdjobs"
    sent = cluster.http.post(jobs, content=text, headers={"Content-Type": "application/json"})
    assert sent.status_code == 201, sent.text[:500]
    of_deep = ("opdjob/deep", "--namespace", other.namespace)
    cluster.kubectl("wait", "--for=condition=Failed", *of_deep, "--timeout=30s")
    assert "nested too deep" in cluster.kubectl("get", *of_deep, "-o", "jsonpath={.status.message}")
    other.models_pod_says()
    other.wait_rayjob(1)
    cluster.kubectl("delete", *of_deep)


def test_a_job_created_suspended_makes_nothing_until_it_is_resumed(new_job: NewJob) -> None:
    job = new_job(suspend=True)
    job.wait_phase("Suspended")
    assert not job.children("Job", "batch/v1") and not job.rayjobs()
    job.edit(suspend=False)
    job.models_pod_says()
    job.wait_rayjob(1)


def test_steps_that_grow_while_it_trains_are_trained(new_job: NewJob) -> None:
    job = new_job()
    job.models_pod_says()
    train(job, 1, 99)
    job.edit(steps=200)
    job.report(1, "Succeeded", 100)
    job.driver_ends(1)
    train(job, 2, 101, totalSteps=200)
    status = job.status()
    assert status["columns"]["step"] == "101/200"
    assert status["attempt"] == 2 and status.get("retries", 0) == 0


def test_deleting_a_job_in_training_leaves_nothing(new_job: NewJob) -> None:
    job = new_job()
    job.models_pod_says()
    train(job, 1, 5)
    job.make_pod("trainer", 1)
    job.delete()
    kinds = (("RayJob", "ray.io/v1"), ("Deployment", "apps/v1"), ("Pod", "v1"), ("ConfigMap", "v1"), ("Secret", "v1"))
    until(lambda: not any(job.children(kind, version) for kind, version in kinds), "no child is left", 60)


def test_somebodys_object_under_a_childs_name_is_told_and_never_taken_over(
    new_job: NewJob, namespace: Namespace
) -> None:
    namespace.kubectl("create", "configmap", "life-config", "--from-literal=mine=yes")
    job = new_job()
    until(lambda: "ConfigMap life-config belongs to somebody else" in job.status().get("message", ""), "its name", 30)
    assert namespace.get("configmap", "life-config")["data"] == {"mine": "yes"}
    assert not job.children("Job", "batch/v1")
    namespace.kubectl("delete", "configmap", "life-config")
    job.models_pod_says(seconds=90)
    job.wait_rayjob(1)


TROUBLES = {
    "ImagePullFailed": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image none:0"}},
    "OOMKilled": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
    "CrashLoopBackOff": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting"}},
}
TOLD_SECONDS = 10.0
"""Within so long after Kubernetes knows of a trouble, the job names it."""


@pytest.mark.parametrize("reason", TROUBLES)
def test_a_pods_trouble_is_named_in_the_jobs_message(new_job: NewJob, reason: str) -> None:
    job = new_job()
    job.models_pod_says()
    pod = job.make_pod("trainer", 1)
    job.pod_says(pod, "Pending", state=TROUBLES[reason])
    assert pod in job.wait_condition("ClusterReady", "False", reason, TOLD_SECONDS)["message"]
    assert pod in job.status()["message"]


def test_a_pod_without_a_node_is_named_in_the_jobs_message(new_job: NewJob) -> None:
    job = new_job()
    job.models_pod_says()
    pod = job.make_pod("trainer", 1)  # there is no node: the real scheduler says so
    assert pod in job.wait_condition("ClusterReady", "False", "Unschedulable", TOLD_SECONDS)["message"]


def test_a_rayjob_that_kuberay_refuses_ends_the_job_in_its_words(new_job: NewJob) -> None:
    job = new_job()
    job.models_pod_says()
    job.wait_rayjob(1)
    job.rayjob_says(1, jobDeploymentStatus="ValidationFailed", reason="ValidationFailed", message="no such thing")
    assert "no such thing" in job.wait_condition("Failed", "True", "UserError", TOLD_SECONDS)["message"]
