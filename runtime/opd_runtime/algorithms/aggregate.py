"""Per-token losses to (numerator, denominator), so that any split over processes gives the same gradient.

The caller sums both over all micro-batches and processes and divides once.

Shapes: B samples, N response tokens packed (lengths_B sums to N).
"""

import torch
from torch import Tensor


def sample_mean_sum(loss_N: Tensor, mask_N: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over samples of the mean over their unmasked tokens, and the number of samples that have one."""
    assert loss_N.shape == mask_N.shape
    index_B = torch.arange(len(lengths_B), device=loss_N.device)
    sample_N = index_B.repeat_interleave(lengths_B, output_size=len(loss_N))
    tokens_B = loss_N.new_zeros(len(lengths_B)).index_add(0, sample_N, mask_N.to(loss_N.dtype))
    mean_N = loss_N / tokens_B.clamp_min(1)[sample_N]
    return torch.where(mask_N, mean_N, 0.0).sum(), (tokens_B > 0).sum()


def token_sum(loss_N: Tensor, mask_N: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over the unmasked tokens, and their number."""
    assert loss_N.shape == mask_N.shape
    return torch.where(mask_N, loss_N, 0.0).sum(), mask_N.sum()
