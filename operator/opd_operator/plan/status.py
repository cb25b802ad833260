"""The whole status from the job's course: conditions, the phase and the sentence computed from them, names and times.
What the runtime measured is `measured`'s.
"""

from opd_api import names
from opd_api.conditions import ConditionType, Reason
from opd_api.status import Condition, Phase, Status

from .conditions import conditions_of, shortened
from .lifecycle import Course, Stage
from .measured import measured
from .situation import Situation
from .times import stamp


def status_of(situation: Situation, course: Course) -> Status:
    """Equal to the observed one when nothing changed. A job that has ended keeps what it said."""
    before = situation.status
    generation = {"observed_generation": situation.observed.generation}
    if course.stage is Stage.DELETING:
        return before
    if situation.finished:
        return before.model_copy(update=generation)
    conditions = conditions_of(situation, course)
    known = {each.type: each for each in conditions}
    started = course.attempt is not None and before.start_time is None
    facts = generation | {
        "conditions": conditions,
        "phase": phase_of(known, course.attempt),
        "attempt": course.attempt,
        "attempt_start_time": course.attempt_start,
        "retries": course.retries,
        "start_time": stamp(situation.now) if started else before.start_time,
        "completion_time": stamp(situation.now) if course.complete or course.failed else None,
        "memory_plan": course.models.estimate.to_status() if course.models.estimate else before.memory_plan,
        **_rayjob_names(situation, course),
        **measured(situation, course, known),
    }
    status = before.model_copy(update=facts)
    return status.model_copy(update={"message": shortened(_message(situation, course, known, status))})


def phase_of(conditions: dict[str, Condition], attempt: int | None) -> Phase:
    """One word, from the conditions alone (and whether there is an attempt)."""

    def state(kind: ConditionType) -> str:
        return conditions[kind].status if kind in conditions else ""

    training = conditions.get(ConditionType.TRAINING)
    retrying = training is not None and training.reason in (Reason.RETRYING, Reason.PROGRESS_STALE)
    words: tuple[tuple[bool, Phase], ...] = (
        (state(ConditionType.COMPLETE) == "True", "Succeeded"),
        (state(ConditionType.FAILED) == "True", "Failed"),
        (state(ConditionType.SUSPENDED) == "True", "Suspended"),
        (state(ConditionType.SUSPENDED) == "Unknown", "Suspending"),
        (state(ConditionType.ACCEPTED) == "False", "Pending"),
        (state(ConditionType.TRAINING) == "True", "Training"),
        (retrying, "Retrying"),
        (state(ConditionType.QUOTA_RESERVED) == "False", "Queued"),
        (attempt is not None, "Starting"),
    )
    return next((word for applies, word in words if applies), "Pending")


def _rayjob_names(situation: Situation, course: Course) -> dict[str, str | None]:
    """Of the attempt, once its RayJob was seen; a RayJob that is recorded and gone was deleted by somebody."""
    rayjob, before = situation.rayjob, situation.status
    if course.attempt != situation.attempt or course.stage is Stage.SUSPENDED or course.attempt is None:
        return {"ray_job_name": None, "ray_cluster_name": None, "dashboard_url": None}
    if rayjob is None:
        return {
            "ray_job_name": before.ray_job_name,
            "ray_cluster_name": before.ray_cluster_name,
            "dashboard_url": before.dashboard_url,
        }
    return {
        "ray_job_name": names.rayjob(situation.observed.name, course.attempt),
        "ray_cluster_name": rayjob.cluster_name[:253] or None,
        "dashboard_url": rayjob.dashboard_url[:1024] or None,
    }


# ---------------------------------------------------------------- the sentence
def _message(situation: Situation, course: Course, conditions: dict[str, Condition], status: Status) -> str:
    """What the job is doing, or what is wrong and what to do."""
    if course.failed:
        return course.failed.message
    if course.refused:
        return course.refused.message
    if course.complete:
        return _success(status)
    rejection = situation.observed.rejection
    if rejection and course.stage in (Stage.FETCHING, Stage.WAITING, Stage.LAUNCHING):
        return f"The API server refuses what the job needs: {rejection}"
    said = {
        Stage.FETCHING: (ConditionType.MODELS_READY,),
        Stage.SUSPENDING: (ConditionType.SUSPENDED,),
        Stage.RELEASING: (ConditionType.CLUSTER_READY, ConditionType.SUSPENDED),
        Stage.QUEUED: (ConditionType.QUOTA_RESERVED,),
    }.get(course.stage, ())
    for kind in said:
        if kind in conditions and conditions[kind].status != "True":
            return conditions[kind].message
    if course.stage is Stage.SUSPENDED:
        step = status.checkpoint.step if status.checkpoint else None
        return "Suspended: set spec.suspend to false to go on" + (f" from step {step}." if step is not None else ".")
    if course.stage is Stage.TRAINING:
        return _progress(situation, conditions, status)
    if course.stage is Stage.STARTING:
        return _starting(situation, conditions)
    return _between(situation, course, conditions)


def _success(status: Status) -> str:
    kept = status.checkpoint
    where = (kept.export_uri or kept.uri) if kept else None
    return "All steps are done" + (f"; the student is at {where}." if where else ".")


def _progress(situation: Situation, conditions: dict[str, Condition], status: Status) -> str:
    """What is wrong comes before how far it is."""
    degraded, cluster = conditions.get(ConditionType.DEGRADED), conditions.get(ConditionType.CLUSTER_READY)
    if degraded is not None and degraded.status == "True" and degraded.reason != Reason.NO_CHECKPOINT:
        return degraded.message
    if cluster is not None and cluster.status == "False" and cluster.reason != Reason.PROVISIONING:
        return f"Training, but {cluster.message}"
    progress = status.progress
    if progress is None or progress.step is None:
        return "Training."
    return f"Training: {progress.step} of {progress.total_steps} steps are done."


def _starting(situation: Situation, conditions: dict[str, Condition]) -> str:
    """Trouble first; then what the driver says it is doing; then what is waited for."""
    waiting = [conditions.get(ConditionType.CLUSTER_READY), conditions.get(ConditionType.TEACHER_READY)]
    harmless = (Reason.PROVISIONING, Reason.TEACHER_STARTING)
    unready = [each for each in waiting if each is not None and each.status == "False"]
    for condition in unready:
        if condition.reason not in harmless:
            return condition.message
    if situation.report is not None and situation.report.message:
        return f"Starting: {situation.report.message}"
    return unready[0].message if unready else "Starting: waiting for the first step."


def _between(situation: Situation, course: Course, conditions: dict[str, Condition]) -> str:
    """Between two attempts, or before the first."""
    training, cluster = conditions.get(ConditionType.TRAINING), conditions.get(ConditionType.CLUSTER_READY)
    lost = training.message + " " if training and training.reason in (Reason.RETRYING, Reason.PROGRESS_STALE) else ""
    if course.stage is Stage.WAITING and course.remaining and cluster:
        return f"{lost}{cluster.message}"
    if course.stage in (Stage.WAITING, Stage.RECORDING) and lost:
        return f"{lost}Attempt {course.attempt} starts at {course.attempt_start}."
    return f"{lost}Making attempt {course.attempt}." if course.attempt else "Making the first attempt."
