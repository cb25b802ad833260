"""Which numbers go into the maths of `algorithms`: advantages of a whole step, and the loss of one micro-batch.

The order is the contract's: task rewards, group normalisation, KL to the reference, OPD term, whitening.

Shapes: B samples of the step, N response tokens packed, n response tokens of a micro-batch.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opd_api.spec import Algorithm

from ..algorithms.advantages import ESTIMATORS, broadcast_to_tokens
from ..algorithms.aggregate import sample_mean_sum, token_sum
from ..algorithms.kl import kl_estimate
from ..algorithms.normalize import whiten
from ..algorithms.opd import apply_opd_penalty
from ..algorithms.policy_loss import policy_loss, truncated_importance_weights
from ..algorithms.statistics import summarize_reverse_kl
from ..batch import Batch
from ..config import TrainConfig
from .batching import MicroBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Advantages:
    """What every update of a step reads."""

    advantages_N: Tensor
    old_N: Tensor
    """The trainer's log-probs before the first update."""
    ref_N: Tensor | None
    mask_N: Tensor
    weights_N: Tensor
    """Importance correction, 1 without."""
    metrics: dict[str, float]


def advantages(cfg: TrainConfig, batch: Batch, *, old_N: Tensor, teacher_N: Tensor, ref_N: Tensor | None) -> Advantages:
    """Advantages of every response token of the step, and the metrics known before the update."""
    algorithm, distillation, device = cfg.algorithm, cfg.distillation, old_N.device
    mask_N, engine_N = _on(batch.mask_N, device), _on(batch.engine_logprobs_N, device)
    lengths_B = _on(batch.response_lengths_B.astype(np.int64), device)
    rewards_B, valid_B = _on(batch.rewards_B, device), _on(batch.valid_B, device)
    estimated_B = ESTIMATORS[algorithm.advantage_estimator](
        rewards_B, _on(batch.groups_B.astype(np.int64), device), valid_B
    )
    task_N = torch.where(mask_N, broadcast_to_tokens(estimated_B, lengths_B), 0.0)
    if ref_N is not None and algorithm.reference.reward_kl_coef:
        kl_N = kl_estimate(old_N, ref_N, algorithm.reference.estimator)
        task_N = torch.where(mask_N, task_N - algorithm.reference.reward_kl_coef * kl_N, 0.0)
    penalty = apply_opd_penalty(
        task_N, old_N, teacher_N, mask_N, kl_coef=batch.kl_coef, max_log_ratio=distillation.max_log_ratio
    )
    final_N = whiten(penalty.advantages_N, mask_N) if algorithm.normalize_advantages else penalty.advantages_N
    correct = algorithm.importance_correction == "Truncated" or cfg.rollout.max_staleness_steps > 0
    weights_N = truncated_importance_weights(old_N, engine_N, mask_N) if correct else torch.ones_like(old_N)
    tokens = mask_N.sum().clamp_min(1)
    gap_N = torch.where(mask_N, (engine_N - old_N).abs(), 0.0)
    metrics = {
        f"opd/reverse_kl{name}": value
        for name, value in summarize_reverse_kl(penalty.reverse_kl_N, mask_N, lengths_B).items()
    }
    metrics |= {
        "opd/clamped_share": float(penalty.clamped_N.sum() / tokens),
        "opd/kl_coef": batch.kl_coef,
        "logprob/engine_vs_trainer_abs_mean": float(gap_N.sum() / tokens),
        "logprob/engine_vs_trainer_abs_max": float(gap_N.max()) if len(gap_N) else 0.0,
    }
    if ref_N is not None:
        kl_N = kl_estimate(old_N, ref_N, algorithm.reference.estimator)
        metrics["policy/kl_ref"] = float(torch.where(mask_N, kl_N, 0.0).sum() / tokens)
    return Advantages(
        advantages_N=final_N, old_N=old_N, ref_N=ref_N, mask_N=mask_N, weights_N=weights_N, metrics=metrics
    )


def update_loss(
    algorithm: Algorithm, plan: Advantages, micro: MicroBatch, new_n: Tensor, entropy_n: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """What Megatron asks of a loss function: numerator, denominator (an integer), and sums for the metrics."""
    flat_n = torch.from_numpy(micro.flat_n).to(new_n.device)
    old_n, mask_n = plan.old_N[flat_n], plan.mask_N[flat_n]
    high = algorithm.eps_clip if algorithm.eps_clip_high is None else algorithm.eps_clip_high
    policy = policy_loss(
        new_n,
        old_n,
        plan.advantages_N[flat_n],
        mask_n,
        eps_clip=algorithm.eps_clip,
        eps_clip_high=high,
        dual_clip=algorithm.dual_clip,
    )
    loss_n = policy.loss_N * plan.weights_N[flat_n]
    if algorithm.entropy_coef:
        loss_n = loss_n - algorithm.entropy_coef * entropy_n
    if plan.ref_N is not None and algorithm.reference.loss_kl_coef:
        kl_n = kl_estimate(new_n, plan.ref_N[flat_n], algorithm.reference.estimator)
        loss_n = loss_n + algorithm.reference.loss_kl_coef * kl_n
    if algorithm.loss_aggregation == "SampleMean":
        total, count = sample_mean_sum(loss_n, mask_n, torch.from_numpy(micro.lengths_b).to(new_n.device))
    else:
        total, count = token_sum(loss_n, mask_n)
    with torch.no_grad():
        sums = torch.stack(
            [
                total.detach(),
                count.to(total.dtype),
                (policy.clipped_N & mask_n).sum().to(total.dtype),
                torch.where(mask_n, old_n - new_n, 0.0).sum(),
                torch.where(mask_n, entropy_n, 0.0).sum(),
            ]
        ).double()
    return total, count.int(), {"sums": sums}


def _on(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)
