"""The moments at which something is due though nothing happens. Decides nothing when they come."""

from datetime import datetime, timedelta

from opd_api.conditions import ConditionType

from .situation import Situation
from .times import latest, moment_of

RETRY_SECONDS, RETRY_SECONDS_MOST = 10, 300
RETRY_LONGEST = timedelta(seconds=RETRY_SECONDS_MOST)
FAREWELL = timedelta(seconds=60)
"""After a success the driver still draws its plot and closes its files."""
POD_PATIENCE = timedelta(seconds=30)
"""A Job's pod is made within a second, unless the API server refuses it."""


def retry_delay(retries: int) -> timedelta:
    """10 s, doubled with every retry, 300 s at most."""
    return timedelta(seconds=min(RETRY_SECONDS << min(retries - 1, 10), RETRY_SECONDS_MOST))


def attempt_due(situation: Situation) -> datetime | None:
    """When the attempt may be made; None: at once. A start far ahead is a clock that was wrong, and not waited for."""
    start = situation.attempt_start
    return start if start and situation.now < start <= situation.now + RETRY_LONGEST else None


def startup_deadline(situation: Situation) -> datetime | None:
    """Until when training must have begun. Time in suspension, without KubeRay or in a queue does not count."""
    job = situation.job
    if job is None or situation.training:
        return None
    rayjob, fetched = situation.rayjob, situation.models_job
    if (rayjob is not None and rayjob.suspended) or (fetched is not None and fetched.suspended):
        return None
    accepted = situation.since(ConditionType.ACCEPTED) if situation.holds(ConditionType.ACCEPTED) else None
    let_go = fetched.resumed if fetched is not None else None
    start = latest(accepted, situation.resumed, situation.attempt_start, situation.admitted, let_go)
    return start + timedelta(seconds=job.spec.run_policy.startup_deadline_seconds) if start else None


def progress_deadline(situation: Situation) -> datetime | None:
    """Until when a job that trains must report again."""
    job, last = situation.job, situation.last_sign
    if job is None or last is None or not situation.training:
        return None
    if situation.rayjob is not None and situation.rayjob.suspended:
        return None
    return last + timedelta(seconds=job.spec.run_policy.progress_deadline_seconds)


def active_deadline(situation: Situation) -> datetime | None:
    """Until when the job must be done. As of a batch/v1 Job, the clock starts anew when the job is resumed or admitted,
    and there is none while it waits for quota."""
    job, start = situation.job, moment_of(situation.status.start_time)
    seconds = job.spec.run_policy.active_deadline_seconds if job else None
    if not (start and seconds) or situation.state(ConditionType.QUOTA_RESERVED) == "False":
        return None
    if situation.rayjob is not None and situation.rayjob.suspended:
        return None
    begun = latest(start, situation.resumed, situation.admitted)
    return begun + timedelta(seconds=seconds) if begun else None


def models_pod_due(situation: Situation) -> datetime | None:
    """Until when the models Job should have a pod; None: it has one, waits in a queue or has ended."""
    fetched = situation.models_job
    if fetched is None or fetched.suspended or fetched.succeeded or fetched.failed:
        return None
    if any(pod.role == "models" for pod in situation.observed.pods):
        return None
    return (fetched.resumed or fetched.created) + POD_PATIENCE


def stop_deadline(situation: Situation) -> datetime | None:
    """Until when a requested stop may take; None when none was requested, or nobody knows when."""
    asked = situation.since(ConditionType.SUSPENDED)
    if situation.state(ConditionType.SUSPENDED) != "Unknown" or asked is None:
        return None
    return asked + timedelta(seconds=situation.settings.stop_grace_seconds)


def end_of_life(situation: Situation) -> datetime | None:
    """When the OPDJob itself goes."""
    job, ended = situation.job, completion(situation)
    seconds = job.spec.run_policy.ttl_seconds_after_finished if job else None
    return ended + timedelta(seconds=seconds) if ended is not None and seconds is not None else None


def farewell(situation: Situation) -> datetime | None:
    """Until when the RayJob of a job that succeeded may end by itself."""
    ended = completion(situation)
    return ended + FAREWELL if ended and situation.holds(ConditionType.COMPLETE) else None


def completion(situation: Situation) -> datetime | None:
    """When the job ended."""
    condition = ConditionType.COMPLETE if situation.holds(ConditionType.COMPLETE) else ConditionType.FAILED
    if not situation.finished:
        return None
    return moment_of(situation.status.completion_time) or situation.since(condition)
