"""The OPD term: reverse KL against the teacher, subtracted from the advantages. And its coefficient over the steps.

Shapes: N response tokens of the step, packed.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class OPDPenalty:
    advantages_N: Tensor
    """Advantages after the OPD term."""
    reverse_kl_N: Tensor
    """log p_student - log p_teacher, unclamped, 0 where masked; its masked mean is the metric `opd/reverse_kl`."""
    clamped_N: Tensor
    """True where maxLogRatio cut the term."""


def apply_opd_penalty(
    advantages_N: Tensor,
    student_logprobs_N: Tensor,
    teacher_logprobs_N: Tensor,
    mask_N: Tensor,
    *,
    kl_coef: float | Tensor,
    max_log_ratio: float | None = None,
) -> OPDPenalty:
    """A <- A - kl_coef * (log p_student - log p_teacher) where mask_N is True; elsewhere A is kept.

    The k1 estimate of KL(student || teacher) on samples of the student (Schulman 2020, "Approximating KL divergence"):
    an immediate reward, detached; as a differentiable loss its expected gradient would be zero. `kl_coef` may be a
    tensor of N. Raises ValueError when an unmasked log-prob is not finite: the caller must mask such a token.
    """
    assert advantages_N.shape == student_logprobs_N.shape == teacher_logprobs_N.shape == mask_N.shape
    reverse_kl_N = torch.where(mask_N, student_logprobs_N - teacher_logprobs_N, 0.0).detach()
    finite_N = torch.isfinite(reverse_kl_N)
    if not bool(finite_N.all()):
        first = int((~finite_N).nonzero()[0])
        raise ValueError(
            f"response token {first} of those given trains, but its log-probs are {float(student_logprobs_N[first])} "
            f"(student) and {float(teacher_logprobs_N[first])} (teacher): a token without a score must be masked"
        )
    term_N = reverse_kl_N if max_log_ratio is None else reverse_kl_N.clamp(-max_log_ratio, max_log_ratio)
    return OPDPenalty(
        advantages_N=torch.where(mask_N, advantages_N - kl_coef * term_N, advantages_N),
        reverse_kl_N=reverse_kl_N,
        clamped_N=term_N != reverse_kl_N,
    )


def scheduled_kl_coef(
    kind: Literal["Constant", "Linear", "Cosine"], step: int, *, initial: float, final: float, steps: int
) -> float:
    """Coefficient at `step` (from 0): `initial` at 0, `final` from `steps` on."""
    if kind == "Constant":
        return initial
    progress = min(step / steps, 1.0)
    weight = progress if kind == "Linear" else 0.5 * (1 - math.cos(math.pi * progress))
    return initial + (final - initial) * weight


TARGET_KL_RATE = 0.1
"""Share of the clipped relative error that one step corrects."""
TARGET_KL_CLIP = 0.2
"""Bound of the relative error: one odd batch must not move the coefficient far."""


def adapted_kl_coef(current: float, reverse_kl: float, target_kl: float) -> float:
    """Next coefficient so that reverse KL approaches `target_kl`: up when the student is too far, down when too near.

    Proportional controller in log space with a clipped error (Ziegler et al. 2019, section 2.2, after the adaptive
    penalty of PPO, Schulman et al. 2017). At most 2 % a step.
    """
    error = max(-TARGET_KL_CLIP, min(TARGET_KL_CLIP, reverse_kl / target_kl - 1))
    return current * (1 + TARGET_KL_RATE * error)
