"""Whitening of advantages over the batch.

Shapes: N response tokens packed.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def whiten(
    advantages_N: Tensor,
    mask_N: Tensor,
    *,
    all_reduce: Callable[[Tensor], Tensor] | None = None,
    eps: float = 1e-8,
) -> Tensor:
    """(A - mean) / sqrt(variance + eps) over unmasked tokens; masked ones become 0. Makes the coefficients scale-free.

    `all_reduce` sums a tensor over the processes that hold parts of the batch; it is called exactly twice, also by a
    process without a token. Two passes, because a one-pass variance cancels when the mean is large.
    """
    assert advantages_N.shape == mask_N.shape
    reduce = all_reduce or (lambda tensor: tensor)
    known_N = torch.where(mask_N, advantages_N, 0.0)
    total, count = reduce(torch.stack([known_N.sum(), mask_N.sum().to(known_N.dtype)]))
    centred_N = torch.where(mask_N, known_N - total / count.clamp_min(1), 0.0)
    variance = reduce(centred_N.square().sum()) / count.clamp_min(1)
    return centred_N / (variance + eps).sqrt()
