"""The OPD term against its formula, its guards, and the coefficient over the steps."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from opd_runtime.algorithms.opd import adapted_kl_coef, apply_opd_penalty, scheduled_kl_coef

LENGTHS = st.lists(st.integers(0, 6), max_size=6)


@given(lengths=LENGTHS, seed=st.integers(0, 1000))
def test_penalty_is_the_formula_token_by_token(make_step, lengths, seed):
    step = make_step(lengths, seed)
    penalty = apply_opd_penalty(
        step.advantages_N, step.old_logprobs_N, step.teacher_logprobs_N, step.mask_N, kl_coef=0.7, max_log_ratio=0.5
    )
    for i in range(sum(lengths)):
        advantage = float(step.advantages_N[i])
        reverse_kl = float(step.old_logprobs_N[i] - step.teacher_logprobs_N[i])
        trains = bool(step.mask_N[i])
        want = advantage - 0.7 * max(-0.5, min(0.5, reverse_kl)) if trains else advantage
        assert float(penalty.advantages_N[i]) == pytest.approx(want)
        assert float(penalty.reverse_kl_N[i]) == pytest.approx(reverse_kl if trains else 0.0)
        assert bool(penalty.clamped_N[i]) == (trains and abs(reverse_kl) > 0.5)


def test_identical_teacher_gives_zero_penalty(make_step):
    step = make_step([3, 0, 5])
    penalty = apply_opd_penalty(step.advantages_N, step.old_logprobs_N, step.old_logprobs_N, step.mask_N, kl_coef=3.0)
    assert torch.equal(penalty.advantages_N, step.advantages_N)
    assert not penalty.reverse_kl_N.any()
    assert not penalty.clamped_N.any()


def test_token_the_teacher_likes_better_gains_advantage():
    penalty = apply_opd_penalty(
        torch.zeros(2), torch.tensor([-3.0, -1.0]), torch.tensor([-1.0, -3.0]), torch.tensor([True, True]), kl_coef=1.0
    )
    assert penalty.advantages_N.tolist() == [2.0, -2.0]


def test_coefficient_may_differ_from_token_to_token(make_step):
    step = make_step([4, 2])
    coefs_N = torch.arange(6, dtype=torch.float64)
    together = apply_opd_penalty(
        step.advantages_N, step.old_logprobs_N, step.teacher_logprobs_N, step.mask_N, kl_coef=coefs_N
    )
    for i, coef in enumerate(coefs_N.tolist()):
        alone = apply_opd_penalty(
            step.advantages_N, step.old_logprobs_N, step.teacher_logprobs_N, step.mask_N, kl_coef=coef
        )
        assert together.advantages_N[i] == alone.advantages_N[i]


def test_nan_score_on_a_masked_token_leaves_no_trace(make_step):
    step = make_step([4, 4])
    clean = apply_opd_penalty(step.advantages_N, step.old_logprobs_N, step.teacher_logprobs_N, step.mask_N, kl_coef=1.0)
    assert not step.mask_N.all()
    broken_N = torch.where(step.mask_N, step.teacher_logprobs_N, float("nan"))
    dirty = apply_opd_penalty(step.advantages_N, step.old_logprobs_N, broken_N, step.mask_N, kl_coef=1.0)
    assert torch.equal(dirty.advantages_N, clean.advantages_N)
    assert torch.equal(dirty.reverse_kl_N, clean.reverse_kl_N)
    assert torch.equal(dirty.clamped_N, clean.clamped_N)


@pytest.mark.parametrize(
    "teacher",
    [
        pytest.param(float("nan"), id="a missing score is an error"),
        pytest.param(float("-inf"), id="a teacher that rules the token out is an error"),
    ],
)
def test_unmasked_token_without_a_finite_score_is_refused(teacher):
    with pytest.raises(ValueError, match=r"response token 1 .*must be masked"):
        apply_opd_penalty(
            torch.zeros(2),
            torch.tensor([-1.0, -1.0]),
            torch.tensor([-1.0, teacher]),
            torch.tensor([True, True]),
            kl_coef=1.0,
        )


def test_metric_is_not_clamped_with_the_term():
    penalty = apply_opd_penalty(
        torch.zeros(1), torch.tensor([-1.0]), torch.tensor([-9.0]), torch.tensor([True]), kl_coef=1.0, max_log_ratio=5.0
    )
    assert penalty.advantages_N.item() == -5.0
    assert penalty.reverse_kl_N.item() == 8.0


def test_inputs_are_neither_changed_nor_part_of_a_graph(make_step):
    step = make_step([5])
    before = step.advantages_N.clone()
    student_N = step.old_logprobs_N.clone().requires_grad_()
    penalty = apply_opd_penalty(step.advantages_N, student_N, step.teacher_logprobs_N, step.mask_N, kl_coef=1.0)
    assert not penalty.advantages_N.requires_grad
    assert not penalty.reverse_kl_N.requires_grad
    assert_close(step.advantages_N, before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kind", "step", "want"),
    [
        pytest.param("Constant", 7, 2.0, id="constant stays"),
        pytest.param("Linear", 0, 2.0, id="linear starts at the initial value"),
        pytest.param("Linear", 5, 1.25, id="linear is half way at half the steps"),
        pytest.param("Linear", 10, 0.5, id="linear ends at the final value"),
        pytest.param("Linear", 99, 0.5, id="linear stays at the final value"),
        pytest.param("Cosine", 0, 2.0, id="cosine starts at the initial value"),
        pytest.param("Cosine", 5, 1.25, id="cosine is half way at half the steps"),
        pytest.param("Cosine", 2, 2.0 - 1.5 * (1 - math.cos(0.2 * math.pi)) / 2, id="cosine starts slowly"),
        pytest.param("Cosine", 99, 0.5, id="cosine stays at the final value"),
    ],
)
def test_coefficient_follows_its_schedule(kind, step, want):
    assert scheduled_kl_coef(kind, step, initial=2.0, final=0.5, steps=10) == pytest.approx(want)


def test_adaptive_coefficient_rises_above_the_target_falls_below_and_rests_on_it():
    assert adapted_kl_coef(1.0, 0.11, 0.1) == pytest.approx(1.01)
    assert adapted_kl_coef(1.0, 0.09, 0.1) == pytest.approx(0.99)
    assert adapted_kl_coef(1.0, 0.1, 0.1) == 1.0


def test_adaptive_coefficient_moves_at_most_two_percent_a_step():
    assert adapted_kl_coef(1.0, 50.0, 0.1) == pytest.approx(1.02)
    assert adapted_kl_coef(1.0, -50.0, 0.1) == pytest.approx(0.98)


def test_adaptive_coefficient_settles_where_the_kl_meets_its_target():
    """A plant whose KL is inversely proportional to the coefficient; says nothing about a real student."""
    coef = 0.2
    for _ in range(1000):
        coef = adapted_kl_coef(coef, reverse_kl=0.3 / coef, target_kl=0.1)
    assert coef == pytest.approx(3.0, rel=1e-3)
