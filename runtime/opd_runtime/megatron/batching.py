"""Which rank trains which sample in which micro-batch, and the arrays of a micro-batch. Pure; NumPy only.

Samples of like length stand together, padded to the longest: with lengths sorted little is wasted, and one layout
serves every attention kernel.

Shapes: B samples of the step, b samples of a micro-batch, s padded length, n response tokens of a micro-batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..batch import Batch

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """What one forward pass needs. Never empty: a rank without samples gets a dummy whose rows are none."""

    samples: Indices
    """Which samples of the step, in the order of the rows below."""
    tokens_bs: NDArray[np.int64]
    """Inputs: prompt and response without its last token, padded with 0."""
    rows_n: Indices
    """Row of the flattened [b * s] logits that predicts each response token."""
    targets_n: Indices
    """The response tokens."""
    flat_n: Indices
    """Position of each response token among the N of the step."""
    lengths_b: Indices
    """Response tokens of each sample; they sum to n."""


class Packer:
    """Cuts a step's batch into micro-batches. The same on every rank."""

    def __init__(self, batch: Batch, *, max_tokens: int, data_parallel: int, multiple_of: int = 1) -> None:
        """`max_tokens`: most padded tokens of a micro-batch; a longer sample stands alone. `multiple_of` divides every
        padded length (sequence parallelism)."""
        self.batch, self.max_tokens = batch, max_tokens
        self.data_parallel, self.multiple_of = data_parallel, multiple_of
        self.prompts_B = batch.prompt_lengths_B.astype(np.int64)
        self.responses_B = batch.response_lengths_B.astype(np.int64)
        self.inputs_B = np.maximum(self.prompts_B + self.responses_B - 1, 1)
        self._token_start_B = np.cumsum(self.prompts_B + self.responses_B) - (self.prompts_B + self.responses_B)
        self._response_start_B = np.cumsum(self.responses_B) - self.responses_B
        self.trainable = np.flatnonzero(self.responses_B > 0)

    def micro_batches(self, samples: Indices, rank: int) -> list[MicroBatch]:
        """This data-parallel rank's share of `samples`; every rank gets the same number of micro-batches."""
        ordered = samples[np.argsort(-self.inputs_B[samples], kind="stable")]
        bins = [self._bins(ordered[share :: self.data_parallel]) for share in range(self.data_parallel)]
        count = max(len(share) for share in bins)
        own = bins[rank] + [np.empty(0, dtype=np.int64)] * (count - len(bins[rank]))
        return [self._build(members) for members in own]

    def _bins(self, ordered: Indices) -> list[Indices]:
        """Consecutive runs whose padded size fits; a sample longer than the budget stands alone."""
        bins: list[list[int]] = []
        for sample in ordered:
            if bins and (len(bins[-1]) + 1) * self._padded(bins[-1][0]) <= self.max_tokens:
                bins[-1].append(sample)
            else:
                bins.append([sample])
        return [np.array(members, dtype=np.int64) for members in bins]

    def _padded(self, longest: int) -> int:
        return -(-int(self.inputs_B[longest]) // self.multiple_of) * self.multiple_of

    def _build(self, samples: Indices) -> MicroBatch:
        if not len(samples):
            none = np.empty(0, dtype=np.int64)
            tokens = np.zeros((1, self.multiple_of), dtype=np.int64)
            return MicroBatch(samples=none, tokens_bs=tokens, rows_n=none, targets_n=none, flat_n=none, lengths_b=none)
        width, inputs, responses = self._padded(samples[0]), self.inputs_B[samples], self.responses_B[samples]
        starts = self._token_start_B[samples]
        column = np.arange(width)
        inside = column < inputs[:, None]
        tokens = np.where(inside, self.batch.tokens_S[np.where(inside, starts[:, None] + column, 0)], 0)
        offset_n = _ranges(responses)
        first_row = np.arange(len(samples)) * width + self.prompts_B[samples] - 1
        return MicroBatch(
            samples=samples,
            tokens_bs=tokens.astype(np.int64),
            rows_n=np.repeat(first_row, responses) + offset_n,
            targets_n=self.batch.tokens_S[np.repeat(starts + self.prompts_B[samples], responses) + offset_n].astype(
                np.int64
            ),
            flat_n=np.repeat(self._response_start_B[samples], responses) + offset_n,
            lengths_b=responses,
        )


def update_split(samples: Indices, updates: int, seed: Sequence[int]) -> list[Indices]:
    """The samples in a random order that `seed` decides, cut into one part for each optimizer step."""
    return [
        part for part in np.array_split(np.random.default_rng(list(seed)).permutation(samples), updates) if len(part)
    ]


def _ranges(lengths: Indices) -> Indices:
    """0..l-1 for every length l, one after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
