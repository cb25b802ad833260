"""The runtime's reports: what is taken over, what is ignored, and what is said about it."""

from dataclasses import replace

import pytest
from operator_makers import (
    after,
    ago,
    condition,
    decide,
    make_config,
    make_deployment,
    make_job,
    make_mailbox,
    make_observed,
    make_progress,
    make_rayjob,
    make_running,
    recorded,
    settled,
)

from opd_api.documents import DocumentError
from opd_api.status import StatusDistillation, StatusProgress, StatusReward
from opd_operator.plan.times import stamp

METRICS = {
    "opd/reverse_kl": 0.182,
    "opd/reverse_kl_first": 0.611,
    "opd/reverse_kl_p95": 0.9,
    "opd/kl_coef": 1.0,
    "reward/raw": 0.62,
    "eval/pass@1": 0.81,
    "eval/step": 100.0,
    "tokens/per_second": 5120.04,
    "time/left": 5400.7,
}
TEACHER = {
    "name": "teacher",
    "mode": "SGLang",
    "ready": True,
    "ready_replicas": 1,
    "replicas": 1,
    "failed_scores": 2,
    "score_latency_p95_milliseconds": 84.0,
    "reverse_kl": 0.182,
}
FULL = make_progress(
    metrics=METRICS,
    trend="Falling",
    teachers=(TEACHER,),
    checkpoint={"step": 100, "uri": "pvc://checkpoints/job", "export_uri": None},
)


@pytest.mark.parametrize(
    "time",
    [
        pytest.param("2026-11-25 20:09:50", id="no T and no zone"),
        pytest.param("20261125T200950.25Z", id="without dashes"),
        pytest.param("2026-11-25T21:09:50+01:00", id="another zone"),
    ],
)
def test_the_time_of_a_report_is_written_as_the_api_server_takes_it(time):
    status = decide(settled(make_running(mailbox=make_mailbox(make_progress(time=time))))).status
    assert status.progress.last_report_time == "2026-11-25T20:09:50Z"


def test_all_of_a_report_is_in_the_status():
    status = decide(settled(make_running(mailbox=make_mailbox(FULL)))).status
    assert status.progress == StatusProgress(
        step=120,
        total_steps=300,
        percent=40,
        eta_seconds=5400,
        tokens_per_second=5120.0,
        last_report_time=stamp(ago(10)),
    )
    assert status.distillation == StatusDistillation(
        reverse_kl=0.182, initial_reverse_kl=0.611, reverse_kl_p95=0.9, kl_coef=1.0, trend="Falling"
    )
    assert (status.reward, status.evaluation.pass_at_1, status.evaluation.step) == (StatusReward(mean=0.62), 0.81, 100)
    (teacher,) = status.teachers
    assert teacher.endpoint == "http://job-teacher.research.svc:30000"
    assert (teacher.ready, teacher.failed_scores, teacher.score_latency_p95_milliseconds) == (True, 2, 84.0)
    assert dict(status.columns) == {
        "step": "120/300",
        "kl": "0.182",
        "reward": "0.62",
        "teacher": "SGLang 1/1",
        "pass_at_1": "0.81",
    }
    assert status.checkpoint.step == 100
    assert (status.ray_job_name, status.ray_cluster_name) == ("job-a1", "job-a1-x7k2p")


def known_status(**fields):
    """As left by the full report."""
    return replace(make_running(), status=decide(settled(make_running(mailbox=make_mailbox(FULL)))).status, **fields)


BAD = [
    pytest.param(
        DocumentError(reason="TooLarge", message="70000 bytes; at most 65536 are read"), "too large", id="too large"
    ),
    pytest.param(DocumentError(reason="Unreadable", message="step: not a number"), "not readable", id="wrong types"),
    pytest.param(make_progress(7), "a report of attempt 7 is ignored: this is attempt 1", id="of a later attempt"),
    pytest.param(make_progress(seconds_ago=-400), "in the future", id="from the future"),
    pytest.param(make_progress().model_copy(update={"time": "soon"}), "cannot be read", id="without a time"),
]


@pytest.mark.parametrize(("document", "want"), BAD)
def test_a_bad_report_changes_nothing_but_is_said_once(document, want):
    observed = settled(known_status(mailbox=make_mailbox(document)))
    decision = decide(observed)
    assert want in decision.status.progress.report_problem
    kept = decision.status.progress.model_copy(update={"report_problem": None})
    assert (kept, decision.status.phase) == (observed.status.progress, "Training")
    assert decision.status.columns == observed.status.columns
    assert [(event.type, event.reason) for event in decision.events] == [("Warning", "ReportIgnored")]
    assert decide(after(observed, decision)).events == ()


def test_a_good_report_takes_the_complaint_back():
    observed = settled(known_status(mailbox=make_mailbox(DocumentError(reason="Unreadable", message="x"))))
    complained = decide(observed)
    good = decide(replace(after(observed, complained), mailbox=make_mailbox(FULL)))
    assert good.status.progress.report_problem is None


def test_bad_reports_do_not_keep_a_silent_job_alive():
    status = known_status().status
    silent = status.progress.model_copy(update={"last_report_time": stamp(ago(1900))})
    status = status.model_copy(update={"progress": silent, "attempt_start_time": stamp(ago(4000))})
    document = DocumentError(reason="Unreadable", message="x")
    assert decide(settled(make_running(status=status, mailbox=make_mailbox(document)))).status.phase == "Retrying"


def test_a_zombie_is_ignored_and_named():
    observed = settled(
        make_observed(status=recorded(2, seconds_ago=60), config=make_config(), mailbox=make_mailbox(make_progress(1)))
    )
    decision = decide(observed)
    assert decision.status.phase == "Starting"
    assert decision.status.progress.report_problem == "a report of attempt 1 is ignored: this is attempt 2"


def test_the_last_words_of_the_attempt_before_are_no_zombie():
    old = make_mailbox(make_progress(1, "Failed", seconds_ago=90))
    decision = decide(settled(make_observed(status=recorded(2, seconds_ago=60), config=make_config(), mailbox=old)))
    assert decision.status.progress is None


def test_a_new_attempt_keeps_the_numbers_until_it_has_its_own():
    before = known_status().status
    status = before.model_copy(update={"attempt": 2, "attempt_start_time": stamp(ago(5)), "ray_job_name": "job-a2"})
    report = make_progress(2, "Starting", step=0, seconds_ago=1, message="loading the model")
    observed = make_running(status=status, mailbox=make_mailbox(report), rayjobs=(make_rayjob(2),))
    decision = decide(settled(observed))
    assert (decision.status.progress.step, decision.status.columns.step) == (120, "120/300")
    assert decision.status.columns.kl == "0.182"
    assert decision.status.checkpoint == before.checkpoint


@pytest.mark.parametrize(
    ("fields", "field", "want"),
    [
        pytest.param({"step": 900}, "percent", 100, id="more steps than there are"),
        pytest.param({"total_steps": 0}, "percent", None, id="no steps at all"),
        pytest.param({"metrics": {"time/left": 1e300}}, "eta_seconds", 2**31 - 1, id="an endless rest"),
        pytest.param({"metrics": {"time/left": -5.0}}, "eta_seconds", 0, id="a negative rest"),
        pytest.param({"metrics": {"tokens/per_second": -5.0}}, "tokens_per_second", None, id="a negative speed"),
    ],
)
def test_absurd_numbers_stay_in_bounds(fields, field, want):
    status = decide(settled(make_running(mailbox=make_mailbox(make_progress(**fields))))).status
    assert getattr(status.progress, field) == want
    assert type(status).model_validate(status.model_dump()) == status


def test_absurd_metrics_fit_their_columns():
    metrics = {"opd/reverse_kl": 1e300, "reward/raw": -1e300, "eval/pass@1": 7.0}
    status = decide(settled(make_running(mailbox=make_mailbox(make_progress(metrics=metrics))))).status
    assert (status.columns.kl, status.columns.reward, status.evaluation) == ("1e+300", "-1e+300", None)


def test_servers_are_counted_by_kubernetes():
    deployments = (make_deployment(replicas=2, ready_replicas=1),)
    job = make_job(sglang={"replicas": 2})
    status = decide(settled(make_running(job, mailbox=make_mailbox(FULL), deployments=deployments))).status
    assert (status.columns.teacher, status.teachers[0].ready_replicas) == ("SGLang 1/2", 1)


@pytest.mark.parametrize(
    ("job", "want_column", "want_endpoint"),
    [
        pytest.param(make_job(mode="Megatron"), "Megatron", None, id="a teacher in the trainers"),
        pytest.param(
            make_job(model="", sglang={"endpoint": "http://teacher.example:30000"}),
            "SGLang 1/1",
            "http://teacher.example:30000",
            id="a teacher of somebody else",
        ),
    ],
)
def test_teachers_that_are_not_deployed(job, want_column, want_endpoint):
    mode = job.spec.teachers[0].mode
    report = make_progress(teachers=(TEACHER | {"mode": mode},))
    status = decide(settled(make_running(job, mailbox=make_mailbox(report), deployments=()))).status
    assert (status.columns.teacher, status.teachers[0].endpoint) == (want_column, want_endpoint)


@pytest.mark.parametrize(
    ("actor", "reason", "want_phase"),
    [
        pytest.param("User", "UniformLogprobs", "Failed", id="a teacher that guesses ends the job"),
        pytest.param(
            "Infrastructure", "LogprobsUnavailable", "Retrying", id="a teacher that lost its log-probs is retried"
        ),
    ],
)
def test_what_is_wrong_with_a_teacher_is_named_by_its_condition(actor, reason, want_phase):
    error = {"actor": actor, "reason": reason, "message": "the teacher at x failed its probe"}
    decision = decide(settled(make_running(mailbox=make_mailbox(make_progress(1, "Failed", error=error)))))
    assert (condition(decision, "TeacherReady").reason, decision.status.phase) == (reason, want_phase)
    assert "the teacher at x failed its probe" in decision.status.message
