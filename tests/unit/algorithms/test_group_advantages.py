"""GRPO's group step against numbers worked by hand and against the standard library."""

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opd_runtime.algorithms.advantages import ESTIMATORS, broadcast_to_tokens, group_advantages


@pytest.mark.parametrize(
    ("rewards", "groups", "valid", "want"),
    [
        # One of four right: mean 1/4, unbiased std sqrt((9/16 + 3/16) / 3) = 1/2.
        pytest.param([1, 0, 0, 0], [0] * 4, [True] * 4, [1.5, -0.5, -0.5, -0.5], id="one of four right"),
        # 1, 3: mean 2, std sqrt(2). 10, 30: the same after scaling.
        pytest.param(
            [1, 10, 3, 30], [0, 1, 0, 1], [True] * 4, [-(0.5**0.5), -(0.5**0.5), 0.5**0.5, 0.5**0.5], id="interleaved"
        ),
        pytest.param([2, 2, 2], [0] * 3, [True] * 3, [0, 0, 0], id="equal rewards teach nothing"),
        pytest.param([5], [0], [True], [0], id="a single sample has nothing to compare with"),
        pytest.param(
            [1, 3, 100], [0] * 3, [True, True, False], [-(0.5**0.5), 0.5**0.5, 0], id="a failed sample is left out"
        ),
        pytest.param([1, 7], [0, 0], [True, False], [0, 0], id="one valid sample left counts as single"),
        pytest.param(
            [7, 7, 1, 3], [0, 0, 1, 1], [False, False, True, True], [0, 0, -(0.5**0.5), 0.5**0.5], id="lost group"
        ),
        pytest.param([], [], [], [], id="no sample"),
    ],
)
def test_group_advantages_by_hand(rewards, groups, valid, want):
    advantages_B = group_advantages(
        torch.tensor(rewards, dtype=torch.float64),
        torch.tensor(groups, dtype=torch.long),
        torch.tensor(valid, dtype=torch.bool),
    )
    assert advantages_B.tolist() == pytest.approx(want, abs=1e-5)


def test_nan_reward_of_a_failed_sample_leaves_no_trace():
    advantages_B = group_advantages(
        torch.tensor([1.0, float("nan"), 3.0]), torch.tensor([0, 0, 0]), torch.tensor([True, False, True])
    )
    assert advantages_B.tolist() == pytest.approx([-(0.5**0.5), 0, 0.5**0.5], abs=1e-5)


@given(data=st.data(), std_normalize=st.booleans())
def test_group_advantages_equal_a_plain_loop(data, std_normalize):
    size = data.draw(st.integers(1, 12))
    rewards = data.draw(st.lists(st.integers(-4, 4), min_size=size, max_size=size))
    groups = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    valid = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    advantages_B = group_advantages(
        torch.tensor(rewards, dtype=torch.float64),
        torch.tensor(groups),
        torch.tensor(valid),
        std_normalize=std_normalize,
    )
    for reward, group, ok, got in zip(rewards, groups, valid, advantages_B.tolist(), strict=True):
        peers = [r for r, g, v in zip(rewards, groups, valid, strict=True) if v and g == group]
        want = reward - statistics.fmean(peers) if ok else 0.0
        if std_normalize and len(peers) > 1:
            want /= statistics.stdev(peers) + 1e-6
        assert got == pytest.approx(want, abs=1e-9)


def test_every_token_gets_the_advantage_of_its_sample():
    advantages_N = broadcast_to_tokens(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2, 0, 3]))
    assert advantages_N.tolist() == [1.0, 1.0, 3.0, 3.0, 3.0]


def test_estimators_are_found_by_the_name_of_the_contract():
    assert ESTIMATORS["GRPO"] is group_advantages
