"""Deadlines, time to live, and when the plan wants to be asked again."""

import pytest
from operator_makers import (
    NOW,
    ago,
    attempt_status,
    condition,
    decide,
    fetching,
    make_condition,
    make_config,
    make_job,
    make_mailbox,
    make_models_job,
    make_observed,
    make_pod,
    make_progress,
    make_rayjob,
    make_running,
    make_status,
    recorded,
    settled,
    training_status,
)

from opd_operator.plan.times import moment_of, stamp

STARTING = make_mailbox(make_progress(1, "Starting", step=0))


HURRIED = make_job({"runPolicy": {"activeDeadlineSeconds": 500}})


def started(seconds_ago: float, *conditions, **fields):
    return attempt_status(1, *conditions, seconds_ago=seconds_ago, **fields)


def admitted(seconds_ago: float):
    return make_condition("QuotaReserved", reason="Admitted", seconds_ago=seconds_ago)


def queued(seconds_ago: float):
    return make_condition("QuotaReserved", "False", "Queued", seconds_ago=seconds_ago)


def resumed(seconds_ago: float):
    return make_condition("Suspended", "False", "Resumed", seconds_ago=seconds_ago)


@pytest.mark.parametrize(
    ("observed", "want"),
    [
        pytest.param(
            make_running(status=started(3600), mailbox=STARTING),
            "StartupDeadlineExceeded",
            id="an attempt that never trains",
        ),
        pytest.param(make_running(status=started(3599), mailbox=STARTING), None, id="a second before"),
        pytest.param(
            make_running(status=training_status(1, attempt_start_time=stamp(ago(7200)))),
            None,
            id="one that trains long",
        ),
        pytest.param(
            make_running(status=training_status(1, attempt_start_time=stamp(ago(7200))), mailbox=STARTING),
            None,
            id="one that trained, whatever the mailbox says now",
        ),
        pytest.param(
            fetching(status=make_status(make_condition("Accepted", seconds_ago=3600))),
            "StartupDeadlineExceeded",
            id="models that are never read",
        ),
        pytest.param(
            make_running(
                status=started(9000, make_condition("Suspended", "False", "Resumed", seconds_ago=60)), mailbox=STARTING
            ),
            None,
            id="time in suspension does not count",
        ),
        pytest.param(
            make_running(
                status=started(9000, make_condition("QuotaReserved", reason="Admitted", seconds_ago=60)),
                mailbox=make_mailbox(make_progress(1, "Starting", step=0)),
            ),
            None,
            id="time in a queue does not count",
        ),
        pytest.param(
            make_running(status=started(9000), rayjobs=(make_rayjob(suspended=True),), mailbox=make_mailbox()),
            None,
            id="a queue may be long",
        ),
        pytest.param(
            make_running(HURRIED, status=training_status()),
            "ActiveDeadlineExceeded",
            id="a job that takes longer than it may",
        ),
        pytest.param(
            make_running(
                HURRIED,
                status=training_status(),
                mailbox=make_mailbox(make_progress(1, "Succeeded", step=300)),
            ),
            None,
            id="a job that is done in the last moment",
        ),
        pytest.param(
            make_running(
                HURRIED,
                status=training_status(),
                mailbox=make_mailbox(
                    make_progress(1, "Failed", error={"actor": "Infrastructure", "reason": "x", "message": "y"})
                ),
            ),
            "ActiveDeadlineExceeded",
            id="no retry begins after the deadline",
        ),
        pytest.param(
            make_running(HURRIED, status=started(9000, admitted(499))), None, id="it begins with the admission"
        ),
        pytest.param(
            make_running(HURRIED, status=started(9000, admitted(500))),
            "ActiveDeadlineExceeded",
            id="and ends a job that takes longer from there",
        ),
        pytest.param(
            make_running(HURRIED, status=started(9000), rayjobs=(make_rayjob(suspended=True),), mailbox=make_mailbox()),
            None,
            id="a queue may be longer than it",
        ),
        pytest.param(
            make_observed(HURRIED, status=recorded(2, queued(300), start_time=stamp(ago(9000))), config=make_config()),
            None,
            id="also between an attempt that was sent away and the next one in the queue",
        ),
        pytest.param(
            make_running(HURRIED, status=started(9000, resumed(499))), None, id="it begins again with a resumption"
        ),
        pytest.param(
            make_running(HURRIED, status=started(9000, resumed(500))),
            "ActiveDeadlineExceeded",
            id="and counts from there",
        ),
        pytest.param(
            fetching(status=make_status(accepted_seconds_ago=9000), models_job=make_models_job(suspended=True)),
            None,
            id="models in a queue may wait",
        ),
        pytest.param(
            fetching(status=make_status(accepted_seconds_ago=9000), models_job=make_models_job(resumed=ago(3599))),
            None,
            id="and have their time from there",
        ),
    ],
)
def test_deadline(observed, want):
    failed = condition(decide(settled(observed)), "Failed")
    assert (failed.reason if failed else None) == want


def test_a_job_that_was_sent_away_again_and_again_is_not_late():
    """From one attempt to the next: nothing forgets that it waits."""
    trained = started(9000, admitted(300), make_condition("Training", reason="Running", seconds_ago=200))
    sent_away = make_running(HURRIED, status=trained, rayjobs=(make_rayjob(suspended=True),), pods=())
    recorded_next = decide(settled(sent_away)).status
    assert (recorded_next.attempt, condition(recorded_next, "QuotaReserved").status) == (2, "False")
    launched = decide(settled(make_observed(HURRIED, status=recorded_next, config=make_config())))
    assert (launched.fence, condition(launched, "Failed")) == (2, None)


def test_a_late_start_says_what_it_was_waiting_for():
    pods = (
        make_pod("trainer", phase="Pending", scheduled=False, ready=False, unschedulable="0/3 nodes: Insufficient cpu"),
    )
    before = decide(settled(make_running(status=started(3000), mailbox=STARTING, pods=pods)))
    after = decide(settled(make_running(status=before.status, mailbox=STARTING, pods=pods)), now=ago(-700))
    assert after.status.message.startswith("no training after 3600 s (runPolicy.startupDeadlineSeconds): trainer pod")


@pytest.mark.parametrize(
    ("observed", "want_seconds"),
    [
        pytest.param(make_running(status=started(100), mailbox=STARTING), 3500, id="the startup deadline"),
        pytest.param(make_running(mailbox=make_mailbox(make_progress(seconds_ago=300))), 1500, id="the next report"),
        pytest.param(
            make_running(make_job({"runPolicy": {"activeDeadlineSeconds": 520}}), status=training_status()),
            20,
            id="the active deadline",
        ),
        pytest.param(
            make_observed(status=recorded(2, seconds_ago=-40), config=make_config()), 40, id="the end of a back-off"
        ),
        pytest.param(fetching(), 10, id="the models Job's pod"),
        pytest.param(
            make_running(status=training_status(1, make_condition("Failed"))), None, id="nothing, after the end"
        ),
    ],
)
def test_the_next_look_is_at_the_nearest_deadline(observed, want_seconds):
    after = decide(settled(observed)).requeue_after
    assert (after.total_seconds() if after else None) == want_seconds


@pytest.mark.parametrize(
    ("ttl", "ended_seconds_ago", "want_deleted", "want_requeue"),
    [
        pytest.param(None, 10**6, False, None, id="without a time to live it stays"),
        pytest.param(100, 40, False, 60, id="before its time it stays"),
        pytest.param(100, 100, True, None, id="then it goes"),
        pytest.param(0, 0, True, None, id="0 is at once"),
    ],
)
def test_time_to_live(ttl, ended_seconds_ago, want_deleted, want_requeue):
    job = make_job({"runPolicy": {"ttlSecondsAfterFinished": ttl}})
    failed = make_condition("Failed", reason="UserError")
    status = training_status(1, failed, completion_time=stamp(ago(ended_seconds_ago)))
    decision = decide(make_observed(job, status=status))
    after = decision.requeue_after
    assert (decision.delete_job, after.total_seconds() if after else None) == (want_deleted, want_requeue)


def test_the_end_is_written_before_the_job_goes():
    job = make_job({"runPolicy": {"ttlSecondsAfterFinished": 0}})
    mailbox = make_mailbox(make_progress(1, "Succeeded", step=300))
    assert not decide(settled(make_running(job, mailbox=mailbox))).delete_job


@pytest.mark.parametrize(
    ("text", "want"),
    [
        pytest.param("2026-11-25T20:10:00Z", NOW, id="as we write it"),
        pytest.param("2026-11-25T21:10:00.000+01:00", NOW, id="another zone"),
        pytest.param("2026-11-25T20:10:00", NOW, id="no zone is UTC"),
        pytest.param("soon", None, id="no time at all"),
        pytest.param("", None, id="empty"),
        pytest.param("9999-12-31T23:59:59Z", None, id="too far to calculate with"),
        pytest.param("0001-01-01T00:00:00+14:00", None, id="before the first year"),
    ],
)
def test_times_are_read_or_left(text, want):
    assert moment_of(text) == want
