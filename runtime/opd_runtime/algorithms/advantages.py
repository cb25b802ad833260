"""Task rewards to advantages, one estimator a function. The OPD term comes after, and is not here.

Shapes: B samples in the step, N response tokens packed, G prompts (groups of samples).
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def group_advantages(rewards_B: Tensor, groups_B: Tensor, valid_B: Tensor, *, std_normalize: bool = True) -> Tensor:
    """GRPO (Shao et al. 2024): (r - mean) / (std + 1e-6) within the samples of a prompt, unbiased std.

    A failed sample (valid_B False) is outside its group's statistics and gets 0. A group of one valid sample gets 0:
    there is nothing to compare with. groups_B: prompt index of each sample, >= 0.
    """
    assert rewards_B.shape == groups_B.shape == valid_B.shape
    zeros_G = rewards_B.new_zeros(int(groups_B.max()) + 1 if len(groups_B) else 0)
    known_B = torch.where(valid_B, rewards_B, 0.0)
    size_G = zeros_G.index_add(0, groups_B, valid_B.to(rewards_B.dtype))
    mean_G = zeros_G.index_add(0, groups_B, known_B) / size_G.clamp_min(1)
    centred_B = torch.where(valid_B, rewards_B - mean_G[groups_B], 0.0)
    if not std_normalize:
        return centred_B
    variance_G = zeros_G.index_add(0, groups_B, centred_B.square()) / (size_G - 1).clamp_min(1)
    return centred_B / (variance_G.sqrt()[groups_B] + 1e-6)


def broadcast_to_tokens(advantages_B: Tensor, lengths_B: Tensor) -> Tensor:
    """Every token of a sample gets the sample's advantage."""
    assert advantages_B.shape == lengths_B.shape
    return advantages_B.repeat_interleave(lengths_B)


ESTIMATORS: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"GRPO": group_advantages}
"""By the contract's `advantageEstimator`: (rewards_B, groups_B, valid_B) -> advantages_B."""
