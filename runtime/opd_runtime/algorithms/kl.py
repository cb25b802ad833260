"""Estimates of KL(policy || reference) from the policy's own samples.

Shapes: N response tokens packed.
"""

from typing import Literal

import torch
from torch import Tensor

LOW_VAR_BOUND = 10.0
LOW_VAR_LOG_RATIO_BOUND = 20.0
"""Before the exponential: beyond it k3 is past its own bound anyway, and 0 * inf in the backward would be nan."""


def kl_estimate(logprobs_N: Tensor, ref_logprobs_N: Tensor, kind: Literal["K1", "K2", "K3", "LowVar"]) -> Tensor:
    """k1 = d, k2 = d^2/2, k3 = exp(-d) - 1 + d with d = log p - log p_ref (Schulman 2020); LowVar is k3 within +-10.

    Differentiable in logprobs_N. k1 and k3 are unbiased; k2 is not, but its gradient is the KL's.
    """
    assert logprobs_N.shape == ref_logprobs_N.shape
    d_N = logprobs_N - ref_logprobs_N
    match kind:
        case "K1":
            return d_N
        case "K2":
            return d_N.square() / 2
        case "K3":
            return torch.expm1(-d_N) + d_N
        case "LowVar":
            d_N = d_N.clamp(-LOW_VAR_LOG_RATIO_BOUND, LOW_VAR_LOG_RATIO_BOUND)
            return (torch.expm1(-d_N) + d_N).clamp(-LOW_VAR_BOUND, LOW_VAR_BOUND)
