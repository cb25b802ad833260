"""The whole of on-policy distillation on policies so small that their KL can be computed exactly.

A policy is a table of logits [T, V, V]: position, previous token, next token. What this does not prove: anything about
Megatron, SGLang, or a policy that shares parameters between prefixes.
"""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from opd_runtime.algorithms.aggregate import sample_mean_sum
from opd_runtime.algorithms.normalize import whiten
from opd_runtime.algorithms.opd import apply_opd_penalty
from opd_runtime.algorithms.policy_loss import policy_loss

T, V, START = 4, 5, 0
SAMPLES = 256


def exact_kl_per_token(student_TVV: Tensor, teacher_TVV: Tensor) -> Tensor:
    """KL(student || teacher) over all sequences of T tokens, by the chain rule over the student's prefixes, over T."""
    previous_V = torch.zeros(V, dtype=student_TVV.dtype)
    previous_V[START] = 1.0
    total = torch.zeros((), dtype=student_TVV.dtype)
    for student_VV, teacher_VV in zip(student_TVV.log_softmax(-1), teacher_TVV.log_softmax(-1), strict=True):
        total = total + (previous_V * (student_VV.exp() * (student_VV - teacher_VV)).sum(-1)).sum()
        previous_V = previous_V @ student_VV.exp()
    return total / T


def sample_tokens(policy_TVV: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Previous and next token of every position, [SAMPLES, T] each."""
    previous_B = torch.full((SAMPLES,), START)
    before, after = [], []
    for policy_VV in policy_TVV.detach().softmax(-1):
        before.append(previous_B)
        previous_B = torch.multinomial(policy_VV[previous_B], 1, generator=random)[:, 0]
        after.append(previous_B)
    return torch.stack(before, 1), torch.stack(after, 1)


def token_logprobs(policy_TVV: Tensor, before_BT: Tensor, after_BT: Tensor) -> Tensor:
    return policy_TVV.log_softmax(-1)[torch.arange(T).expand_as(before_BT), before_BT, after_BT].flatten()


@pytest.mark.parametrize("whitening", [False, True], ids=["plain", "whitened"])
def test_exact_kl_falls_from_one_and_a_half_nats_to_below_a_twentieth(whitening):
    random = torch.Generator().manual_seed(0)
    teacher_TVV = 1.5 * torch.randn(T, V, V, generator=random, dtype=torch.float64)
    student_TVV = (1.1 * torch.randn(T, V, V, generator=random, dtype=torch.float64)).requires_grad_()
    first = exact_kl_per_token(student_TVV, teacher_TVV).item()
    assert 1.2 < first < 1.8
    optimizer = torch.optim.Adam([student_TVV], lr=0.05)
    lengths_B = torch.full((SAMPLES,), T)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        before_BT, after_BT = sample_tokens(student_TVV, random)
        mask_N = torch.rand(SAMPLES * T, generator=random) > 0.1
        old_N = token_logprobs(student_TVV, before_BT, after_BT).detach()
        teacher_N = torch.where(mask_N, token_logprobs(teacher_TVV, before_BT, after_BT), float("nan"))
        advantages_N = apply_opd_penalty(torch.zeros_like(old_N), old_N, teacher_N, mask_N, kl_coef=1.0).advantages_N
        if whitening:
            advantages_N = whiten(advantages_N, mask_N)
        for _ in range(2):
            new_N = token_logprobs(student_TVV, before_BT, after_BT)
            loss_N = policy_loss(new_N, old_N, advantages_N, mask_N, eps_clip=0.2, eps_clip_high=0.2).loss_N
            total, samples = sample_mean_sum(loss_N, mask_N, lengths_B)
            optimizer.zero_grad()
            (total / samples).backward()
            optimizer.step()
    assert exact_kl_per_token(student_TVV, teacher_TVV).item() < 0.05


@pytest.fixture
def one_token_policies() -> tuple[Tensor, Tensor]:
    """Logits of a student and a teacher over V tokens: every expectation is a sum over V, without sampling noise."""
    random = torch.Generator().manual_seed(1)
    student_V, teacher_V = torch.randn(2, V, generator=random, dtype=torch.float64)
    return student_V.clone().requires_grad_(), teacher_V.clone()


def gradient_of_exact_kl(student_V: Tensor, teacher_V: Tensor) -> Tensor:
    logprobs_V = student_V.log_softmax(0)
    (gradient_V,) = torch.autograd.grad((logprobs_V.exp() * (logprobs_V - teacher_V.log_softmax(0))).sum(), student_V)
    return gradient_V


def test_expected_gradient_of_the_opd_term_is_the_gradient_of_the_exact_kl(one_token_policies):
    student_V, teacher_V = one_token_policies
    new_V, all_V = student_V.log_softmax(0), torch.ones(V, dtype=torch.bool)
    old_V = new_V.detach()
    penalty = apply_opd_penalty(torch.zeros_like(old_V), old_V, teacher_V.log_softmax(0), all_V, kl_coef=1.0)
    loss_V = policy_loss(new_V, old_V, penalty.advantages_N, all_V, eps_clip=0.2, eps_clip_high=0.2).loss_N
    (gradient_V,) = torch.autograd.grad((old_V.exp() * loss_V).sum(), student_V)
    assert_close(gradient_V, gradient_of_exact_kl(student_V, teacher_V))
    assert gradient_V.norm() > 0.1


def test_reverse_kl_as_a_differentiable_loss_has_zero_expected_gradient(one_token_policies):
    """Why the OPD term is a detached reward: log p_student - log p_teacher as a loss teaches nothing on average."""
    student_V, teacher_V = one_token_policies
    new_V = student_V.log_softmax(0)
    loss_V = new_V - teacher_V.log_softmax(0)
    (gradient_V,) = torch.autograd.grad((new_V.detach().exp() * loss_V).sum(), student_V)
    assert_close(gradient_V, torch.zeros_like(gradient_V))
    assert gradient_of_exact_kl(student_V, teacher_V).norm() > 0.1
