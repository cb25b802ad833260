"""Whitening against NumPy, and its independence of how the batch is split over processes."""

import threading
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from opd_runtime.algorithms.normalize import whiten


def test_whitened_advantages_equal_numpy(make_step):
    step = make_step([5, 0, 7])
    kept = step.advantages_N[step.mask_N].numpy()
    want = (kept - kept.mean()) / np.sqrt(kept.var() + 1e-8)
    whitened_N = whiten(step.advantages_N, step.mask_N)
    assert_close(whitened_N[step.mask_N], torch.from_numpy(want))
    assert not whitened_N[~step.mask_N].any()


def summing_processes(count: int) -> Callable[[Tensor], Tensor]:
    """An all-reduce between threads: everyone waits until all have brought a tensor, and all get the sum."""
    barrier = threading.Barrier(count, timeout=10)
    brought: dict[int, Tensor] = {}

    def all_reduce(tensor: Tensor) -> Tensor:
        brought[threading.get_ident()] = tensor
        barrier.wait()
        total = torch.stack(list(brought.values())).sum(0)
        barrier.wait()
        return total

    return all_reduce


@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
    cuts=st.lists(st.integers(0, 36), min_size=1, max_size=3),
)
def test_whitening_is_the_same_for_any_data_parallel_split(make_step, lengths, seed, cuts):
    step = make_step(lengths, seed)
    bounds = [0, *sorted(min(cut, sum(lengths)) for cut in cuts), sum(lengths)]
    parts = [slice(start, end) for start, end in pairwise(bounds)]
    all_reduce = summing_processes(len(parts))
    whitened: list[Tensor | None] = [None] * len(parts)

    def process(rank: int) -> None:
        where = parts[rank]
        whitened[rank] = whiten(step.advantages_N[where], step.mask_N[where], all_reduce=all_reduce)

    processes = [threading.Thread(target=process, args=(rank,)) for rank in range(len(parts))]
    for one in processes:
        one.start()
    for one in processes:
        one.join(timeout=20)
    assert_close(torch.cat(whitened), whiten(step.advantages_N, step.mask_N))


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_whitening_hides_the_scale_of_the_coefficients(make_step, scale):
    step = make_step([8, 8])
    want_N = whiten(step.advantages_N, step.mask_N)
    assert_close(whiten(scale * step.advantages_N + 3, step.mask_N), want_N, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("advantages", "mask"),
    [
        pytest.param([1.0, 2.0], [False, False], id="nothing to whiten"),
        pytest.param([7.0, 9.0], [True, False], id="a single token"),
        pytest.param([3.0, 3.0], [True, True], id="equal advantages"),
        pytest.param([0.0, float("nan")], [True, False], id="nan where masked"),
        pytest.param([], [], id="an empty step"),
    ],
)
def test_degenerate_batch_becomes_zero(advantages, mask):
    whitened_N = whiten(torch.tensor(advantages), torch.tensor(mask, dtype=torch.bool))
    assert whitened_N.tolist() == [0.0] * len(advantages)
