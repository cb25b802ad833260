"""Events about a job: transitions between two statuses that are worth a line of `kubectl describe`. Keeps nothing."""

from collections.abc import Iterator

from opd_api.conditions import ConditionType, Reason
from opd_api.status import Condition, Status

from ..objects import EventNote

_GOOD: dict[ConditionType, str] = {
    ConditionType.ACCEPTED: "Accepted",
    ConditionType.QUOTA_RESERVED: "QuotaReserved",
    ConditionType.MODELS_READY: "ModelsReady",
    ConditionType.TEACHER_READY: "TeacherReady",
    ConditionType.CLUSTER_READY: "ClusterReady",
    ConditionType.TRAINING: "Training",
    ConditionType.COMPLETE: "Complete",
}
"""Conditions whose becoming True is good news, and what it is called."""
_QUIET = {
    Reason.VALID,
    Reason.FETCHING,
    Reason.FETCHED,
    Reason.TEACHER_STARTING,
    Reason.PROVISIONING,
    Reason.READY,
    Reason.RELEASED,
    Reason.STARTING,
    Reason.STOPPED,
    Reason.FINISHED,
    Reason.HEALTHY,
    Reason.PREVIOUS_PODS_REMAIN,
}
"""Reasons of a state on the way: no news. Models that are read and pods that are ready are told by Training."""


def events_of(before: Status, after: Status) -> tuple[EventNote, ...]:
    """In the order of the conditions' table; none when nothing changed."""
    if before.conditions == after.conditions and before.attempt == after.attempt:
        return tuple(_report(before, after))
    old = {each.type: each for each in before.conditions}
    changed = [each for each in after.conditions if _changed(old.get(each.type), each)]
    notes = [note for each in changed if (note := _note(each, after))]
    return (*notes, *_attempt(before, after), *_report(before, after))


def _changed(old: Condition | None, new: Condition) -> bool:
    return old is None or (old.status, old.reason) != (new.status, new.reason)


def _note(condition: Condition, status: Status) -> EventNote | None:
    kind, reason = ConditionType(condition.type), Reason(condition.reason)
    token = f"{kind}-{reason}-{status.attempt or 0}-{condition.last_transition_time}"
    if reason in _QUIET:
        return None
    if kind in (ConditionType.FAILED, ConditionType.DEGRADED) or (kind in _GOOD and condition.status != "True"):
        return _event("Normal" if reason is Reason.QUEUED else "Warning", reason, condition.message, token)
    return _event("Normal", _GOOD.get(kind, reason), condition.message, token)


def _attempt(before: Status, after: Status) -> Iterator[EventNote]:
    if before.attempt is not None and after.attempt is not None and after.attempt != before.attempt:
        message = f"Attempt {after.attempt} starts at {after.attempt_start_time}."
        yield _event("Normal", "AttemptRecorded", message, f"attempt-{after.attempt}")


def _report(before: Status, after: Status) -> Iterator[EventNote]:
    """A document in the mailbox that cannot be used is said once, not with every report."""
    old = before.progress.report_problem if before.progress else None
    new = after.progress.report_problem if after.progress else None
    if new and new != old:
        time = after.progress.last_report_time if after.progress else ""
        yield _event("Warning", "ReportIgnored", new, f"report-{after.attempt or 0}-{time}-{new}")


def _event(kind: str, reason: str, message: str, token: str) -> EventNote:
    return EventNote(type=kind, reason=str(reason), message=message[:1024], token=token)
