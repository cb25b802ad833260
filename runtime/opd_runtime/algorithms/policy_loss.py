"""The clipped policy loss and the correction for samples of an older or other policy.

Shapes: N response tokens packed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LOG_RATIO_BOUND = 20.0
"""Further out every trust region is left anyway, and an infinite ratio would make nan of a clipped gradient of 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLoss:
    loss_N: Tensor
    """Loss of each token, 0 where masked; differentiable in new_logprobs_N."""
    clipped_N: Tensor
    """True where the clip decided."""
    ratio_N: Tensor
    """pi_new / pi_old, detached, 1 where masked."""


def policy_loss(
    new_logprobs_N: Tensor,
    old_logprobs_N: Tensor,
    advantages_N: Tensor,
    mask_N: Tensor,
    *,
    eps_clip: float,
    eps_clip_high: float,
    dual_clip: float | None = None,
) -> PolicyLoss:
    """max(-ratio A, -clip(ratio, 1-eps, 1+eps_high) A) with ratio = exp(new - old) (PPO, Schulman et al. 2017).

    With `dual_clip` c > 1 the loss of a token with A < 0 is at most -c A (Ye et al. 2020).
    """
    assert new_logprobs_N.shape == old_logprobs_N.shape == advantages_N.shape == mask_N.shape
    log_ratio_N = torch.where(mask_N, new_logprobs_N - old_logprobs_N, 0.0)
    ratio_N = log_ratio_N.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
    advantages_N = torch.where(mask_N, advantages_N, 0.0)
    free_N = -ratio_N * advantages_N
    clipped_N = -ratio_N.clamp(1 - eps_clip, 1 + eps_clip_high) * advantages_N
    loss_N = torch.maximum(free_N, clipped_N)
    decided_N = clipped_N > free_N
    if dual_clip is not None:
        bound_N = -dual_clip * advantages_N
        capped_N = (advantages_N < 0) & (bound_N < loss_N)
        loss_N = torch.where(capped_N, bound_N, loss_N)
        decided_N = decided_N | capped_N
    return PolicyLoss(loss_N=loss_N, clipped_N=decided_N, ratio_N=ratio_N.detach())


def truncated_importance_weights(
    old_logprobs_N: Tensor, engine_logprobs_N: Tensor, mask_N: Tensor, *, low: float = 0.0, high: float = 2.0
) -> Tensor:
    """clamp(pi_trainer / pi_engine, low, high), detached, 1 where masked (truncated importance sampling, Ionides 2008).

    Corrects for samples of an engine whose weights are older, or whose numerics differ.
    """
    assert old_logprobs_N.shape == engine_logprobs_N.shape == mask_N.shape
    log_ratio_N = torch.where(mask_N, old_logprobs_N - engine_logprobs_N, 0.0)
    return torch.where(mask_N, log_ratio_N.exp().clamp(low, high), 1.0).detach()
