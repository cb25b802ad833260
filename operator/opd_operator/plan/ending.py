"""How an attempt ended, if it did: success, a stop, the user's error, or lost to the infrastructure. Concludes nothing.

Truth is what the driver said about itself; the RayJob speaks where the driver could not; pods and silence speak last.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from opd_api import names
from opd_api.conditions import Reason
from opd_api.documents import Progress

from ..observed import PodFacts
from .deadlines import progress_deadline
from .situation import Situation
from .times import moment_of

LOG_MARKER = ", last available logs"


class Kind(Enum):
    """What it means for the job."""

    SUCCEEDED = "Succeeded"
    STOPPED = "Stopped"
    USER_ERROR = "UserError"
    LOST = "Lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The end of one attempt."""

    kind: Kind
    message: str = ""
    """What happened, for people."""
    reason: Reason = Reason.RETRYING
    """Of a lost one: HeadLost and ProgressStale are known by name."""
    finished_steps: int | None = None
    total_steps: int | None = None
    """Of a success: what the driver was asked to do."""


def ending_of(situation: Situation) -> Ending | None:
    """None while the attempt goes on, waits for quota, or was not made yet."""
    if not situation.existed:
        return None
    judges: tuple[Callable[[Situation], Ending | None], ...] = (
        _driver_said,
        _preempted,
        _rayjob_vanished,
        _rayjob_ended,
        _head_lost,
        _silent,
    )
    return next((found for judge in judges if (found := judge(situation))), None)


def _driver_said(situation: Situation) -> Ending | None:
    report = situation.report
    if report is None or report.phase in ("Starting", "Training"):
        return None
    if report.phase == "Succeeded":
        return Ending(kind=Kind.SUCCEEDED, finished_steps=report.step, total_steps=report.total_steps)
    if report.phase == "Stopped":
        return Ending(kind=Kind.STOPPED, message=report.message or "the driver was stopped")
    error = report.error
    if error is None:
        return Ending(kind=Kind.LOST, message=report.message or "the driver failed without a reason")
    said = (
        f"{error.path}: {error.message}" if error.path and not error.message.startswith(error.path) else error.message
    )
    kind = Kind.USER_ERROR if error.actor == "User" else Kind.LOST
    return Ending(kind=kind, message=said or error.reason)


def _preempted(situation: Situation) -> Ending | None:
    """Kueue took the pods of a driver that was not quick enough to say so: with the next ones comes another driver."""
    rayjob = situation.rayjob
    if situation.report is None or rayjob is None or not rayjob.suspended or rayjob.deleting:
        return None
    gone = not any(pod.attempt == situation.attempt for pod in situation.ray_pods)
    return Ending(kind=Kind.STOPPED, message="its quota was taken away") if gone else None


def _rayjob_vanished(situation: Situation) -> Ending | None:
    if situation.rayjob is not None and not situation.rayjob.deleting:
        return None
    name = names.rayjob(situation.observed.name, situation.attempt or 0)
    return Ending(kind=Kind.LOST, message=f"RayJob {name} was deleted")


def _rayjob_ended(situation: Situation) -> Ending | None:
    rayjob, report = situation.rayjob, situation.report
    if rayjob is None:
        return None
    said = _gist(rayjob.message) or rayjob.reason
    if rayjob.deployment_status == "ValidationFailed":
        return Ending(
            kind=Kind.USER_ERROR, message=f"KubeRay refuses RayJob {rayjob.name}: {said or 'no reason given'}"
        )
    if rayjob.job_status == "SUCCEEDED":
        # A driver that stops on request exits with 0 as well, and its last report may come later than KubeRay's.
        if report is not None and report.step < report.total_steps:
            message = f"the driver ended after {report.step} of {report.total_steps} steps without a word"
            return Ending(kind=Kind.LOST, message=message)
        return Ending(
            kind=Kind.SUCCEEDED,
            finished_steps=report.step if report else None,
            total_steps=report.total_steps if report else None,
        )
    if rayjob.job_status in ("FAILED", "STOPPED") or rayjob.deployment_status in ("Failed", "Complete"):
        what = rayjob.job_status or rayjob.deployment_status
        return Ending(kind=Kind.LOST, message=f"RayJob {rayjob.name} is {what}" + (f": {said}" if said else ""))
    return None


def _gist(message: str) -> str:
    """Ray appends the end of the driver's log. What tells most is the error that it ended with, else its last line."""
    what, _, log = message.partition(LOG_MARKER)
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    begin = next((i for i in reversed(range(len(lines))) if lines[i].startswith("error:")), len(lines) - 1)
    return ": ".join([what, *([" ".join(lines[begin:])] if lines else [])])


def _head_lost(situation: Situation) -> Ending | None:
    """The driver lives on the head: with its container it is gone, whatever the RayJob says."""
    if situation.report is None or (situation.rayjob is not None and situation.rayjob.suspended):
        return None
    heads = situation.pods("head")
    failed = next((pod for pod in heads if pod.phase == "Failed" or _without_driver(pod, situation.report)), None)
    if failed is not None:
        why = f" ({failed.terminated_reason})" if failed.terminated_reason else ""
        replaced = failed.phase != "Failed" and failed.restarts == 0
        what = f"the head pod was replaced by {failed.name}" if replaced else f"head pod {failed.name} died{why}"
        message = f"{what}, and the driver with it"
        if failed.terminated_reason == "OOMKilled":
            message += "; raise spec.head.resources.limits.memory"
        return Ending(kind=Kind.LOST, reason=Reason.HEAD_LOST, message=message)
    cluster = situation.cluster
    if situation.training and not heads and cluster is not None and not cluster.head_ready:
        return Ending(kind=Kind.LOST, reason=Reason.HEAD_LOST, message="the head pod is gone, and the driver with it")
    return None


def _without_driver(pod: PodFacts, report: Progress) -> bool:
    """Restarted, or made, since the driver's last word: it lived on the one before. KubeRay would submit it anew."""
    told = moment_of(report.time)
    if pod.running_since is None or told is None:
        return pod.restarts > 0
    return pod.running_since > told


def _silent(situation: Situation) -> Ending | None:
    """Of a job that trains; how long a start may take is another deadline."""
    deadline = progress_deadline(situation)
    if deadline is None or situation.now < deadline or situation.job is None:
        return None
    seconds = situation.job.spec.run_policy.progress_deadline_seconds
    message = f"no report for {seconds} s (runPolicy.progressDeadlineSeconds)"
    return Ending(kind=Kind.LOST, reason=Reason.PROGRESS_STALE, message=message)
