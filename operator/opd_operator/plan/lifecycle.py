"""Where the job stands and what its next step is: stages, attempts, retries, deadlines, suspension. Makes no object and
writes no status: it says what they follow from.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum

from opd_api.conditions import ConditionType, Reason
from opd_api.rules import check_pods

from ..build import is_of_another, template_problems
from .deadlines import active_deadline, attempt_due, retry_delay, startup_deadline, stop_deadline
from .ending import Ending, Kind, ending_of
from .models import Models, joined, models_of
from .situation import Situation
from .times import stamp
from .verdict import Verdict


class Stage(Enum):
    """What the job is in the middle of."""

    DELETING = "the OPDJob is on its way out"
    FINISHED = "Complete or Failed"
    UNREADABLE = "running, and its document cannot be read any more"
    SUSPENDING = "the driver was asked to stop"
    RELEASING = "stopped, its pods go"
    SUSPENDED = "nothing runs"
    RESUMING = "the attempt after a suspension is recorded"
    WITHOUT_KUBERAY = "nobody makes Ray clusters here"
    BLOCKED = "somebody else's object has a child's name"
    FETCHING = "the models are read"
    RECORDING = "an attempt is written down"
    WAITING = "an attempt backs off, or waits for pods of the one before"
    LAUNCHING = "the RayJob is made"
    QUEUED = "Kueue holds the RayJob back"
    STARTING = "pods start, models load, teachers are probed"
    TRAINING = "steps are made"


ENDED = {Stage.FINISHED, Stage.RELEASING, Stage.SUSPENDED}
"""No RayJob may be there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What the job does now."""

    stage: Stage
    attempt: int | None
    attempt_start: str | None
    retries: int | None
    models: Models = field(default_factory=Models)
    complete: bool = False
    failed: Verdict | None = None
    refused: Verdict | None = None
    """Why the document, the models or the cluster cannot be worked with: the reason of Accepted."""
    suspended: str = ""
    """State of the condition Suspended from now on; "" where it was never set."""
    lost: Ending | None = None
    """How the attempt before ended, in the pass that finds out."""
    remaining: tuple[str, ...] = ()
    """Pods and RayJobs that must be gone first."""

    @property
    def records_first(self) -> bool:
        """The first attempt is written down with what its launch would say: one write instead of two."""
        return self.stage is Stage.RECORDING and self.attempt == 1

    @property
    def rayjob_expected(self) -> bool:
        return self.stage in (Stage.QUEUED, Stage.STARTING, Stage.TRAINING, Stage.SUSPENDING)


def course_of(situation: Situation) -> Course:
    """The first of these that has something to say."""
    steps: tuple[Callable[[Situation], Course | None], ...] = (
        _deleting,
        _finished,
        _unreadable,
        _suspension,
        _blocked,
        _running,
    )
    found = next((course for step in steps if (course := step(situation))), None)
    return found or _next_attempt(situation)


def _course(situation: Situation, stage: Stage, **facts: object) -> Course:
    """The job as it is, in `stage`."""
    status = situation.status
    known = Course(
        stage=stage,
        attempt=status.attempt,
        attempt_start=status.attempt_start_time,
        retries=status.retries,
        suspended=situation.state(ConditionType.SUSPENDED),
    )
    return replace(known, **facts)  # type: ignore[arg-type]


def _fail(situation: Situation, reason: Reason, message: str, **facts: object) -> Course:
    return _course(situation, Stage.FINISHED, failed=Verdict(reason=reason, message=message), **facts)


def _attempt(situation: Situation, stage: Stage, start: datetime, **facts: object) -> Course:
    """The next attempt's number and start. Nothing of it is made before they are written down."""
    number = (situation.attempt or 0) + 1
    return _course(situation, stage, attempt=number, attempt_start=stamp(start), **facts)


# ---------------------------------------------------------------- ends and obstacles
def _deleting(situation: Situation) -> Course | None:
    return _course(situation, Stage.DELETING) if situation.observed.deleting else None


def _finished(situation: Situation) -> Course | None:
    return _course(situation, Stage.FINISHED) if situation.finished else None


def _unreadable(situation: Situation) -> Course | None:
    """A job that runs is left alone: an operator of an older version must not end what a newer one has begun."""
    if situation.job is not None:
        return None
    message = joined(situation.observed.problems) or "the document cannot be read"
    refused = Verdict(reason=Reason.INVALID, message=message)
    if situation.attempt is None:
        return _fail(situation, Reason.USER_ERROR, message, refused=refused)
    return _course(situation, Stage.UNREADABLE, refused=refused)


def _blocked(situation: Situation) -> Course | None:
    if not situation.observed.kuberay:
        message = (
            "KubeRay is missing: the API server knows no rayjobs.ray.io; install it, and the job goes on by itself"
        )
        refused = Verdict(reason=Reason.KUBERAY_MISSING, message=message)
        return _course(situation, Stage.WITHOUT_KUBERAY, refused=refused)
    if situation.strangers and not situation.existed:
        taken = ", ".join(situation.strangers)
        message = (
            f"not of this job and in its way: {taken}; waiting until they are gone (delete them, or rename the job)"
        )
        return _course(situation, Stage.BLOCKED, refused=Verdict(reason=Reason.NAME_TAKEN, message=message))
    return None


# ---------------------------------------------------------------- suspension
def _suspension(situation: Situation) -> Course | None:
    job, state = situation.job, situation.state(ConditionType.SUSPENDED)
    wanted = job is not None and job.spec.suspend
    if state == "True":
        return _course(situation, Stage.SUSPENDED) if wanted else _resume(situation)
    if not wanted and _outdated(situation):
        return _resume(situation) if _stopped(situation) else _course(situation, Stage.SUSPENDING, suspended="Unknown")
    if state == "Unknown":
        return _stopping(situation, wanted=wanted)
    if not wanted:
        return None
    if situation.existed and not _stopped(situation):
        return _course(situation, Stage.SUSPENDING, suspended="Unknown")
    return _stopping(situation, wanted=wanted)


def _outdated(situation: Situation) -> bool:
    """The attempt is another document's: changed as a suspension began, or suspended, changed and resumed between two
    looks. Its success is not the new one's, nor is its error; and it would go on to more steps than are wanted now."""
    rayjob, job, report = situation.rayjob, situation.job, situation.report
    if rayjob is None or job is None:
        return False
    return is_of_another(rayjob.document, job) or (report is not None and report.total_steps > job.spec.steps)


def _stopping(situation: Situation, *, wanted: bool) -> Course:
    """A stop once asked for is gone through with, even when the user has changed their mind."""
    ending = ending_of(situation)
    if ending is not None and not _outdated(situation) and (end := _final(situation, ending)):
        return end
    if not _stopped(situation):
        return _course(situation, Stage.SUSPENDING)
    remaining = _remaining(situation)
    if remaining:
        return _course(situation, Stage.RELEASING, suspended="Unknown", remaining=remaining)
    return _course(situation, Stage.SUSPENDED, suspended="True") if wanted else _resume(situation)


def _stopped(situation: Situation) -> bool:
    """Nothing is left to wait for: the attempt ended, has nothing to save, or has had its time."""
    rayjob, deadline = situation.rayjob, stop_deadline(situation)
    if not situation.existed or rayjob is None or rayjob.suspended or ending_of(situation) is not None:
        return True
    if situation.report is None and not situation.training:
        return True
    asked = situation.state(ConditionType.SUSPENDED) == "Unknown"
    return asked and (deadline is None or situation.now >= deadline)


def _resume(situation: Situation) -> Course:
    """Not a retry. A job that was suspended before its first attempt goes on where it was."""
    if situation.attempt is None:
        return _course(situation, Stage.RESUMING, suspended="False")
    return _attempt(situation, Stage.RESUMING, situation.now, suspended="False")


# ---------------------------------------------------------------- a living attempt
def _running(situation: Situation) -> Course | None:
    if not situation.existed:
        return None
    ending = ending_of(situation)
    if ending is not None and (end := _final(situation, ending)):
        return end
    if late := _late(situation):
        return late
    if ending is not None:
        return _goes_on(situation, ending) if _gave_way(situation, ending) else _retry(situation, ending)
    if situation.rayjob is not None and situation.rayjob.suspended:
        return _course(situation, Stage.QUEUED)
    return _course(situation, Stage.TRAINING if situation.training else Stage.STARTING)


def _final(situation: Situation, ending: Ending) -> Course | None:
    """What a success or a user's error means; None when the attempt was lost or stopped."""
    job = situation.job
    if ending.kind is Kind.USER_ERROR:
        return _fail(situation, Reason.USER_ERROR, ending.message)
    if ending.kind is not Kind.SUCCEEDED or job is None:
        return None
    if ending.total_steps is not None and ending.total_steps < job.spec.steps:
        if job.spec.suspend or situation.state(ConditionType.SUSPENDED) == "Unknown":
            return None
        return _attempt(situation, Stage.RECORDING, situation.now)
    return _course(situation, Stage.FINISHED, complete=True)


def _gave_way(situation: Situation, ending: Ending) -> bool:
    """Because a pod was evicted, having saved; or because Kueue took its quota, which has its own patience."""
    saved = situation.checkpoint is not None
    preempted = situation.rayjob is not None and situation.rayjob.suspended
    return ending.kind is Kind.STOPPED and (saved or preempted)


def _goes_on(situation: Situation, ending: Ending) -> Course:
    """Nothing failed, so it is no retry."""
    return _attempt(situation, Stage.RECORDING, situation.now, lost=ending)


def _retry(situation: Situation, ending: Ending) -> Course:
    retries = (situation.status.retries or 0) + 1
    limit = situation.job.spec.run_policy.backoff_limit if situation.job else 0
    if retries > limit:
        message = (
            f"attempt {situation.attempt} was lost: {ending.message}; {limit} retries (runPolicy.backoffLimit) are used"
        )
        return _fail(situation, Reason.BACKOFF_LIMIT_EXCEEDED, message, lost=ending)
    start = situation.now + retry_delay(retries)
    return _attempt(situation, Stage.RECORDING, start, retries=retries, lost=ending)


def _late(situation: Situation) -> Course | None:
    """A deadline of the job that has passed."""
    job = situation.job
    if job is None:
        return None
    policy = job.spec.run_policy
    deadline = active_deadline(situation)
    if deadline is not None and situation.now >= deadline:
        message = f"not done after {policy.active_deadline_seconds} s (runPolicy.activeDeadlineSeconds)"
        return _fail(situation, Reason.ACTIVE_DEADLINE_EXCEEDED, message)
    deadline = startup_deadline(situation)
    if deadline is not None and situation.now >= deadline:
        known = situation.status.message or ""
        message = f"no training after {policy.startup_deadline_seconds} s (runPolicy.startupDeadlineSeconds)"
        return _fail(situation, Reason.STARTUP_DEADLINE_EXCEEDED, f"{message}: {known}" if known else message)
    return None


# ---------------------------------------------------------------- before an attempt
def _next_attempt(situation: Situation) -> Course:
    job = situation.job
    assert job is not None
    if late := _late(situation):
        return late
    if problems := [*template_problems(job), *check_pods(job)]:
        refused = Verdict(reason=Reason.INVALID, message=joined(problems))
        return _fail(situation, Reason.USER_ERROR, refused.message, refused=refused)
    models = models_of(situation, job)
    if models.failed is not None:
        reason = Reason.USER_ERROR if models.failed_by_user else Reason.BACKOFF_LIMIT_EXCEEDED
        return _fail(situation, reason, models.failed.message, models=models)
    if models.refused is not None:
        refused = models.refused
        in_models = refused.reason is Reason.TOKENIZER_MISMATCH
        accepted = replace(refused, reason=Reason.INVALID) if in_models else refused
        return _fail(situation, Reason.USER_ERROR, refused.message, refused=accepted, models=models)
    if situation.attempt is None and models.report is not None:
        return _attempt(situation, Stage.RECORDING, situation.now, models=models)
    if not models.stored:
        return _course(situation, Stage.FETCHING, models=models)
    remaining = _remaining(situation)
    if remaining or attempt_due(situation) is not None:
        return _course(situation, Stage.WAITING, models=models, remaining=remaining)
    return _course(situation, Stage.LAUNCHING, models=models)


def _remaining(situation: Situation) -> tuple[str, ...]:
    """What could still write: RayJobs and Ray pods, of whichever attempt."""
    rayjobs = [f"RayJob {each.name}" for each in situation.rayjobs]
    pods = [f"pod {pod.name}" + (f" on {pod.node}" if pod.node else "") for pod in situation.ray_pods]
    return tuple(sorted(rayjobs) + sorted(pods))
