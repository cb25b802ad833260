"""Suspend and resume: the stop request, its grace, what goes and what stays, and the attempt that follows."""

import json
from dataclasses import replace

import pytest
from operator_makers import (
    ago,
    applied,
    attempt_status,
    condition,
    decide,
    deleted,
    fetching,
    make_condition,
    make_config,
    make_deployment,
    make_job,
    make_mailbox,
    make_models_job,
    make_observed,
    make_pod,
    make_progress,
    make_rayjob,
    make_running,
    make_status,
    ray_pods,
    recorded,
    settled,
    training_status,
)

from opd_api.documents import DocumentError, ErrorReport, Request, TeacherReport
from opd_operator.build.digest import document_digest
from opd_operator.plan.times import stamp

SUSPEND = make_job({"suspend": True})
HOOK = ErrorReport(actor="User", reason="UserError", path="spec.reward.function", message="no such function")
GIVEN_BACK = ["RayJob job-a1", "Deployment job-teacher"]


def asked(seconds_ago: float = 60) -> Request:
    return Request(attempt=1, stop="Suspend", time=stamp(ago(seconds_ago)))


def suspending(seconds_ago: float = 60):
    return make_condition("Suspended", "Unknown", "Suspending", seconds_ago=seconds_ago)


def stopping(job=SUSPEND, *, seconds_ago: float = 60, **fields):
    """The request was sent; the driver has not answered yet."""
    known = {
        "status": training_status(1, suspending(seconds_ago)),
        "mailbox": make_mailbox(make_progress(), asked(seconds_ago)),
    }
    return settled(make_running(job, **known | fields))


def suspended(job=SUSPEND, attempt: int | None = 1, **fields):
    condition = make_condition("Suspended", reason="Suspended")
    status = make_status(condition) if attempt is None else recorded(attempt, condition)
    return settled(make_observed(job, **{"status": status, "config": make_config(job)} | fields))


def test_a_running_job_is_asked_to_stop_and_not_touched():
    decision = decide(settled(make_running(SUSPEND)))
    assert (decision.status.phase, condition(decision, "Suspended").status) == ("Suspending", "Unknown")
    assert (applied(decision), deleted(decision)) == (["ConfigMap job-mailbox"], [])
    request = json.loads(decision.apply[0]["data"]["request.json"])
    assert request == {"attempt": 1, "stop": "Suspend", "time": "2026-11-25T20:10:00Z"}
    assert decision.requeue_after.total_seconds() == 300


@pytest.mark.parametrize(
    ("observed", "want_phase", "want_deleted"),
    [
        pytest.param(stopping(), "Suspending", [], id="until the driver answers nothing is deleted"),
        pytest.param(
            stopping(mailbox=make_mailbox(make_progress(1, "Stopped"), asked())),
            "Suspending",
            GIVEN_BACK,
            id="a driver that stopped is given back",
        ),
        pytest.param(stopping(seconds_ago=300), "Suspending", GIVEN_BACK, id="a driver that never answers too"),
        pytest.param(
            stopping(rayjobs=(make_rayjob(job_status="FAILED"),)),
            "Suspending",
            GIVEN_BACK,
            id="an attempt that is lost meanwhile is no retry",
        ),
        pytest.param(
            stopping(rayjobs=(make_rayjob(job_status="SUCCEEDED"),)),
            "Suspending",
            GIVEN_BACK,
            id="KubeRay is faster than the driver's last report",
        ),
        pytest.param(
            stopping(mailbox=make_mailbox(make_progress(1, "Succeeded", step=300), asked()), deployments=()),
            "Succeeded",
            [],
            id="a job that is done meanwhile is done",
        ),
        pytest.param(stopping(rayjobs=(), deployments=()), "Suspending", [], id="pods that still end are waited for"),
        pytest.param(stopping(rayjobs=(), pods=(), deployments=()), "Suspended", [], id="without pods it is suspended"),
        pytest.param(
            settled(make_running(SUSPEND, status=attempt_status(), mailbox=make_mailbox())),
            "Suspending",
            GIVEN_BACK,
            id="a driver that has not begun has nothing to save",
        ),
        pytest.param(
            settled(make_running(SUSPEND, rayjobs=(make_rayjob(suspended=True),))),
            "Suspending",
            GIVEN_BACK,
            id="what Kueue holds back has nothing to save",
        ),
        pytest.param(
            settled(make_observed(SUSPEND, status=recorded(2, seconds_ago=-5), config=make_config(SUSPEND))),
            "Suspended",
            [],
            id="an attempt that backs off is never made",
        ),
        pytest.param(
            fetching(job=SUSPEND),
            "Suspended",
            ["Job job-models"],
            id="a job whose models are read stops reading",
        ),
        pytest.param(
            suspended(rayjobs=(make_rayjob(1),)), "Suspended", ["RayJob job-a1"], id="a RayJob seen late is deleted"
        ),
    ],
)
def test_suspension(observed, want_phase, want_deleted):
    decision = decide(observed)
    assert (decision.status.phase, deleted(decision)) == (want_phase, want_deleted), decision.status.message


@pytest.mark.parametrize(
    "config", [pytest.param({}, id="as ever"), pytest.param({"config": None}, id="no shapes known")]
)
def test_the_teacher_goes_with_the_rayjob(config):
    """By nothing but a deletion: whatever else the API server refuses, its GPUs are given back."""
    decision = decide(stopping(rayjobs=(), deployments=(make_deployment(),), **config))
    assert (applied(decision), deleted(decision)) == ([], ["Deployment job-teacher"])
    again = decide(suspended(deployments=()))
    assert (again.apply, again.delete) == ((), ())


def test_an_attempt_that_ends_its_step_keeps_the_teacher_it_has():
    """The document may change as soon as a stop was asked for."""
    edited = make_job({"suspend": True, "teachers": [{"name": "other", "mode": "Megatron", "model": "hf://a/b"}]})
    decision = decide(stopping(edited, deployments=(make_deployment(),)))
    assert (decision.status.phase, deleted(decision)) == ("Suspending", [])
    gone = decide(stopping(edited, rayjobs=(), deployments=(make_deployment(),)))
    assert deleted(gone) == ["Deployment job-teacher"]


@pytest.mark.parametrize(
    "request_seen",
    [
        pytest.param(None, id="no request arrived"),
        pytest.param(Request(attempt=1, stop=None, time="2026-11-25T20:00:00Z"), id="somebody took it back"),
        pytest.param(Request(attempt=1, stop="Suspend", time="2090-01-01T00:00:00Z"), id="somebody moved its time"),
        pytest.param(DocumentError(reason="Unreadable", message="x"), id="somebody wrote nonsense"),
    ],
)
def test_the_mailbox_says_what_the_status_says(request_seen):
    decision = decide(stopping(mailbox=make_mailbox(make_progress(), request_seen)))
    request = json.loads(decision.apply[0]["data"]["request.json"])
    assert request["time"] == stamp(ago(60)), "the grace is counted from the status, which only the operator writes"


def test_a_forged_request_is_taken_back():
    decision = decide(settled(make_running(mailbox=make_mailbox(make_progress(), asked()))))
    assert (applied(decision), decision.apply[0]["data"]) == (["ConfigMap job-mailbox"], {"request.json": ""})


def test_a_pod_that_is_evicted_has_the_driver_save_and_stop():
    pods = (*ray_pods(), make_pod("trainer", deleting=True, deleted=ago(-100)))
    decision = decide(settled(make_running(pods=pods)))
    request = json.loads(decision.apply[0]["data"]["request.json"])
    assert request == {"attempt": 1, "stop": "Evict", "time": stamp(ago(-100))}
    asked_to_go = make_mailbox(make_progress(), Request(**request))
    assert decide(settled(make_running(pods=pods, mailbox=asked_to_go))).apply == ()


def of_document(document: str, job, **fields):
    """A living attempt made from the document with this digest, while the job is `job`."""
    return settled(make_running(job, rayjobs=(make_rayjob(1, document=document),), **fields))


def test_a_change_that_was_made_between_two_looks_stops_the_attempt_of_the_document_before():
    """Suspended, edited and resumed at once: else the old models would be trained and called the new ones'."""
    old = document_digest(make_job())
    edited = make_job({"optimizer": {"lr": 3e-6}})
    assert decide(of_document(old, make_job())).status.phase == "Training"
    asks = decide(of_document(old, edited))
    assert (asks.status.phase, applied(asks)) == ("Suspending", ["ConfigMap job-mailbox"])
    assert "the next attempt has the document as it is now" in asks.status.message


@pytest.mark.parametrize(
    "report",
    [
        pytest.param(make_progress(1, "Stopped", step=47), id="it saved and stopped"),
        pytest.param(make_progress(1, "Succeeded", step=300), id="it was done: with the old document"),
        pytest.param(make_progress(1, "Failed", error=HOOK), id="it failed: of what was just corrected"),
    ],
)
def test_the_last_word_of_an_attempt_of_the_document_before_ends_nothing(report):
    edited, old = make_job({"optimizer": {"lr": 3e-6}}), document_digest(make_job())
    status = training_status(1, suspending())
    decision = decide(of_document(old, edited, status=status, mailbox=make_mailbox(report, asked())))
    assert (decision.status.phase, decision.status.attempt, decision.status.retries) == ("Starting", 2, None)
    after = decide(of_document(old, edited, status=decision.status, mailbox=make_mailbox(report)))
    assert deleted(after) == ["RayJob job-a1"]


def test_fewer_steps_stop_an_attempt_that_would_go_on_to_more():
    report = make_progress(1, "Training", step=120, total_steps=300)
    fewer = make_job({"steps": 100})
    decision = decide(of_document(document_digest(fewer), fewer, mailbox=make_mailbox(report)))
    assert decision.status.phase == "Suspending"


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"steps": 400}, id="steps"),
        pytest.param({"runPolicy": {"backoffLimit": 9}}, id="run policy"),
        pytest.param({"checkpoint": {"claimName": "checkpoints", "keep": 7}}, id="checkpoints that are kept"),
    ],
)
def test_what_a_living_attempt_takes_over_stops_nothing(spec):
    assert decide(of_document(document_digest(make_job()), make_job(spec))).status.phase == "Training"


@pytest.mark.parametrize("carried", ["", "0.0.9/0123456789abcdef"])
def test_an_attempt_of_another_version_is_left_alone(carried):
    """It may have filled in other defaults."""
    assert decide(of_document(carried, make_job())).status.phase == "Training"


def test_models_that_were_read_for_another_document_are_read_again():
    observed = fetching(models_job=make_models_job(document=document_digest(make_job({"seed": 7}))))
    decision = decide(observed)
    assert deleted(decision) == ["Job job-models"]


def test_resume_is_a_new_attempt_and_no_retry():
    first = decide(suspended(make_job()))
    status = first.status
    assert (status.phase, status.attempt, status.retries, first.apply) == ("Starting", 2, None, ())
    assert condition(first, "Suspended").reason == "Resumed"
    second = decide(settled(make_observed(status=status, config=make_config())))
    assert applied(second)[-1] == "RayJob job-a2"


def test_a_job_suspended_before_its_first_attempt_goes_on_where_it_was():
    decision = decide(suspended(make_job(), attempt=None))
    assert (decision.status.phase, decision.status.attempt) == ("Pending", None)


def test_a_stop_is_gone_through_with_when_the_user_changes_their_mind():
    waiting = decide(stopping(make_job()))
    assert (waiting.status.phase, waiting.status.attempt) == ("Suspending", 1)
    done = decide(stopping(make_job(), rayjobs=(), pods=()))
    assert (done.status.phase, done.status.attempt) == ("Starting", 2)


def test_no_pod_of_the_attempt_before_is_beside_the_resumed_one():
    observed = suspended(make_job(), pods=(make_pod("trainer", deleting=True),))
    status = decide(observed).status
    second = decide(replace(observed, status=status))
    assert "RayJob job-a2" not in applied(second)
    assert "pod job-trainer on node-1" in second.status.message


def test_where_a_suspended_job_goes_on_is_told():
    progress = make_progress(1, "Stopped", step=47, checkpoint={"step": 47, "uri": "pvc://checkpoints/job"})
    decision = decide(stopping(rayjobs=(), pods=(), mailbox=make_mailbox(progress, asked())))
    assert decision.status.message == "Suspended: set spec.suspend to false to go on from step 47."
    assert (decision.status.columns.step, decision.status.ray_job_name) == ("47/300", None)


def test_teachers_that_were_given_back_are_not_called_ready():
    said = TeacherReport(name="teacher", mode="SGLang", ready=True, ready_replicas=1, replicas=1)
    progress = make_progress(1, "Stopped", step=47, teachers=(said,))
    decision = decide(stopping(rayjobs=(), pods=(), deployments=(), mailbox=make_mailbox(progress, asked())))
    (teacher,) = decision.status.teachers
    assert (teacher.ready, teacher.ready_replicas, decision.status.columns.teacher) == (False, 0, "SGLang 0/1")
    ready = training_status(1, suspending(), make_condition("TeacherReady", reason="Probed"))
    going = decide(stopping(rayjobs=(), deployments=(), status=ready, mailbox=make_mailbox(progress, asked())))
    (teacher,) = going.status.teachers
    assert (going.status.phase, teacher.ready, condition(going, "TeacherReady").reason) == (
        "Suspending",
        False,
        "Released",
    )


def test_deadlines_do_not_run_while_a_job_is_suspended():
    job = make_job({"suspend": True, "runPolicy": {"activeDeadlineSeconds": 10, "startupDeadlineSeconds": 10}})
    decision = decide(suspended(job))
    assert (decision.status.phase, decision.requeue_after) == ("Suspended", None)
