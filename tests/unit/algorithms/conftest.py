"""Ragged packed steps for the tests of the maths."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedStep:
    """Random numbers of a step: N response tokens of B samples, float64."""

    lengths_B: Tensor
    mask_N: Tensor
    old_logprobs_N: Tensor
    new_logprobs_N: Tensor
    teacher_logprobs_N: Tensor
    advantages_N: Tensor

    def samples(self) -> list[slice]:
        """Where each sample's tokens are."""
        ends = self.lengths_B.cumsum(0).tolist()
        return [slice(end - length, end) for end, length in zip(ends, self.lengths_B.tolist(), strict=True)]


@pytest.fixture(scope="session")
def make_step() -> Callable[..., PackedStep]:
    def make(lengths: Sequence[int], seed: int = 0, *, masked: float = 0.3) -> PackedStep:
        random = torch.Generator().manual_seed(seed)
        tokens = sum(lengths)

        def normal() -> Tensor:
            return torch.randn(tokens, generator=random, dtype=torch.float64)

        old_logprobs_N = -normal().abs() - 0.1
        return PackedStep(
            lengths_B=torch.tensor(lengths, dtype=torch.long),
            mask_N=torch.rand(tokens, generator=random) >= masked,
            old_logprobs_N=old_logprobs_N,
            new_logprobs_N=old_logprobs_N + 0.3 * normal(),
            teacher_logprobs_N=-normal().abs() - 0.1,
            advantages_N=normal(),
        )

    return make
