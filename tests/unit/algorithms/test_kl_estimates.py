"""KL estimates against the exact KL of a small distribution."""

import pytest
import torch
from torch.testing import assert_close

from opd_runtime.algorithms.kl import kl_estimate

# All V tokens of a distribution with their probabilities: expectations are exact sums, no sampling noise.
LOGITS_V = torch.tensor([0.3, -0.2, 1.1, -0.7, 0.0], dtype=torch.float64)
REF_LOGITS_V = torch.tensor([0.1, 0.4, 0.6, -0.9, 0.2], dtype=torch.float64)


@pytest.fixture
def logits_V():
    return LOGITS_V.clone().requires_grad_()


def exact_kl(logits_V):
    logprobs_V = logits_V.log_softmax(0)
    return (logprobs_V.exp() * (logprobs_V - REF_LOGITS_V.log_softmax(0))).sum()


@pytest.mark.parametrize("kind", ["K1", "K3", "LowVar"])
def test_expected_value_is_the_exact_kl(logits_V, kind):
    logprobs_V = logits_V.log_softmax(0)
    estimates_V = kl_estimate(logprobs_V, REF_LOGITS_V.log_softmax(0), kind)
    assert_close((logprobs_V.exp() * estimates_V).sum(), exact_kl(logits_V))


def test_expected_gradient_of_k2_is_the_gradient_of_the_exact_kl(logits_V):
    logprobs_V = logits_V.log_softmax(0)
    estimates_V = kl_estimate(logprobs_V, REF_LOGITS_V.log_softmax(0), "K2")
    (got_V,) = torch.autograd.grad((logprobs_V.exp().detach() * estimates_V).sum(), logits_V)
    (want_V,) = torch.autograd.grad(exact_kl(logits_V), logits_V)
    assert_close(got_V, want_V)


@pytest.mark.parametrize("kind", ["K2", "K3", "LowVar"])
def test_no_estimate_but_k1_is_negative(kind):
    d_N = torch.linspace(-5, 5, 101, dtype=torch.float64)
    assert (kl_estimate(d_N, torch.zeros_like(d_N), kind) > -1e-15).all()
    assert kl_estimate(d_N, torch.zeros_like(d_N), "K1").min() == -5


@pytest.mark.parametrize("kind", ["K3", "LowVar"])
def test_small_log_ratios_are_not_lost_in_single_precision(kind):
    estimate_N = kl_estimate(torch.tensor([1e-4]), torch.zeros(1), kind)
    assert estimate_N.item() == pytest.approx(0.5e-8, rel=1e-3)


@pytest.mark.parametrize("kind", ["K1", "K2", "K3", "LowVar"])
def test_gradient_equals_finite_differences_for_kind(kind):
    logprobs_N = torch.tensor([-0.1, -1.0, -2.5], dtype=torch.float64, requires_grad=True)
    ref_N = torch.tensor([-0.4, -0.9, -1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: kl_estimate(x, ref_N, kind), logprobs_N)


def test_low_variance_estimate_stays_within_ten_with_a_finite_gradient():
    logprobs_N = torch.tensor([-200.0, 0.0], requires_grad=True)
    estimates_N = kl_estimate(logprobs_N, torch.tensor([0.0, -200.0]), "LowVar")
    (gradient_N,) = torch.autograd.grad(estimates_N.sum(), logprobs_N)
    assert estimates_N.tolist() == [10.0, 10.0]
    assert torch.isfinite(gradient_N).all()
