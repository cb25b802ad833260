"""Which numbers go into the maths of `algorithms`: a step's advantages, the loss of one micro-batch, the metrics.

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
from ..algorithms.opd import OPDPenalty, apply_opd_penalty
from ..algorithms.policy_loss import policy_loss, truncated_importance_weights
from ..algorithms.statistics import summarize_reverse_kl
from ..batch import Batch
from ..config import TrainConfig
from .batching import MicroBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What is known of response tokens before the student's own log-probs: of all N of a step, or of some."""

    task_N: Tensor
    """Advantages of the task alone."""
    teacher_N: Tensor
    ref_N: Tensor | None
    engine_N: Tensor
    mask_N: Tensor
    kl_coef: float

    def at(self, rows_n: Tensor) -> "Given":
        return Given(
            task_N=self.task_N[rows_n],
            teacher_N=self.teacher_N[rows_n],
            ref_N=None if self.ref_N is None else self.ref_N[rows_n],
            engine_N=self.engine_N[rows_n],
            mask_N=self.mask_N[rows_n],
            kl_coef=self.kl_coef,
        )


def needs_old_logprobs(algorithm: Algorithm) -> bool:
    """Whether they must be known before the update: not where its own forward pass, the only one, is by the old weights
    and no statistic over the step enters an advantage after them."""
    return algorithm.normalize_advantages or algorithm.updates_per_step * algorithm.epochs_per_step > 1


class Objective:
    """The loss of one step, and its metrics once the updates are done."""

    def __init__(
        self, cfg: TrainConfig, batch: Batch, *, old_N: Tensor | None, teacher_N: Tensor, ref_N: Tensor | None
    ) -> None:
        """`old_N`: the trainer's log-probs before the first update; None: read from the only update's forward pass."""
        device = teacher_N.device
        self.cfg, mask_N = cfg, _on(batch.mask_N, device)
        self.lengths_B = _on(batch.response_lengths_B.astype(np.int64), device)
        groups_B, valid_B = _on(batch.groups_B.astype(np.int64), device), _on(batch.valid_B, device)
        estimate = ESTIMATORS[cfg.algorithm.advantage_estimator]
        task_N = broadcast_to_tokens(estimate(_on(batch.rewards_B, device), groups_B, valid_B), self.lengths_B)
        self.given = Given(
            task_N=torch.where(mask_N, task_N, 0.0),
            teacher_N=teacher_N,
            ref_N=ref_N,
            engine_N=_on(batch.engine_logprobs_N, device),
            mask_N=mask_N,
            kl_coef=batch.kl_coef,
        )
        self.old_N = torch.zeros_like(teacher_N) if old_N is None else old_N
        self._advantages_N = None if old_N is None else self._whole_step(old_N)

    def _whole_step(self, old_N: Tensor) -> Tensor:
        advantages_N = penalized(self.cfg, self.given, old_N).advantages_N
        return whiten(advantages_N, self.given.mask_N) if self.cfg.algorithm.normalize_advantages else advantages_N

    def loss(self, micro: MicroBatch, new_n: Tensor, entropy_n: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """What Megatron asks of a loss function: numerator, denominator (an integer), and sums for the metrics."""
        rows_n = _on(micro.flat_n, new_n.device)
        given = self.given.at(rows_n)
        if self._advantages_N is None:
            self.old_N[rows_n] = new_n.detach()
            advantages_n = penalized(self.cfg, given, new_n.detach()).advantages_N
        else:
            advantages_n = self._advantages_N[rows_n]
        lengths_b = _on(micro.lengths_b, new_n.device)
        return update_loss(self.cfg, given, lengths_b, advantages_n, self.old_N[rows_n], new_n, entropy_n)

    def metrics(self) -> dict[str, float]:
        """Of the step as the old weights saw it. `old_N` must be whole: each rank has read what it trained."""
        given, old_N, mask_N = self.given, self.old_N, self.given.mask_N
        penalty = penalized(self.cfg, given, old_N)
        tokens = mask_N.sum().clamp_min(1)
        gap_N = torch.where(mask_N, (given.engine_N - old_N).abs(), 0.0)
        summary = summarize_reverse_kl(penalty.reverse_kl_N, mask_N, self.lengths_B)
        metrics = {f"opd/reverse_kl{name}": value for name, value in summary.items()}
        metrics |= {
            "opd/clamped_share": float(penalty.clamped_N.sum() / tokens),
            "opd/kl_coef": given.kl_coef,
            "logprob/engine_vs_trainer_abs_mean": float(gap_N.sum() / tokens),
            "logprob/engine_vs_trainer_abs_max": float(gap_N.max()) if len(gap_N) else 0.0,
        }
        if given.ref_N is not None:
            kl_N = kl_estimate(old_N, given.ref_N, self.cfg.algorithm.reference.estimator)
            metrics["policy/kl_ref"] = float(torch.where(mask_N, kl_N, 0.0).sum() / tokens)
        return metrics


def penalized(cfg: TrainConfig, given: Given, old_N: Tensor) -> OPDPenalty:
    """Advantages after the KL to the reference and the OPD term, token by token."""
    reference, task_N = cfg.algorithm.reference, given.task_N
    if given.ref_N is not None and reference.reward_kl_coef:
        kl_N = kl_estimate(old_N, given.ref_N, reference.estimator)
        task_N = torch.where(given.mask_N, task_N - reference.reward_kl_coef * kl_N, 0.0)
    return apply_opd_penalty(
        task_N,
        old_N,
        given.teacher_N,
        given.mask_N,
        kl_coef=given.kl_coef,
        max_log_ratio=cfg.distillation.max_log_ratio,
    )


def update_loss(
    cfg: TrainConfig,
    given: Given,
    lengths_b: Tensor,
    advantages_n: Tensor,
    old_n: Tensor,
    new_n: Tensor,
    entropy_n: Tensor,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Numerator, denominator and sums over the n tokens of a micro-batch, b samples."""
    algorithm, mask_n = cfg.algorithm, given.mask_N
    policy = policy_loss(
        new_n,
        old_n,
        advantages_n,
        mask_n,
        eps_clip=algorithm.eps_clip,
        eps_clip_high=algorithm.eps_clip if algorithm.eps_clip_high is None else algorithm.eps_clip_high,
        dual_clip=algorithm.dual_clip,
    )
    loss_n = policy.loss_N
    if algorithm.importance_correction == "Truncated" or cfg.rollout.max_staleness_steps > 0:
        loss_n = loss_n * truncated_importance_weights(old_n, given.engine_N, mask_n)
    if algorithm.entropy_coef:
        loss_n = loss_n - algorithm.entropy_coef * entropy_n
    if given.ref_N is not None and algorithm.reference.loss_kl_coef:
        kl_n = kl_estimate(new_n, given.ref_N, algorithm.reference.estimator)
        loss_n = loss_n + algorithm.reference.loss_kl_coef * kl_n
    if algorithm.loss_aggregation == "SampleMean":
        total, count = sample_mean_sum(loss_n, mask_n, lengths_b)
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
