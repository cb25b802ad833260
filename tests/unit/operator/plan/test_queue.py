"""Kueue: what is said of a job's quota, and when nothing is said of it."""

import pytest
from operator_makers import (
    attempt_status,
    condition,
    decide,
    make_condition,
    make_config,
    make_job,
    make_mailbox,
    make_observed,
    make_progress,
    make_rayjob,
    make_running,
    recorded,
    settled,
)

JOB = make_job({"scheduling": {"queueName": "team-a"}})
QUEUED = make_condition("QuotaReserved", "False", "Queued")
ADMITTED = make_condition("QuotaReserved", reason="Admitted")
WAITING = {"rayjobs": (make_rayjob(suspended=True),), "mailbox": make_mailbox(), "pods": (), "rayclusters": ()}
LOST = make_mailbox(make_progress(1, "Failed", error={"actor": "Infrastructure", "reason": "x", "message": "y"}))


def running(*conditions, job=JOB, **fields):
    return settled(make_running(job, **{"status": attempt_status(1, *conditions)} | fields))


def resumed(job):
    """It was admitted once, suspended, and is to go on."""
    status = recorded(1, ADMITTED, make_condition("Suspended", reason="Suspended"))
    return settled(make_observed(job, status=status, config=make_config(job)))


@pytest.mark.parametrize(
    ("observed", "want"),
    [
        pytest.param(running(), None, id="a queue that nobody minds admits nobody"),
        pytest.param(running(**WAITING), ("False", "RayJob job-a1 waits for quota."), id="what Kueue holds back waits"),
        pytest.param(
            running(job=make_job(), **WAITING),
            ("False", "RayJob job-a1 waits for quota."),
            id="also where Kueue holds back what names no queue",
        ),
        pytest.param(running(QUEUED), ("True", "Admitted by queue team-a."), id="and is admitted"),
        pytest.param(running(QUEUED, job=make_job()), ("True", "Admitted."), id="by whichever queue"),
        pytest.param(
            running(ADMITTED, mailbox=LOST), ("False", "Attempt 2 waits for quota."), id="the next attempt waits again"
        ),
        pytest.param(running(mailbox=LOST), None, id="and where nothing ever waited it does not"),
        pytest.param(
            resumed(make_job({"scheduling": {"queueName": "research"}})),
            ("False", "Attempt 2 waits for quota."),
            id="so does a resumed job",
        ),
        pytest.param(resumed(make_job()), None, id="unless it has left its queue"),
    ],
)
def test_quota(observed, want):
    said = condition(decide(observed), "QuotaReserved")
    assert (said and (said.status, said.message)) == want
