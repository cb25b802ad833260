"""Aggregation against a loop over samples, and its independence of any split into micro-batches or processes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from opd_runtime.algorithms.aggregate import sample_mean_sum, token_sum
from opd_runtime.algorithms.policy_loss import policy_loss

LENGTHS = st.lists(st.integers(0, 6), max_size=6)


@given(lengths=LENGTHS, seed=st.integers(0, 1000))
def test_sums_equal_a_loop_over_samples(make_step, lengths, seed):
    step = make_step(lengths, seed)
    loss_N = torch.where(step.mask_N, step.advantages_N, float("nan"))
    kept = [step.advantages_N[sample][step.mask_N[sample]] for sample in step.samples()]
    total, samples = sample_mean_sum(loss_N, step.mask_N, step.lengths_B)
    assert float(total) == pytest.approx(sum(float(tokens.mean()) for tokens in kept if len(tokens)))
    assert int(samples) == sum(len(tokens) > 0 for tokens in kept)
    total, tokens = token_sum(loss_N, step.mask_N)
    assert float(total) == pytest.approx(sum(float(tokens.sum()) for tokens in kept))
    assert int(tokens) == sum(len(tokens) for tokens in kept)


@given(lengths=LENGTHS, seed=st.integers(0, 1000), cut=st.integers(0, 6))
def test_parts_of_a_batch_add_up_to_the_whole(make_step, lengths, seed, cut):
    step = make_step(lengths, seed)
    cut = min(cut, len(lengths))
    at = sum(lengths[:cut])
    parts = [(slice(None, at), step.lengths_B[:cut]), (slice(at, None), step.lengths_B[cut:])]
    for aggregate in (sample_mean_sum, lambda loss_N, mask_N, lengths_B: token_sum(loss_N, mask_N)):
        whole = aggregate(step.advantages_N, step.mask_N, step.lengths_B)
        halves = [aggregate(step.advantages_N[where], step.mask_N[where], part_B) for where, part_B in parts]
        assert_close(halves[0][0] + halves[1][0], whole[0])
        assert halves[0][1] + halves[1][1] == whole[1]


def test_long_sample_weighs_as_much_as_a_short_one_only_in_the_sample_mean():
    loss_N = torch.tensor([1.0, 1.0, 1.0, 5.0])
    mask_N, lengths_B = torch.ones(4, dtype=torch.bool), torch.tensor([3, 1])
    total, samples = sample_mean_sum(loss_N, mask_N, lengths_B)
    assert total / samples == 3.0
    total, tokens = token_sum(loss_N, mask_N)
    assert total / tokens == 2.0


def test_gradient_of_the_sample_mean_equals_finite_differences(make_step):
    step = make_step([3, 0, 4])
    loss_N = step.advantages_N.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sample_mean_sum(x, step.mask_N, step.lengths_B)[0], loss_N)


@pytest.mark.parametrize("lengths", [[4, 3], [0, 0], []], ids=["all masked", "no tokens", "no samples"])
def test_fully_masked_batch_keeps_backward_finite(make_step, lengths):
    step = make_step(lengths, masked=1.1)
    assert not step.mask_N.any()
    new_N = step.new_logprobs_N.clone().requires_grad_()
    loss_N = policy_loss(
        new_N, step.old_logprobs_N, step.advantages_N, step.mask_N, eps_clip=0.2, eps_clip_high=0.2
    ).loss_N
    for total, count in (sample_mean_sum(loss_N, step.mask_N, step.lengths_B), token_sum(loss_N, step.mask_N)):
        (gradient_N,) = torch.autograd.grad(total, new_N, retain_graph=True)
        assert total.item() == 0.0
        assert int(count) == 0
        assert not gradient_N.any()
