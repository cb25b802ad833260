"""The reverse-KL metrics of a step against NumPy and a loop."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opd_runtime.algorithms.statistics import summarize_reverse_kl


@given(lengths=st.lists(st.integers(0, 9), max_size=6), seed=st.integers(0, 1000))
def test_summary_equals_a_loop_over_tokens(make_step, lengths, seed):
    step = make_step(lengths, seed)
    quarters: list[list[float]] = [[], [], [], []]
    for sample, length in zip(step.samples(), lengths, strict=True):
        for position, (value, trains) in enumerate(
            zip(step.advantages_N[sample].tolist(), step.mask_N[sample].tolist(), strict=True)
        ):
            if trains:
                quarters[int(4 * position / length)].append(value)
    values = [value for quarter in quarters for value in quarter]
    want = {f"_q{i + 1}": np.mean(quarter) for i, quarter in enumerate(quarters) if quarter}
    if values:
        want |= {
            "": np.mean(values),
            "_p95": np.percentile(values, 95, method="inverted_cdf"),
            "_max": max(values),
            "_negative_share": np.mean(np.array(values) < 0),
        }
    assert summarize_reverse_kl(step.advantages_N, step.mask_N, step.lengths_B) == pytest.approx(want)


def test_step_without_a_token_has_no_summary_instead_of_a_perfect_one():
    lengths_B = torch.tensor([2, 0])
    assert summarize_reverse_kl(torch.tensor([9.0, float("nan")]), torch.tensor([False, False]), lengths_B) == {}
