"""Which children the job's course wants applied and deleted, compared with what is there. Builds none itself."""

from collections.abc import Iterator, Sequence

from opd_api import names
from opd_api.documents import ModelsReport, Request
from opd_api.memory import MemoryEstimate
from opd_api.spec import OPDJob, Teacher
from opd_api.status import Status

from .. import build
from ..objects import Kind, Manifest, ObjectRef
from .deadlines import farewell
from .lifecycle import ENDED, Course, Stage
from .models import remembered
from .situation import Situation
from .times import stamp

_APPLYING = {
    Stage.FETCHING,
    Stage.WAITING,
    Stage.LAUNCHING,
    Stage.QUEUED,
    Stage.STARTING,
    Stage.TRAINING,
    Stage.SUSPENDING,
}
_QUIET = {Stage.DELETING, Stage.UNREADABLE, Stage.WITHOUT_KUBERAY, Stage.BLOCKED}
"""Nothing is touched."""


# ---------------------------------------------------------------- apply
def to_apply(situation: Situation, course: Course, status: Status) -> tuple[Manifest, ...]:
    """In order: the models Job alone, what the job has as long as it lives, the teachers and the attempt. Of an attempt
    that is only being written down nothing; with the first one the models are stored."""
    job = situation.job
    if job is None or not (course.records_first or course.attempt == situation.attempt):
        return ()
    fetching = course.stage is Stage.FETCHING
    models = course.models if course.models.report or fetching else remembered(situation, job)
    manifests: list[Manifest] = []
    unread = fetching and models.report is None
    if unread and _models_job_is_free(situation):
        manifests.append(build.models_job(job, situation.settings))
    lives = not unread and (course.records_first or course.stage in _APPLYING)
    if lives and not situation.strangers:
        manifests += _foundation(situation, course, models.report, _request(situation, course, status))
    if models.estimate is not None:
        manifests += _teachers(situation, course, models.estimate)
        if course.stage is Stage.LAUNCHING:
            manifests.append(build.rayjob(job, course.attempt or 1, situation.settings, models.estimate))
    return tuple(manifests)


def _foundation(
    situation: Situation, course: Course, models: ModelsReport | None, request: Request | None
) -> Sequence[Manifest]:
    """All of it when its digest says so, else the mailbox when it does not say what it has to."""
    job, settings, attempt = situation.job, situation.settings, course.attempt or 1
    assert job is not None
    digest = situation.config.digest if situation.config else ""
    if digest != build.foundation_digest(job, attempt, models, settings):
        return build.foundation(job, attempt, models, request, settings)
    told = situation.mailbox is not None and situation.mailbox.request == request
    return () if told else (build.mailbox(job, request),)


def _request(situation: Situation, course: Course, status: Status) -> Request | None:
    """A stop in progress, as status and pods tell it: whatever a mailbox says, this is what it has to say."""
    if course.attempt is None:
        return None
    stopping = next((each for each in status.conditions if each.type == "Suspended" and each.status == "Unknown"), None)
    if stopping is not None:
        return Request(attempt=course.attempt, stop="Suspend", time=stopping.last_transition_time)
    evicted = [pod.deleted for pod in situation.ray_pods if pod.attempt == course.attempt and pod.deleted]
    if course.stage is not Stage.TRAINING or not evicted:
        return None
    return Request(attempt=course.attempt, stop="Evict", time=stamp(min(evicted)))


def _models_job_is_free(situation: Situation) -> bool:
    """Neither the Job nor pods of one before: their last words would be taken for the new one's."""
    return situation.observed.models_job is None and not any(pod.role == "models" for pod in situation.observed.pods)


def _teachers(situation: Situation, course: Course, memory: MemoryEstimate) -> Iterator[Manifest]:
    """What runs is left as it is: an operator's upgrade must not restart a teacher in the middle of an attempt.
    A new one comes right after the RayJob: KubeRay has the longer way to go."""
    job = situation.job
    assert job is not None
    starting = course.stage in (Stage.WAITING, Stage.LAUNCHING)
    if not (starting or course.stage in (Stage.QUEUED, Stage.STARTING, Stage.TRAINING)):
        return
    deployments = {each.name: each for each in situation.observed.deployments}
    for teacher in served(job):
        found = deployments.get(names.teacher(job.metadata.name, teacher.name))
        if found is not None and (found.deleting or found.owner_uid != situation.observed.uid):
            continue
        if found is None and course.stage is Stage.LAUNCHING:
            continue
        manifests = build.teacher_set(job, teacher, situation.settings, memory)
        same = found is not None and found.digest == build.digest_of(manifests[-1])
        kept = found is not None and not starting and found.replicas == teacher.sglang.replicas
        if not (same or kept):
            yield from manifests


def served(job: OPDJob) -> list[Teacher]:
    """Teachers that the job deploys."""
    return [each for each in job.spec.teachers if each.mode == "SGLang" and not each.sglang.endpoint]


# ---------------------------------------------------------------- delete
def to_delete(situation: Situation, course: Course) -> tuple[ObjectRef, ...]:
    """This job's own objects only; a stranger's is never touched."""
    if course.stage in _QUIET:
        return ()
    return (*_old_rayjobs(situation, course), *_old_teachers(situation, course), *_old_models_job(situation, course))


def _old_rayjobs(situation: Situation, course: Course) -> Iterator[ObjectRef]:
    until = farewell(situation)
    for rayjob in situation.rayjobs:
        current = rayjob.attempt == course.attempt
        if rayjob.deleting or (current and course.stage not in ENDED):
            continue
        succeeded = course.complete or (until is not None and situation.now < until)
        if current and succeeded and rayjob.job_status not in ("SUCCEEDED", "FAILED", "STOPPED"):
            continue
        yield ObjectRef(Kind.RAY_JOB, rayjob.name)


def _old_teachers(situation: Situation, course: Course) -> Iterator[ObjectRef]:
    """All where no attempt lives; before one is made, those that the document does not name any more: it may change as
    soon as a stop was asked for, and the attempt that still ends its step has the one it began with. Service, key,
    budget and policy hold nothing back and go with the OPDJob."""
    job = situation.job
    if course.rayjob_expected or course.stage is Stage.RECORDING:
        return
    wanted = {names.teacher(job.metadata.name, each.name) for each in served(job)} if job else set()
    for deployment in situation.observed.deployments:
        mine = deployment.owner_uid == situation.observed.uid and not deployment.deleting
        if mine and (course.stage in ENDED or deployment.name not in wanted):
            yield ObjectRef(Kind.DEPLOYMENT, deployment.name)


def _old_models_job(situation: Situation, course: Course) -> Iterator[ObjectRef]:
    """Its report is stored, its job is over, or it has to run again. A RayJob comes before its end."""
    models = course.models
    if situation.models_job is None or course.stage is Stage.LAUNCHING:
        return
    unsaved = models.report is not None and not models.stored
    needed = unsaved or (course.stage is Stage.FETCHING and not models.again)
    if not needed:
        yield ObjectRef(Kind.JOB, names.models_job(situation.observed.name))
