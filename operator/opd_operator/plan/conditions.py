"""Conditions from the job's course and the facts; a transition time stays as long as the state does. Words for people
about the job as a whole are `status`'.
"""

from dataclasses import dataclass, field

from opd_api import names
from opd_api.conditions import ConditionType, Reason
from opd_api.status import Condition

from .advice import advice
from .children import served
from .deadlines import models_pod_due
from .ending import Kind
from .health import worst
from .lifecycle import ENDED, Course, Stage
from .situation import Situation
from .times import stamp
from .verdict import Verdict

LONGEST_MESSAGE = 2048
_PROBE_REASONS = {
    Reason.LOGPROBS_UNAVAILABLE,
    Reason.UNIFORM_LOGPROBS,
    Reason.SAME_AS_STUDENT,
    Reason.TOKENIZER_MISMATCH,
}
_LIVE = (Stage.QUEUED, Stage.STARTING, Stage.TRAINING)


def conditions_of(situation: Situation, course: Course) -> tuple[Condition, ...]:
    """In the order of the table; a type that was never known is left out."""
    book = _Book(situation)
    _accepted(book, course)
    if course.stage in (Stage.UNREADABLE, Stage.WITHOUT_KUBERAY, Stage.BLOCKED):
        return book.entries()
    _quota(book, situation, course)
    _models(book, situation, course)
    _teachers(book, situation, course)
    _cluster(book, situation, course)
    _training(book, situation, course)
    _suspended(book, situation, course)
    _degraded(book, situation, course)
    if course.complete:
        book.set(ConditionType.COMPLETE, "True", Reason.SUCCEEDED, "All steps are done.")
    if course.failed:
        book.set(ConditionType.FAILED, "True", course.failed.reason, course.failed.message)
    return book.entries()


@dataclass
class _Book:
    """Conditions while they are written."""

    situation: Situation
    known: dict[str, Condition] = field(init=False)

    def __post_init__(self) -> None:
        self.known = dict(self.situation.conditions)

    def set(self, kind: ConditionType, state: str, reason: Reason, message: str) -> None:
        before = self.known.get(kind)
        kept = before is not None and before.status == state
        moment = before.last_transition_time if kept and before else stamp(self.situation.now)
        self.known[kind] = Condition.model_validate(
            {
                "type": str(kind),
                "status": state,
                "observed_generation": self.situation.observed.generation,
                "last_transition_time": moment,
                "reason": str(reason),
                "message": shortened(message),
            }
        )

    def entries(self) -> tuple[Condition, ...]:
        return tuple(self.known[kind] for kind in ConditionType if kind in self.known)


def shortened(text: str) -> str:
    """What a status can hold; pods and drivers say any number of words."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_MESSAGE else text[: LONGEST_MESSAGE - 1] + "…"


def _accepted(book: _Book, course: Course) -> None:
    if course.refused:
        book.set(ConditionType.ACCEPTED, "False", course.refused.reason, course.refused.message)
    else:
        book.set(ConditionType.ACCEPTED, "True", Reason.VALID, "The document is valid.")


def _quota(book: _Book, situation: Situation, course: Course) -> None:
    """Only of a job that was seen waiting: a queue's name does not tell that anybody minds it. What has waited once
    waits again with its next attempt."""
    kind, rayjob = ConditionType.QUOTA_RESERVED, situation.rayjob
    if course.stage is Stage.RESUMING and situation.job is not None and not situation.job.spec.scheduling.queue_name:
        book.known.pop(kind, None)  # it may have left its queue while it was suspended
    elif course.attempt != situation.attempt and kind in book.known:
        book.set(kind, "False", Reason.QUEUED, f"Attempt {course.attempt} waits for quota.")
    elif rayjob is not None and rayjob.suspended and course.stage is Stage.QUEUED:
        book.set(kind, "False", Reason.QUEUED, f"RayJob {rayjob.name} waits for quota.")
    elif rayjob is not None and situation.job is not None and course.stage in _LIVE and kind in book.known:
        queue = situation.job.spec.scheduling.queue_name
        book.set(kind, "True", Reason.ADMITTED, f"Admitted by queue {queue}." if queue else "Admitted.")


def _models(book: _Book, situation: Situation, course: Course) -> None:
    models = course.models
    if models.failed:
        book.set(ConditionType.MODELS_READY, "False", models.failed.reason, models.failed.message)
    elif models.refused and models.refused.reason is Reason.TOKENIZER_MISMATCH:
        book.set(ConditionType.MODELS_READY, "False", models.refused.reason, models.refused.message)
    elif models.report:
        shapes = (f"{role} {_count(model.parameter_count)}" for role, model in sorted(models.report.models.items()))
        book.set(ConditionType.MODELS_READY, "True", Reason.FETCHED, f"Read: {', '.join(shapes)}.")
    elif course.stage is Stage.FETCHING:
        trouble = worst(situation.pods("models"), situation.job)
        said = models.trying or _unpulled(book, ConditionType.MODELS_READY, trouble) or _reading(situation)
        book.set(ConditionType.MODELS_READY, "False", said.reason, said.message)


def _reading(situation: Situation) -> Verdict:
    """What the models Job does, as far as its pods have nothing to tell."""
    due, name = models_pod_due(situation), names.models_job(situation.observed.name)
    if situation.models_job is not None and situation.models_job.suspended:
        return Verdict(reason=Reason.FETCHING, message=f"Job {name} is suspended: it waits for its queue.")
    if due is not None and situation.now >= due:
        message = f"Job {name} has no pod: kubectl describe job {name} says why (quota, priority class, admission)"
        return Verdict(reason=Reason.REPLICA_FAILURE, message=message)
    return Verdict(reason=Reason.FETCHING, message="Reading configs and tokenizers of the models.")


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.1f}M"


def _unpulled(book: _Book, kind: ConditionType, said: Verdict | None) -> Verdict | None:
    """Kubernetes says why an image cannot be pulled only between two pauses: the fuller words are kept meanwhile."""
    before = book.known.get(kind)
    if said is None or before is None or said.reason is not Reason.IMAGE_PULL_FAILED or before.reason != said.reason:
        return said
    return Verdict(reason=said.reason, message=before.message) if "Back-off" in said.message else said


# ---------------------------------------------------------------- teachers
def _teachers(book: _Book, situation: Situation, course: Course) -> None:
    if course.attempt is None or situation.job is None:
        return
    failed_probe = _failed_probe(situation)
    if failed_probe and (course.failed or course.lost):
        book.set(ConditionType.TEACHER_READY, "False", failed_probe.reason, failed_probe.message)
    elif course.stage in ENDED:
        if ConditionType.TEACHER_READY in book.known:
            book.set(ConditionType.TEACHER_READY, "False", Reason.RELEASED, "The teacher is not needed now.")
    elif course.stage in (*_LIVE, Stage.WAITING, Stage.LAUNCHING) or course.records_first:
        state, said = teacher_state(situation, course)
        said = _unpulled(book, ConditionType.TEACHER_READY, said) or said
        book.set(ConditionType.TEACHER_READY, state, said.reason, said.message)


def _failed_probe(situation: Situation) -> Verdict | None:
    """The driver says by name what is wrong with a teacher."""
    error = situation.report.error if situation.report else None
    reason = next((each for each in _PROBE_REASONS if error and each == error.reason), None)
    return Verdict(reason=reason, message=error.message) if error and reason else None


def teacher_state(situation: Situation, course: Course) -> tuple[str, Verdict]:
    """Whether all teachers answer and passed the driver's probe."""
    job, report = situation.job, situation.report
    assert job is not None
    if failed := _failed_probe(situation):
        return "False", failed
    if all(teacher.mode == "Megatron" for teacher in job.spec.teachers):
        return "True", Verdict(reason=Reason.IN_PROCESS, message="The teacher runs in the trainers.")
    # One that has ended, evicted say, stays beside the one that its Deployment has made instead.
    trouble = worst((pod for pod in situation.pods("teacher") if pod.phase not in ("Succeeded", "Failed")), job)
    deployments = {each.teacher: each for each in situation.observed.deployments}
    waits = []
    for teacher in served(job):
        found = deployments.get(teacher.name)
        if found is not None and found.failure:
            trouble = trouble or Verdict(
                reason=Reason.REPLICA_FAILURE, message=f"Deployment {found.name}: {found.failure}"
            )
        ready = found.ready_replicas if found else 0
        if ready < teacher.sglang.replicas:
            waits.append(f"{teacher.name}: {ready} of {teacher.sglang.replicas} servers are ready")
    if trouble:
        return "False", trouble
    if waits:
        return "False", Verdict(reason=Reason.TEACHER_STARTING, message=f"Waiting for teachers ({'; '.join(waits)}).")
    if report is not None and report.teachers and all(teacher.ready for teacher in report.teachers):
        return "True", Verdict(reason=Reason.PROBED, message="Its log-probs passed the probe.")
    endpoints = [teacher.sglang.endpoint for teacher in job.spec.teachers if teacher.sglang.endpoint]
    waits_for = f"Waiting for {', '.join(endpoints)} to answer and pass the probe."
    message = waits_for if endpoints else "Its servers are up, and not probed yet."
    return "False", Verdict(reason=Reason.TEACHER_STARTING, message=message)


# ---------------------------------------------------------------- cluster and training
def _cluster(book: _Book, situation: Situation, course: Course) -> None:
    if course.attempt is None:
        return
    kind = ConditionType.CLUSTER_READY
    if course.stage in (Stage.FINISHED, Stage.SUSPENDED):
        if kind in book.known:
            book.set(kind, "False", Reason.RELEASED, "Its pods are given back.")
    elif course.lost is not None and course.lost.reason is Reason.HEAD_LOST:
        book.set(kind, "False", Reason.HEAD_LOST, course.lost.message)
    elif course.remaining and course.stage in (Stage.WAITING, Stage.RELEASING):
        left = ", ".join(course.remaining[:4]) + (" and more" if len(course.remaining) > 4 else "")
        message = f"Waiting for what is left to end: {left}; a pod whose node is gone has to be deleted by force."
        book.set(kind, "False", Reason.PREVIOUS_PODS_REMAIN, message)
    elif course.stage in (*_LIVE, Stage.LAUNCHING) or course.records_first:
        state, said = cluster_state(situation, course)
        said = _unpulled(book, kind, said) or said
        book.set(kind, state, said.reason, said.message)
    elif course.stage is Stage.RECORDING:
        book.set(kind, "False", Reason.PROVISIONING, f"Attempt {course.attempt} is not made yet.")


def cluster_state(situation: Situation, course: Course) -> tuple[str, Verdict]:
    """Whether head and workers of the attempt are there."""
    cluster = situation.cluster
    pods = [pod for role in ("head", "trainer", "engine") for pod in situation.pods(role)]
    if situation.observed.rejection:
        return "False", Verdict(reason=Reason.REPLICA_FAILURE, message=situation.observed.rejection)
    if trouble := worst(pods, situation.job):
        return "False", trouble
    if cluster is not None and cluster.replica_failure:
        return "False", Verdict(
            reason=Reason.REPLICA_FAILURE, message=f"RayCluster {cluster.name}: {cluster.replica_failure}"
        )
    if course.stage is Stage.QUEUED:
        return "False", Verdict(reason=Reason.PROVISIONING, message="Waiting for quota.")
    if cluster is None:
        return "False", Verdict(reason=Reason.PROVISIONING, message="Waiting for KubeRay to make the Ray cluster.")
    if cluster.head_ready and cluster.ready_workers >= cluster.desired_workers > 0:
        return "True", Verdict(reason=Reason.READY, message=f"Head and {cluster.desired_workers} workers are ready.")
    lost = situation.training
    if not cluster.head_ready:
        reason = Reason.HEAD_LOST if lost else Reason.PROVISIONING
        return "False", Verdict(reason=reason, message="The head does not answer." if lost else "Waiting for the head.")
    reason = Reason.WORKER_LOST if lost else Reason.PROVISIONING
    message = f"{cluster.ready_workers} of {cluster.desired_workers} workers are ready."
    return "False", Verdict(reason=reason, message=message)


def _training(book: _Book, situation: Situation, course: Course) -> None:
    kind, stage = ConditionType.TRAINING, course.stage
    if course.attempt is None:
        return
    before = book.known.get(kind)
    if course.lost is not None and stage is Stage.RECORDING:
        retrying = course.lost.reason if course.lost.reason is Reason.PROGRESS_STALE else Reason.RETRYING
        ended = "has stopped" if course.lost.kind is Kind.STOPPED else "was lost"
        book.set(kind, "False", retrying, f"Attempt {situation.attempt} {ended}: {course.lost.message}.")
    elif stage is Stage.TRAINING:
        book.set(kind, "True", Reason.RUNNING, "Steps are made.")
    elif stage in (Stage.FINISHED, Stage.RELEASING, Stage.SUSPENDED):
        if before is not None:
            book.set(kind, "False", Reason.STOPPED, "No driver runs.")
    elif stage in (Stage.STARTING, Stage.QUEUED, Stage.RECORDING, Stage.RESUMING) or before is None:
        book.set(kind, "False", Reason.STARTING, "The first step of the attempt is still to come.")


def _suspended(book: _Book, situation: Situation, course: Course) -> None:
    kind = ConditionType.SUSPENDED
    if course.stage is Stage.SUSPENDING:
        message = "Waiting for the driver to save a checkpoint and stop"
        goes_on = situation.job is not None and not situation.job.spec.suspend
        message += "; the next attempt has the document as it is now." if goes_on else "."
        book.set(kind, "Unknown", Reason.SUSPENDING, message)
    elif course.stage is Stage.RELEASING:
        book.set(kind, "Unknown", Reason.SUSPENDING, "The driver has stopped; its pods go.")
    elif course.stage is Stage.SUSPENDED:
        book.set(kind, "True", Reason.SUSPENDED, "Nothing runs; set spec.suspend to false to go on.")
    elif course.stage is Stage.RESUMING:
        book.set(kind, "False", Reason.RESUMED, "Going on.")
    elif course.stage is Stage.FINISHED and kind in book.known:
        book.set(kind, "False", Reason.FINISHED, "The job has ended.")


def _degraded(book: _Book, situation: Situation, course: Course) -> None:
    """Judged by reports of training; in between the last judgement stays."""
    job, report = situation.job, situation.report
    if job is None or course.stage in (Stage.FINISHED, Stage.SUSPENDED, Stage.SUSPENDING, Stage.RELEASING):
        return
    trains = report is not None and report.phase == "Training" and course.stage is Stage.TRAINING
    if not trains and ConditionType.DEGRADED in book.known:
        return
    found = advice(report if trains else None, job.spec)
    if found is not None:
        book.set(ConditionType.DEGRADED, "True", found.reason, found.message)
    elif trains:
        book.set(ConditionType.DEGRADED, "False", Reason.HEALTHY, "The numbers look well.")
