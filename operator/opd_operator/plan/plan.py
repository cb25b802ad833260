"""One pass over one job: from what is known to what is to be written. Total: there is no observation it fails on."""

from dataclasses import replace
from datetime import datetime, timedelta

from ..observed import Observed
from ..settings import Settings
from . import deadlines
from .children import to_apply, to_delete
from .decision import Plan
from .events import events_of
from .lifecycle import Course, Stage, course_of
from .situation import Situation
from .status import status_of

_TIMELESS = {
    Stage.DELETING,
    Stage.UNREADABLE,
    Stage.WITHOUT_KUBERAY,
    Stage.BLOCKED,
    Stage.RELEASING,
    Stage.SUSPENDED,
}
"""Only somebody else's act leads on."""


def plan(observed: Observed, settings: Settings, now: datetime) -> Plan:
    """Pure. Applied to what it led to, it is empty."""
    situation = Situation(observed, settings, now)
    course = course_of(situation)
    status = status_of(situation, course)
    return Plan(
        status=status,
        events=events_of(observed.status, status),
        fence=course.attempt if course.stage is Stage.LAUNCHING else None,
        apply=to_apply(situation, course, status),
        delete=to_delete(situation, course),
        delete_job=_outlived(situation),
        requeue_after=_requeue(Situation(replace(observed, status=status), settings, now), course),
    )


def _outlived(situation: Situation) -> bool:
    end = deadlines.end_of_life(situation)
    return end is not None and situation.now >= end and not situation.observed.deleting


def _requeue(situation: Situation, course: Course) -> timedelta | None:
    """Until the nearest deadline that could fire; what has passed already has been acted upon."""
    if course.stage is Stage.FINISHED:
        farewell = deadlines.farewell(situation) if situation.rayjobs else None
        return _nearest(situation, deadlines.end_of_life(situation), farewell)
    if course.stage is Stage.SUSPENDING:
        return _nearest(situation, deadlines.stop_deadline(situation))
    if course.stage in _TIMELESS:
        return None
    return _nearest(
        situation,
        deadlines.models_pod_due(situation) if course.stage is Stage.FETCHING else None,
        deadlines.attempt_due(situation),
        deadlines.startup_deadline(situation),
        deadlines.progress_deadline(situation),
        deadlines.active_deadline(situation),
    )


def _nearest(situation: Situation, *due: datetime | None) -> timedelta | None:
    coming = [moment for moment in due if moment is not None and moment > situation.now]
    return min(coming) - situation.now if coming else None
