"""What the numbers of a training job say about its settings: the condition Degraded. Changes nothing by itself."""

from opd_api.columns import KL_METRIC, REWARD_METRIC
from opd_api.conditions import Reason
from opd_api.documents import Progress
from opd_api.spec import Spec

from .verdict import Verdict

FIRST_KL_METRIC = "opd/reverse_kl_first"
FIRST_REWARD_METRIC = "reward/raw_first"
FAILED_METRIC = "teacher/failed"

FAILED_SHARE = 0.05
"""Of a step's samples, or of all so far."""
EARLY_STEPS = 20
EARLY_SHARE = 0.1
"""Before so many steps and such a share of the job, a curve says nothing about settings."""
KL_LEFT = 0.9
"""Of the first reverse KL; more than that is not falling."""
KL_CLOSE_NATS = 0.02
"""Student and teacher agree already: there is nothing left to fall."""
REWARD_LOSS = 0.2
"""Of the first reward,"""
REWARD_LOSS_LEAST = 0.05
"""and at least so much."""


def advice(report: Progress | None, spec: Spec) -> Verdict | None:
    """The most pressing thing, or None when all is well. `report` is the newest of a job that trains."""
    checks = (_spike, _scores_failing, _kl_not_falling, _reward_falling)
    found = next((said for check in checks if report and (said := check(report, spec))), None)
    return found or _no_checkpoint(spec)


def _spike(report: Progress, spec: Spec) -> Verdict | None:
    if report.trend != "Spike":
        return None
    value = report.metrics.get(KL_METRIC)
    at = f" to {value:.3g} nats a token" if value is not None else ""
    message = f"reverse KL has jumped{at} at step {report.step}; if it stays, lower optimizer.lr or set "
    return Verdict(
        reason=Reason.KL_SPIKE, message=message + "distillation.maxLogRatio, and look at the prompts of the step"
    )


def _scores_failing(report: Progress, spec: Spec) -> Verdict | None:
    samples = spec.rollout.batch_size * spec.rollout.samples_per_prompt
    newest = report.metrics.get(FAILED_METRIC, 0.0)
    total = sum(teacher.failed_scores for teacher in report.teachers)
    message = ""
    if newest > FAILED_SHARE * samples:
        message = f"the teacher could not score {newest:.0f} of the step's {samples} samples"
    elif report.step and total > FAILED_SHARE * samples * report.step:
        message = f"the teacher could not score {total} samples so far"
    if not message:
        return None
    remedy = "they train nothing; look at the teacher's logs, give it more replicas or memory"
    return Verdict(reason=Reason.SCORES_FAILING, message=f"{message}; {remedy}")


def _kl_not_falling(report: Progress, spec: Spec) -> Verdict | None:
    now, first = report.metrics.get(KL_METRIC), report.metrics.get(FIRST_KL_METRIC)
    if now is None or first is None or _early(report) or report.trend == "Falling":
        return None
    if now <= KL_CLOSE_NATS or now <= KL_LEFT * first:
        return None
    return Verdict(
        reason=Reason.KL_NOT_FALLING,
        message=f"reverse KL is {now:.3g} after {report.step} steps and was {first:.3g}; "
        "raise distillation.klCoef (2.0 or more), and check that the teacher is better than the student",
    )


def _reward_falling(report: Progress, spec: Spec) -> Verdict | None:
    now, first = report.metrics.get(REWARD_METRIC), report.metrics.get(FIRST_REWARD_METRIC)
    kl, first_kl = report.metrics.get(KL_METRIC), report.metrics.get(FIRST_KL_METRIC)
    if now is None or first is None or kl is None or first_kl is None or _early(report):
        return None
    if kl >= KL_LEFT * first_kl or first - now <= max(REWARD_LOSS * abs(first), REWARD_LOSS_LEAST):
        return None
    return Verdict(
        reason=Reason.REWARD_FALLING,
        message=f"the reward has fallen from {first:.3g} to {now:.3g} while reverse KL fell; "
        "lower distillation.klCoef (0.5 or less)",
    )


def _no_checkpoint(spec: Spec) -> Verdict | None:
    if spec.checkpoint.claim_name:
        return None
    message = "nothing survives a pod: a retry or a suspension starts from step 0; set checkpoint.claimName"
    return Verdict(reason=Reason.NO_CHECKPOINT, message=message)


def _early(report: Progress) -> bool:
    return report.step < EARLY_STEPS or report.step < EARLY_SHARE * report.total_steps
