"""Micro-batches of a step, compared with the samples one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opd_runtime.megatron.batching import Packer, update_split

LENGTHS = [(3, 4), (1, 9), (2, 0), (5, 5), (1, 1), (30, 12), (2, 7)]


def _check(batch, packer: Packer, samples: np.ndarray, budget: int, multiple: int) -> None:
    """Every response token of `samples` is predicted once, by the right row, from the right tokens."""
    by_rank = [packer.micro_batches(samples, rank) for rank in range(packer.data_parallel)]
    assert len({len(micros) for micros in by_rank}) == 1
    ends = np.cumsum(batch.prompt_lengths_B + batch.response_lengths_B)
    seen = []
    for micro in (micro for micros in by_rank for micro in micros):
        rows, width = micro.tokens_bs.shape
        assert width % multiple == 0
        assert rows * width <= budget or rows == 1
        flat_tokens = micro.tokens_bs.reshape(-1)
        assert len(micro.rows_n) == len(micro.targets_n) == len(micro.flat_n) == micro.lengths_b.sum()
        row_of_token = np.repeat(np.arange(len(micro.samples)), micro.lengths_b)
        for place, (row, target, flat) in enumerate(zip(micro.rows_n, micro.targets_n, micro.flat_n, strict=True)):
            sample = micro.samples[row_of_token[place]]
            first = ends[sample] - batch.prompt_lengths_B[sample] - batch.response_lengths_B[sample]
            offset = flat - batch.response_lengths_B[:sample].sum()
            position = batch.prompt_lengths_B[sample] + offset
            assert target == batch.tokens_S[first + position]
            assert row // width == row_of_token[place]
            assert (
                flat_tokens[row - row % width : row + 1].tolist() == batch.tokens_S[first : first + position].tolist()
            )
            seen.append(flat)
    want = np.flatnonzero(np.isin(np.repeat(np.arange(len(batch)), batch.response_lengths_B), samples))
    assert sorted(seen) == want.tolist()


@pytest.mark.parametrize("data_parallel", [1, 2, 3])
@pytest.mark.parametrize(("budget", "multiple"), [(1, 1), (16, 1), (16, 2), (4096, 4)])
def test_every_response_token_is_predicted_once_from_its_own_sample(make_batch, data_parallel, budget, multiple):
    batch = make_batch(LENGTHS)
    packer = Packer(batch, max_tokens=budget, data_parallel=data_parallel, multiple_of=multiple)
    _check(batch, packer, packer.trainable, budget, multiple)


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=1, max_size=12),
    budget=st.integers(1, 80),
    ranks=st.integers(1, 4),
    multiple=st.sampled_from([1, 2, 4]),
)
def test_so_for_any_lengths(make_batch, lengths, budget, ranks, multiple):
    batch = make_batch(lengths)
    packer = Packer(batch, max_tokens=budget, data_parallel=ranks, multiple_of=multiple)
    _check(batch, packer, packer.trainable, budget, multiple)


def test_a_part_of_the_step_holds_its_own_samples_only(make_batch):
    batch = make_batch(LENGTHS)
    packer = Packer(batch, max_tokens=32, data_parallel=2)
    _check(batch, packer, np.array([5, 0, 3]), 32, 1)


def test_a_sample_without_a_response_is_in_no_micro_batch(make_batch):
    packer = Packer(make_batch(LENGTHS), max_tokens=64, data_parallel=1)
    assert 2 not in packer.trainable
    assert len(packer.trainable) == len(LENGTHS) - 1


def test_a_sample_longer_than_the_budget_stands_alone(make_batch):
    """As the memory plan counts on: it takes the larger of the budget and the longest sample."""
    packer = Packer(make_batch(LENGTHS), max_tokens=20, data_parallel=1)
    (alone,) = [micro for micro in packer.micro_batches(packer.trainable, 0) if 5 in micro.samples]
    assert alone.tokens_bs.shape == (1, 41)


def test_a_rank_without_a_sample_gets_a_micro_batch_that_predicts_nothing(make_batch):
    packer = Packer(make_batch([(2, 3)]), max_tokens=64, data_parallel=2, multiple_of=2)
    (micro,) = packer.micro_batches(packer.trainable, 1)
    assert micro.tokens_bs.shape == (1, 2)
    assert len(micro.rows_n) == 0


@pytest.mark.parametrize("updates", [1, 2, 5, 7, 9])
def test_update_split_takes_every_sample_once(updates):
    samples = np.arange(7) * 3
    parts = update_split(samples, updates, (3, 1, 0))
    assert sorted(np.concatenate(parts)) == samples.tolist()
    assert len(parts) == min(updates, 7)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_update_split_is_a_matter_of_its_seed():
    samples = np.arange(40)
    one, same, other = (update_split(samples, 2, seed) for seed in ((3, 1, 0), (3, 1, 0), (3, 1, 1)))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
