"""Summary numbers of the reverse KL of a step, for metrics.

Shapes: B samples, N response tokens packed (lengths_B sums to N).
"""

import torch
from torch import Tensor

QUARTERS = 4


def summarize_reverse_kl(reverse_kl_N: Tensor, mask_N: Tensor, lengths_B: Tensor) -> dict[str, float]:
    """Mean, 95th percentile, maximum, share of negative tokens, and the mean in each quarter of the responses.

    Keys are suffixes of the metric `opd/reverse_kl`. What has no token (an empty quarter, a fully masked step) is left
    out: a made-up 0 would read as a perfect student.
    """
    assert reverse_kl_N.shape == mask_N.shape
    values = reverse_kl_N[mask_N]
    if not len(values):
        return {}
    summary = {
        "": float(values.mean()),
        "_p95": _percentile(values, 0.95),
        "_max": float(values.max()),
        "_negative_share": float((values < 0).float().mean()),
    }
    start_B = lengths_B.cumsum(0) - lengths_B
    length_N = lengths_B.repeat_interleave(lengths_B, output_size=len(mask_N))
    offset_N = torch.arange(len(mask_N), device=mask_N.device) - start_B.repeat_interleave(
        lengths_B, output_size=len(mask_N)
    )
    quarter_of = (offset_N * QUARTERS // length_N)[mask_N]
    for quarter in range(QUARTERS):
        inside = values[quarter_of == quarter]
        if len(inside):
            summary[f"_q{quarter + 1}"] = float(inside.mean())
    return summary


def _percentile(values: Tensor, share: float) -> float:
    """Nearest rank: the smallest value that at least `share` of them do not exceed."""
    rank = -int(-share * len(values) // 1)
    return float(values.sort().values[rank - 1])
