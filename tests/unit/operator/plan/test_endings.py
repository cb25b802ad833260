"""How the end of an attempt is classified, and what becomes of the job."""

from dataclasses import replace

import pytest
from operator_makers import (
    ago,
    attempt_status,
    condition,
    decide,
    deleted,
    make_cluster,
    make_condition,
    make_job,
    make_mailbox,
    make_pod,
    make_progress,
    make_rayjob,
    make_running,
    ray_pods,
    settled,
    training_status,
)

from opd_api.documents import TeacherReport
from opd_operator.plan.deadlines import retry_delay
from opd_operator.plan.times import stamp

USER_ERROR = {"actor": "User", "reason": "InvalidData", "path": "spec.data.prompts[0]", "message": "has no records"}
LOST = {"actor": "Infrastructure", "reason": "TrainerLost", "message": "trainer 1 died"}

RAY_SAYS = """Job entrypoint command failed with exit code 1, last available logs (truncated to 20,000 chars):
2026-11-26 01:02:42,902 INFO job_manager.py:581 -- Runtime env is setting up.
error: /x: is gone
hint: look"""


def reported(phase: str, **fields):
    return make_mailbox(make_progress(1, phase, **fields))


@pytest.mark.parametrize(
    ("changes", "want_phase", "want_message"),
    [
        pytest.param({"mailbox": reported("Succeeded", step=300)}, "Succeeded", "All steps", id="the driver says so"),
        pytest.param(
            {"rayjobs": (make_rayjob(job_status="SUCCEEDED"),), "mailbox": reported("Training", step=300)},
            "Succeeded",
            "All steps",
            id="the RayJob succeeded and all steps are reported",
        ),
        pytest.param(
            {"rayjobs": (make_rayjob(job_status="SUCCEEDED"),), "mailbox": make_mailbox()},
            "Succeeded",
            "All steps",
            id="the RayJob succeeded and the driver could not report",
        ),
        pytest.param(
            {"rayjobs": (make_rayjob(job_status="SUCCEEDED"),), "mailbox": reported("Training", step=120)},
            "Retrying",
            "ended after 120 of 300 steps",
            id="a driver that exits with 0 in the middle has not succeeded",
        ),
        pytest.param(
            {"mailbox": reported("Failed", error=USER_ERROR)},
            "Failed",
            "spec.data.prompts[0]: has no records",
            id="the user's error is not retried",
        ),
        pytest.param(
            {"rayjobs": (make_rayjob(deployment_status="ValidationFailed", job_status="", message="no head group"),)},
            "Failed",
            "KubeRay refuses RayJob job-a1: no head group",
            id="KubeRay refuses the RayJob",
        ),
        pytest.param(
            {"mailbox": reported("Failed", error=LOST)}, "Retrying", "trainer 1 died", id="the driver blames a machine"
        ),
        pytest.param(
            {"mailbox": reported("Failed")}, "Retrying", "without a reason", id="a driver that fails without a word"
        ),
        pytest.param(
            {"mailbox": reported("Stopped", message="stopped by a signal")},
            "Retrying",
            "stopped by a signal",
            id="a driver that stops though nobody asked",
        ),
        pytest.param(
            {"rayjobs": (make_rayjob(job_status="FAILED", message="exit code 137"),)},
            "Retrying",
            "RayJob job-a1 is FAILED: exit code 137",
            id="the RayJob failed and the driver said nothing",
        ),
        pytest.param(
            {"rayjobs": (make_rayjob(job_status="FAILED", message=RAY_SAYS),)},
            "Retrying",
            "RayJob job-a1 is FAILED: Job entrypoint command failed with exit code 1: error: /x: is gone hint: look.",
            id="of Ray's log only the error is told",
        ),
        pytest.param(
            {"rayjobs": (make_rayjob(job_status="STOPPED", deployment_status="Complete"),)},
            "Retrying",
            "is STOPPED",
            id="Complete and STOPPED is no success",
        ),
        pytest.param({"rayjobs": ()}, "Retrying", "RayJob job-a1 was deleted", id="somebody deleted the RayJob"),
        pytest.param(
            {"rayjobs": (make_rayjob(deleting=True),)}, "Retrying", "was deleted", id="somebody is deleting the RayJob"
        ),
        pytest.param(
            {"pods": (make_pod("head", restarts=1, running_since=ago(5), terminated_reason="OOMKilled"),)},
            "Retrying",
            "head pod job-head died (OOMKilled), and the driver with it; raise spec.head.resources.limits.memory",
            id="the head was restarted while the RayJob says Running",
        ),
        pytest.param(
            {"pods": (make_pod("head", created=ago(9), running_since=ago(5)),)},
            "Retrying",
            "the head pod was replaced by job-head, and the driver with it",
            id="KubeRay made another head and will submit another driver",
        ),
        pytest.param(
            {"pods": (make_pod("head", restarts=1, running_since=ago(300)),)},
            "Training",
            "120 of 300",
            id="a head that was restarted before the driver lived on it",
        ),
        pytest.param(
            {"pods": (make_pod("head", restarts=1, ready=False),)},
            "Retrying",
            "head pod job-head died",
            id="a head that ended and is not up again",
        ),
        pytest.param(
            {"pods": (make_pod("head", phase="Failed"),)}, "Retrying", "head pod job-head died", id="the head failed"
        ),
        pytest.param(
            {"pods": ray_pods()[1:], "rayclusters": (make_cluster(head_ready=False),)},
            "Retrying",
            "the head pod is gone",
            id="the head is gone while the RayJob says Running",
        ),
        pytest.param(
            {"mailbox": reported("Training", seconds_ago=1900)},
            "Retrying",
            "no report for 1800 s (runPolicy.progressDeadlineSeconds)",
            id="a silent driver past its progress deadline",
        ),
        pytest.param(
            {"mailbox": reported("Training", seconds_ago=1700)},
            "Training",
            "120 of 300",
            id="a silent driver before its progress deadline",
        ),
        pytest.param(
            {"rayclusters": (make_cluster(head_ready=False),)},
            "Training",
            "Training, but The head does not answer.",
            id="a head that does not answer for a moment",
        ),
        pytest.param(
            {"rayclusters": (make_cluster(ready_workers=1),)},
            "Training",
            "Training, but 1 of 2 workers are ready.",
            id="a lost worker is the driver's to judge",
        ),
        pytest.param(
            {"pods": (), "rayclusters": ()}, "Training", "120 of 300", id="pods nobody has seen are not missed"
        ),
    ],
)
def test_ending(changes, want_phase, want_message):
    status = training_status(attempt_start_time=stamp(ago(4000)))
    decision = decide(settled(make_running(**{"status": status} | changes)))
    assert (decision.status.phase, want_message in decision.status.message) == (want_phase, True), (
        decision.status.message
    )


def test_a_retry_is_written_down_with_its_start_and_deletes_the_old_rayjob():
    decision = decide(settled(make_running(mailbox=reported("Failed", error=LOST))))
    status = decision.status
    assert (status.attempt, status.retries, status.attempt_start_time) == (2, 1, "2026-11-25T20:10:10Z")
    assert (status.ray_job_name, status.ray_cluster_name, status.dashboard_url) == (None, None, None)
    assert (deleted(decision), decision.apply) == (["RayJob job-a1"], ())
    assert decision.requeue_after.total_seconds() == 10


@pytest.mark.parametrize(
    ("reason", "changes", "want"),
    [
        pytest.param("Training", {"mailbox": reported("Training", seconds_ago=1900)}, "ProgressStale", id="silence"),
        pytest.param("ClusterReady", {"pods": (make_pod("head", phase="Failed"),)}, "HeadLost", id="a lost head"),
    ],
)
def test_why_an_attempt_was_lost_is_known_by_name(reason, changes, want):
    status = training_status(attempt_start_time=stamp(ago(4000)))
    assert condition(decide(settled(make_running(**{"status": status} | changes))), reason).reason == want


def test_retries_are_counted_and_end():
    job = make_job({"runPolicy": {"backoffLimit": 2}})
    observed = settled(make_running(job, mailbox=reported("Failed", error=LOST)))
    second = decide(replace(observed, status=training_status(retries=1)))
    assert (second.status.phase, second.status.retries) == ("Retrying", 2)
    third = decide(replace(observed, status=training_status(retries=2)))
    assert condition(third, "Failed").reason == "BackoffLimitExceeded"
    assert "trainer 1 died; 2 retries (runPolicy.backoffLimit) are used" in third.status.message
    assert third.status.attempt == 1


def test_a_limit_of_no_retries_fails_at_once():
    job = make_job({"runPolicy": {"backoffLimit": 0}})
    assert decide(settled(make_running(job, mailbox=reported("Failed", error=LOST)))).status.phase == "Failed"


def test_delays_double_up_to_five_minutes():
    assert [retry_delay(n).total_seconds() for n in (1, 2, 3, 4, 5, 6, 7, 50)] == [10, 20, 40, 80, 160, 300, 300, 300]


def test_steps_that_grew_while_the_job_trained_are_a_new_attempt_and_no_retry():
    job = make_job({"steps": 400})
    decision = decide(settled(make_running(job, mailbox=reported("Succeeded", step=300))))
    assert (decision.status.phase, decision.status.attempt, decision.status.retries) == ("Starting", 2, None)
    assert decision.status.attempt_start_time == "2026-11-25T20:10:00Z"


def test_an_attempt_that_never_reported_is_judged_by_its_rayjob_alone():
    observed = make_running(status=attempt_status(), mailbox=make_mailbox(), pods=(make_pod("head", restarts=1),))
    assert decide(settled(observed)).status.phase == "Starting", "KubeRay submits a driver to a restarted head"


def test_completion_is_written_and_the_export_is_named():
    checkpoint = {"step": 300, "uri": "pvc://checkpoints/job", "export_uri": "pvc://checkpoints/job/export"}
    decision = decide(settled(make_running(mailbox=reported("Succeeded", step=300, checkpoint=checkpoint))))
    assert decision.status.message == "All steps are done; the student is at pvc://checkpoints/job/export."
    assert decision.status.completion_time == "2026-11-25T20:10:00Z"
    assert decision.status.columns.step == "300/300"


def test_a_job_that_is_done_keeps_what_it_had_for_a_teacher():
    job = make_job(sglang={"endpoint": "http://teacher:30000"})
    said = TeacherReport(name="teacher", mode="SGLang", ready=True, ready_replicas=1, replicas=1)
    done = decide(settled(make_running(job, mailbox=reported("Succeeded", step=300, teachers=(said,)), deployments=())))
    assert (done.status.phase, done.status.columns.teacher) == ("Succeeded", "SGLang 1/1")


def test_a_driver_that_gave_way_goes_on_at_once_and_that_is_no_retry():
    checkpoint = {"step": 47, "uri": "pvc://checkpoints/job"}
    stopped = reported("Stopped", message="SIGTERM", checkpoint=checkpoint)
    status = decide(settled(make_running(mailbox=stopped))).status
    assert (status.attempt, status.retries, status.attempt_start_time) == (2, None, "2026-11-25T20:10:00Z")
    assert "Attempt 1 has stopped: SIGTERM." in status.message


def test_without_a_claim_nothing_was_kept_whatever_the_driver_says():
    """Its folder goes with the pod: an eviction is a retry, and neither checkpoint nor export is named."""
    job = make_job({"checkpoint": {"claimName": ""}})
    folder = {"step": 47, "uri": "file:///opd/run/checkpoints", "export_uri": "file:///opd/run/export"}
    status = decide(settled(make_running(job, mailbox=reported("Stopped", checkpoint=folder)))).status
    assert (status.attempt, status.retries, status.checkpoint) == (2, 1, None)
    done = decide(settled(make_running(job, mailbox=reported("Succeeded", step=300, checkpoint=folder)))).status
    assert (done.message, done.checkpoint) == ("All steps are done.", None)


def test_so_does_one_that_kueue_sent_away_meanwhile():
    stopped = reported("Stopped", checkpoint={"step": 47, "uri": "pvc://checkpoints/job"})
    status = attempt_status(1, make_condition("QuotaReserved", "False", "Queued", seconds_ago=5))
    observed = make_running(status=status, mailbox=stopped, rayjobs=(make_rayjob(suspended=True),))
    assert (decide(settled(observed)).status.attempt, decide(settled(observed)).status.retries) == (2, None)


SENT_AWAY = attempt_status(1, make_condition("QuotaReserved", "False", "Queued", seconds_ago=5))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"mailbox": reported("Stopped")}, id="before it had anything to save"),
        pytest.param({"mailbox": reported("Training"), "pods": ()}, id="without a last word"),
    ],
)
def test_a_driver_whose_quota_was_taken_is_followed_by_the_next_one_and_that_is_no_retry(changes):
    decision = decide(settled(make_running(status=SENT_AWAY, rayjobs=(make_rayjob(suspended=True),), **changes)))
    assert (decision.status.attempt, decision.status.retries) == (2, None)
    assert deleted(decision) == ["RayJob job-a1"]


def test_while_its_pods_are_there_a_driver_whose_quota_was_taken_is_heard_out():
    rayjob = make_rayjob(suspended=True)
    decision = decide(settled(make_running(status=SENT_AWAY, mailbox=reported("Training"), rayjobs=(rayjob,))))
    assert (decision.status.phase, decision.status.attempt) == ("Queued", 1)


def test_an_admission_that_is_noticed_late_takes_nothing_from_the_driver():
    """The operator was away when it came, and the driver has begun meanwhile."""
    admitted = attempt_status(1, make_condition("QuotaReserved", reason="Admitted", seconds_ago=1))
    head = make_pod("head", running_since=ago(100))
    decision = decide(settled(make_running(status=admitted, mailbox=reported("Training"), pods=(head,))))
    assert (decision.status.phase, decision.status.attempt) == ("Training", 1)


def test_a_driver_that_stops_before_it_has_saved_is_retried():
    observed = make_running(status=attempt_status(), mailbox=reported("Stopped"))
    assert decide(settled(observed)).status.retries == 1
