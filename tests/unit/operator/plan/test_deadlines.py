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


def started(seconds_ago: float, *conditions, **fields):
    return attempt_status(1, *conditions, seconds_ago=seconds_ago, **fields)


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
            make_running(make_job({"runPolicy": {"activeDeadlineSeconds": 500}}), status=training_status()),
            "ActiveDeadlineExceeded",
            id="a job that takes longer than it may",
        ),
        pytest.param(
            make_running(
                make_job({"runPolicy": {"activeDeadlineSeconds": 500}}),
                status=training_status(),
                mailbox=make_mailbox(make_progress(1, "Succeeded", step=300)),
            ),
            None,
            id="a job that is done in the last moment",
        ),
        pytest.param(
            make_running(
                make_job({"runPolicy": {"activeDeadlineSeconds": 500}}),
                status=training_status(),
                mailbox=make_mailbox(
                    make_progress(1, "Failed", error={"actor": "Infrastructure", "reason": "x", "message": "y"})
                ),
            ),
            "ActiveDeadlineExceeded",
            id="no retry begins after the deadline",
        ),
    ],
)
def test_deadline(observed, want):
    failed = condition(decide(settled(observed)), "Failed")
    assert (failed.reason if failed else None) == want


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
