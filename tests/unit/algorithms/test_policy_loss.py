"""Clipped policy loss and importance weights against scalar arithmetic and finite differences."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opd_runtime.algorithms.policy_loss import policy_loss, truncated_importance_weights

CLIP = {"eps_clip": 0.2, "eps_clip_high": 0.28}


def scalar_loss(new: float, old: float, advantage: float, dual_clip: float | None) -> tuple[float, bool]:
    ratio = math.exp(new - old)
    clipped = min(max(ratio, 0.8), 1.28)
    loss = max(-ratio * advantage, -clipped * advantage)
    decided = -clipped * advantage > -ratio * advantage
    if dual_clip is not None and advantage < 0 and -dual_clip * advantage < loss:
        return -dual_clip * advantage, True
    return loss, decided


@given(
    lengths=st.lists(st.integers(0, 6), max_size=5),
    seed=st.integers(0, 1000),
    dual_clip=st.sampled_from([None, 1.1, 3.0]),
)
def test_loss_equals_scalar_arithmetic_token_by_token(make_step, lengths, seed, dual_clip):
    step = make_step(lengths, seed)
    result = policy_loss(
        step.new_logprobs_N, step.old_logprobs_N, step.advantages_N, step.mask_N, dual_clip=dual_clip, **CLIP
    )
    for i in range(sum(lengths)):
        new, old, advantage = (float(x[i]) for x in (step.new_logprobs_N, step.old_logprobs_N, step.advantages_N))
        want_loss, want_clipped = scalar_loss(new, old, advantage, dual_clip) if step.mask_N[i] else (0.0, False)
        assert float(result.loss_N[i]) == pytest.approx(want_loss)
        assert bool(result.clipped_N[i]) == want_clipped
        assert float(result.ratio_N[i]) == pytest.approx(math.exp(new - old) if step.mask_N[i] else 1.0)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "dual_clip", "want_loss", "want_gradient"),
    [
        pytest.param(0.0, 2.0, None, -2.0, -2.0, id="on policy the gradient is minus the advantage"),
        pytest.param(0.0, -2.0, None, 2.0, 2.0, id="and pushes a bad token down"),
        pytest.param(math.log(2), 1.0, None, -1.28, 0.0, id="a good token that has risen enough is left alone"),
        pytest.param(math.log(0.5), -1.0, None, 0.8, 0.0, id="a bad token that has fallen enough is left alone"),
        pytest.param(math.log(2), -1.0, None, 2.0, 2.0, id="a bad token that has risen is pushed back harder"),
        pytest.param(math.log(8), -1.0, 3.0, 3.0, 0.0, id="but not beyond the dual clip"),
        pytest.param(500.0, 1.0, None, -1.28, 0.0, id="an overflowing ratio gives no nan"),
        pytest.param(500.0, -1.0, 3.0, 3.0, 0.0, id="nor does it with the dual clip"),
    ],
)
def test_gradient_of_one_token(log_ratio, advantage, dual_clip, want_loss, want_gradient):
    old_N = torch.tensor([-1.0])
    new_N = (old_N + log_ratio).requires_grad_()
    result = policy_loss(new_N, old_N, torch.tensor([advantage]), torch.tensor([True]), dual_clip=dual_clip, **CLIP)
    (gradient_N,) = torch.autograd.grad(result.loss_N.sum(), new_N)
    assert result.loss_N.item() == pytest.approx(want_loss, rel=1e-5)
    assert gradient_N.item() == pytest.approx(want_gradient, rel=1e-5)


@pytest.mark.parametrize("dual_clip", [None, 3.0])
def test_gradient_equals_finite_differences(make_step, dual_clip):
    step = make_step([6, 3, 0, 9])

    def loss(new_logprobs_N):
        return policy_loss(
            new_logprobs_N, step.old_logprobs_N, step.advantages_N, step.mask_N, dual_clip=dual_clip, **CLIP
        ).loss_N

    assert torch.autograd.gradcheck(loss, step.new_logprobs_N.clone().requires_grad_())


def test_nan_on_a_masked_token_reaches_neither_loss_nor_gradient(make_step):
    step = make_step([5, 5])
    nan_N = torch.full_like(step.advantages_N, float("nan"))
    new_N = step.new_logprobs_N.clone().requires_grad_()
    dirty = [torch.where(step.mask_N, x, nan_N) for x in (new_N, step.old_logprobs_N, step.advantages_N)]
    clean = policy_loss(step.new_logprobs_N, step.old_logprobs_N, step.advantages_N, step.mask_N, **CLIP)
    result = policy_loss(*dirty, step.mask_N, **CLIP)
    (gradient_N,) = torch.autograd.grad(result.loss_N.sum(), new_N)
    assert torch.equal(result.loss_N, clean.loss_N)
    assert torch.isfinite(gradient_N).all()
    assert not gradient_N[~step.mask_N].any()


@given(lengths=st.lists(st.integers(0, 6), max_size=5), seed=st.integers(0, 1000))
def test_importance_weight_is_the_bounded_probability_ratio(make_step, lengths, seed):
    step = make_step(lengths, seed)
    engine_N = torch.where(step.mask_N, step.teacher_logprobs_N, float("nan"))
    weights_N = truncated_importance_weights(
        step.old_logprobs_N.clone().requires_grad_(), engine_N, step.mask_N, low=0.5, high=2.0
    )
    assert not weights_N.requires_grad
    for i in range(sum(lengths)):
        ratio = math.exp(float(step.old_logprobs_N[i]) - float(step.teacher_logprobs_N[i]))
        assert float(weights_N[i]) == pytest.approx(min(2.0, max(0.5, ratio)) if step.mask_N[i] else 1.0)
