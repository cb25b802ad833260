"""What the runtime reported, as the status shows it. The last good value stays where a report says nothing about it."""

from typing import Any

from opd_api import names
from opd_api.columns import KL_METRIC, PASS_AT_1_METRIC, REWARD_METRIC, columns
from opd_api.conditions import ConditionType
from opd_api.documents import CheckpointReport, Progress, TeacherReport
from opd_api.spec import OPDJob, Teacher
from opd_api.status import (
    Columns,
    Condition,
    StatusCheckpoint,
    StatusDistillation,
    StatusEvaluation,
    StatusProgress,
    StatusReward,
    StatusTeacher,
)

from .advice import FIRST_KL_METRIC
from .lifecycle import ENDED, Course, Stage
from .situation import Situation
from .times import moment_of, stamp

_KL_P95, _KL_COEF, _TIME_LEFT = "opd/reverse_kl_p95", "opd/kl_coef", "time/left"
_TOKENS_PER_SECOND, _EVALUATED_STEP = "tokens/per_second", "eval/step"
_LONGEST_SECONDS = 2**31 - 1


def measured(situation: Situation, course: Course, conditions: dict[str, Condition]) -> dict[str, Any]:
    """Fields of the status, by attribute."""
    before, report = situation.status, situation.report
    found: dict[str, Any] = {
        "progress": _progress(situation, report),
        "teachers": before.teachers,
        "columns": before.columns,
    }
    if report is not None:
        found |= {
            "distillation": _distillation(before.distillation, report),
            "reward": _reward(before.reward, report),
            "evaluation": _evaluation(before.evaluation, report),
            "checkpoint": _checkpoint(before.checkpoint, situation.checkpoint),
        }
    if situation.job is not None and course.attempt is not None:
        ended = course.stage is Stage.FINISHED
        proven = ConditionType.TEACHER_READY in conditions and conditions[ConditionType.TEACHER_READY].status == "True"
        teachers = [
            _teacher(situation, course, situation.job, each, proven=proven) for each in situation.job.spec.teachers
        ]
        found["teachers"] = before.teachers if ended else tuple(teachers)
        found["columns"] = (
            before.columns
            if course.stage in ENDED and report is None
            else _columns(situation, course, situation.job, report)
        )
    return found


def _progress(situation: Situation, report: Progress | None) -> StatusProgress | None:
    """Before the first step of an attempt, how far the one before came stays."""
    before, problem = situation.status.progress, situation.report_problem[:1024] or None
    if report is None:
        if before is None and problem is None:
            return None
        return (before or StatusProgress()).model_copy(update={"report_problem": problem})
    step, total, time = report.step, report.total_steps, moment_of(report.time)
    if report.phase == "Starting" and before is not None and before.step is not None:
        step = before.step
    tokens = report.metrics.get(_TOKENS_PER_SECOND)
    return StatusProgress(
        step=step,
        total_steps=total,
        percent=min(100, 100 * step // total) if total else None,
        eta_seconds=_seconds(report.metrics.get(_TIME_LEFT)) if report.phase == "Training" else None,
        tokens_per_second=round(tokens, 1) if tokens is not None and tokens >= 0 else None,
        # Anew, for what we can read the API server may refuse: `20260102 030405`, say.
        last_report_time=stamp(time) if time else None,
        report_problem=problem,
    )


def _seconds(value: float | None) -> int | None:
    return int(min(max(value, 0.0), _LONGEST_SECONDS)) if value is not None else None


def _distillation(before: StatusDistillation | None, report: Progress) -> StatusDistillation | None:
    known = {
        "reverse_kl": report.metrics.get(KL_METRIC),
        "initial_reverse_kl": report.metrics.get(FIRST_KL_METRIC),
        "reverse_kl_p95": report.metrics.get(_KL_P95),
        "kl_coef": report.metrics.get(_KL_COEF),
        "trend": report.trend,
    }
    said = {name: value for name, value in known.items() if value is not None}
    return (before or StatusDistillation()).model_copy(update=said) if said else before


def _reward(before: StatusReward | None, report: Progress) -> StatusReward | None:
    mean = report.metrics.get(REWARD_METRIC)
    return StatusReward(mean=mean) if mean is not None else before


def _evaluation(before: StatusEvaluation | None, report: Progress) -> StatusEvaluation | None:
    share, step = report.metrics.get(PASS_AT_1_METRIC), report.metrics.get(_EVALUATED_STEP)
    if share is None or not 0 <= share <= 1:
        return before
    return StatusEvaluation(pass_at_1=share, step=_seconds(step))


def _checkpoint(before: StatusCheckpoint | None, known: CheckpointReport | None) -> StatusCheckpoint | None:
    return StatusCheckpoint(step=known.step, uri=known.uri, export_uri=known.export_uri) if known else before


# ---------------------------------------------------------------- teachers
def _teacher(situation: Situation, course: Course, job: OPDJob, teacher: Teacher, *, proven: bool) -> StatusTeacher:
    """The runtime's word about scores while it lives, Kubernetes' about servers."""
    said = _said(situation, course, teacher)
    known = next((each for each in situation.status.teachers if each.name == teacher.name), None)
    facts: dict[str, Any] = {
        "mode": teacher.mode,
        "endpoint": _endpoint(situation, job, teacher),
        "ready": said.ready if said else proven,
        "ready_replicas": _replicas(situation, teacher, said)[0],
    }
    if said is not None:
        starts = situation.report is not None and situation.report.phase == "Starting"
        facts |= {
            # A driver that starts has not read yet what the attempts before it counted.
            "failed_scores": known.failed_scores if known and starts else said.failed_scores,
            "score_latency_p95_milliseconds": said.score_latency_p95_milliseconds,
            "reverse_kl": said.reverse_kl,
        }
    return (known or StatusTeacher(name=teacher.name)).model_copy(update=facts)


def _said(situation: Situation, course: Course, teacher: Teacher) -> TeacherReport | None:
    given_back = course.stage in (Stage.RELEASING, Stage.SUSPENDED)
    teachers = situation.report.teachers if situation.report and not given_back else ()
    return next((each for each in teachers if each.name == teacher.name), None)


def _endpoint(situation: Situation, job: OPDJob, teacher: Teacher) -> str | None:
    if teacher.mode == "Megatron":
        return None
    url = names.teacher_url(job.metadata.name, teacher.name, situation.observed.namespace)
    return teacher.sglang.endpoint or url


def _replicas(situation: Situation, teacher: Teacher, said: TeacherReport | None) -> tuple[int, int]:
    """Ready and wanted servers; of a Megatron teacher or an endpoint what the runtime says, while it lives."""
    found = next((each for each in situation.observed.deployments if each.teacher == teacher.name), None)
    if teacher.mode == "SGLang" and not teacher.sglang.endpoint:
        return (found.ready_replicas if found else 0), teacher.sglang.replicas
    return (said.ready_replicas, said.replicas) if said else (0, 1)


def _columns(situation: Situation, course: Course, job: OPDJob, report: Progress | None) -> Columns:
    """As the runtime's own, with servers counted by Kubernetes; numbers of the attempt before stay meanwhile."""
    before = situation.status.columns or Columns()
    counted = [(each, *_replicas(situation, each, _said(situation, course, each))) for each in job.spec.teachers]
    teachers = tuple(
        TeacherReport(name=each.name, mode=each.mode, ready_replicas=ready, replicas=wanted)
        for each, ready, wanted in counted
    )
    progress = situation.status.progress
    basis = report or Progress(
        attempt=situation.attempt or 1, phase="Starting", step=0, total_steps=job.spec.steps, time=""
    )
    shown = columns(basis.model_copy(update={"teachers": teachers}))
    kept = {name: value for name, value in before if value is not None and getattr(shown, name) is None}
    if basis.phase == "Starting" and progress is not None and progress.step is not None:
        kept["step"] = f"{progress.step}/{basis.total_steps}"
    return shown.model_copy(update=kept)
