"""One step's samples as flat arrays: what travels from the driver to the trainers. Knows no text and no Ray.

Shapes: B samples in the step, P_b prompt and T_b response tokens of sample b, N = sum(T_b), S = sum(P_b + T_b).
NumPy, because Ray's object store hands NumPy arrays to every trainer without a copy.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """All samples of one rollout-and-train step, in sample order."""

    tokens_S: NDArray[np.int32]
    """Prompt and response ids of every sample, one sample after the other."""
    prompt_lengths_B: NDArray[np.int32]
    """Prompt tokens of each sample, >= 1."""
    response_lengths_B: NDArray[np.int32]
    """Response tokens of each sample, >= 0."""
    mask_N: NDArray[np.bool_]
    """True where a response token trains; a failed sample is False throughout."""
    engine_logprobs_N: NDArray[np.float32]
    """The engine's log-probs while sampling (nats)."""
    teacher_logprobs_N: NDArray[np.float32] | None
    """The SGLang teacher's log-probs; None when the teacher is in the trainer. Only read where mask_N."""
    rewards_B: NDArray[np.float32]
    """Task reward times its weight; 0 without a verifier."""
    groups_B: NDArray[np.int32]
    """Index of the prompt in the step: samples of one prompt share it."""
    valid_B: NDArray[np.bool_]
    """False for a sample that failed (no reward, no score, no tokens)."""
    kl_coef: float
    """Coefficient of the OPD term in this step, after its schedule."""

    def __len__(self) -> int:
        return len(self.prompt_lengths_B)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What an update tells; the same on every rank."""

    metrics: dict[str, float]
    seconds: dict[str, float]
    """Wall time of `logprobs`, `teacher`, `update`."""
