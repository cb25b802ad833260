"""Advantages and loss of a step against the same sums written with Python floats, token by token."""

import dataclasses
import math
import statistics

import numpy as np
import pytest
import torch

from opd_api.spec import Algorithm, Distillation, Reference, Rollout
from opd_runtime.megatron.batching import Packer
from opd_runtime.megatron.objective import Objective, needs_old_logprobs

LENGTHS = [(2, 5), (2, 9), (3, 1), (3, 8)]
TOKENS = sum(response for _, response in LENGTHS)


@pytest.fixture
def numbers(make_batch):
    """A batch and log-probs of four models, some far enough apart that every clip decides somewhere."""
    draw = np.random.default_rng(5)
    batch = make_batch(LENGTHS, kl_coef=0.7)
    old = -draw.random(TOKENS) * 4 - 0.1
    make = dict(old=old, teacher=old + draw.normal(0, 2, TOKENS), ref=old + draw.normal(0, 0.5, TOKENS))
    make["new"] = old + draw.normal(0, 0.4, TOKENS)
    make["entropy"] = draw.random(TOKENS) * 3
    batch = dataclasses.replace(batch, engine_logprobs_N=(old + draw.normal(0, 0.6, TOKENS)).astype(np.float32))
    return batch, {name: torch.tensor(values, dtype=torch.float32) for name, values in make.items()}


CASES = [
    pytest.param(Algorithm(), Distillation(), id="as by default"),
    pytest.param(Algorithm(loss_aggregation="TokenMean"), Distillation(), id="mean over tokens"),
    pytest.param(Algorithm(eps_clip=0.1, eps_clip_high=0.5), Distillation(), id="two clips"),
    pytest.param(Algorithm(dual_clip=1.3), Distillation(), id="dual clip"),
    pytest.param(Algorithm(entropy_coef=0.3), Distillation(), id="entropy bonus"),
    pytest.param(Algorithm(entropy_coef=-0.3, loss_aggregation="TokenMean"), Distillation(), id="entropy penalty"),
    pytest.param(Algorithm(normalize_advantages=True), Distillation(), id="whitened"),
    pytest.param(Algorithm(importance_correction="Truncated"), Distillation(), id="importance correction"),
    pytest.param(Algorithm(), Distillation(max_log_ratio=0.5), id="clamped"),
    *(
        pytest.param(
            Algorithm(reference=Reference(loss_kl_coef=0.2, estimator=kind)), Distillation(), id=f"{kind} loss"
        )
        for kind in ("K1", "K2", "K3", "LowVar")
    ),
    pytest.param(
        Algorithm(reference=Reference(reward_kl_coef=0.4, estimator="K1"), normalize_advantages=True),
        Distillation(max_log_ratio=1.0),
        id="KL in the reward, clamped, whitened",
    ),
]


@pytest.mark.parametrize(("algorithm", "distillation"), CASES)
def test_loss_is_the_sum_written_token_by_token(algorithm, distillation, numbers, tmp_path, make_config):
    batch, numbers_N = numbers
    reference = algorithm.reference.reward_kl_coef or algorithm.reference.loss_kl_coef
    cfg = make_config(tmp_path, algorithm=algorithm, distillation=distillation)
    got, count, metrics = _loss(cfg, batch, numbers_N, with_reference=bool(reference))
    want, want_count = _scalar_loss(cfg, batch, numbers_N)
    assert int(count) == want_count
    assert float(got) == pytest.approx(want, rel=2e-5)
    want_kl = statistics.fmean((numbers_N["old"] - numbers_N["teacher"])[torch.from_numpy(batch.mask_N)].tolist())
    assert metrics["opd/reverse_kl"] == pytest.approx(want_kl, rel=1e-5)


def test_one_step_stale_samples_are_corrected_without_asking(numbers, tmp_path, make_config):
    batch, numbers_N = numbers
    stale = _loss(make_config(tmp_path, rollout=Rollout(max_staleness_steps=1)), batch, numbers_N)[0]
    asked = _loss(make_config(tmp_path, algorithm=Algorithm(importance_correction="Truncated")), batch, numbers_N)[0]
    never = _loss(make_config(tmp_path), batch, numbers_N)[0]
    assert float(stale) == float(asked) != float(never)


@pytest.mark.parametrize("algorithm", [Algorithm(entropy_coef=0.1, reference=Reference(loss_kl_coef=0.1))])
def test_masked_tokens_have_no_gradient_whatever_they_hold(algorithm, numbers, tmp_path, make_config):
    batch, numbers_N = numbers
    mask_N = torch.from_numpy(batch.mask_N)
    numbers_N["teacher"][~mask_N] = math.nan
    batch.engine_logprobs_N[~batch.mask_N] = math.nan
    numbers_N["new"].requires_grad_()
    numbers_N["entropy"].requires_grad_()
    total, _, metrics = _loss(make_config(tmp_path, algorithm=algorithm), batch, numbers_N, with_reference=True)
    total.backward()
    assert math.isfinite(float(total.detach()))
    assert all(math.isfinite(value) for value in metrics.values())
    for name in ("new", "entropy"):
        assert bool((numbers_N[name].grad[~mask_N] == 0).all())
        assert bool(torch.isfinite(numbers_N[name].grad).all())
        assert float(numbers_N[name].grad.abs().sum()) > 0


def test_a_fully_masked_step_has_no_loss_and_finite_metrics(numbers, tmp_path, make_config):
    batch, numbers_N = numbers
    batch = dataclasses.replace(batch, mask_N=np.zeros(TOKENS, dtype=bool), valid_B=np.zeros(len(LENGTHS), dtype=bool))
    cfg = make_config(tmp_path, algorithm=Algorithm(normalize_advantages=True))
    total, count, metrics = _loss(cfg, batch, numbers_N)
    assert (float(total), int(count)) == (0.0, 0)
    assert all(math.isfinite(value) for value in metrics.values())


def test_micro_batches_add_up_to_the_step(numbers, tmp_path, make_config):
    batch, numbers_N = numbers
    cfg = make_config(tmp_path)
    whole, count, _ = _loss(cfg, batch, numbers_N, budget=10_000)
    parts, part_count, _ = _loss(cfg, batch, numbers_N, budget=8)
    assert float(parts) == pytest.approx(float(whole), rel=1e-6)
    assert int(part_count) == int(count)


@pytest.mark.parametrize(
    ("algorithm", "needed"),
    [
        pytest.param(Algorithm(), False, id="one update"),
        pytest.param(Algorithm(updates_per_step=2), True, id="two updates"),
        pytest.param(Algorithm(epochs_per_step=2), True, id="two epochs"),
        pytest.param(Algorithm(normalize_advantages=True), True, id="whitened"),
    ],
)
def test_log_probs_before_the_update_are_left_out_where_its_own_are_the_same(algorithm, needed):
    assert needs_old_logprobs(algorithm) == needed


@pytest.mark.parametrize(
    ("algorithm", "distillation"), [case for case in CASES if not needs_old_logprobs(case.values[0])]
)
def test_an_only_update_reads_its_own_log_probs_as_if_they_had_been_known(
    algorithm, distillation, numbers, tmp_path, make_config
):
    batch, numbers_N = numbers
    cfg = make_config(tmp_path, algorithm=algorithm, distillation=distillation)
    results = []
    for old in (numbers_N["new"], None):
        step_N = {**numbers_N, "old": old, "new": numbers_N["new"].clone().requires_grad_()}
        total, count, metrics = _loss(cfg, batch, step_N, with_reference=True, budget=8)
        total.backward()
        results.append((float(total.detach()), int(count), metrics, step_N["new"].grad.tolist()))
    assert results[0] == results[1]


def _loss(cfg, batch, numbers_N, *, with_reference=False, budget=24):
    """Numerator and denominator over all micro-batches of the step, and its metrics."""
    ref_N = numbers_N["ref"] if with_reference else None
    objective = Objective(cfg, batch, old_N=numbers_N["old"], teacher_N=numbers_N["teacher"], ref_N=ref_N)
    packer = Packer(batch, max_tokens=budget, data_parallel=1)
    parts = [
        objective.loss(micro, numbers_N["new"][micro.flat_n], numbers_N["entropy"][micro.flat_n])
        for micro in packer.micro_batches(packer.trainable, 0)
    ]
    return sum(part[0] for part in parts), sum(part[1] for part in parts), objective.metrics()


def _scalar_loss(cfg, batch, numbers_N) -> tuple[float, int]:
    algorithm, reference = cfg.algorithm, cfg.algorithm.reference
    old, new, teacher, ref, entropy = (numbers_N[name].tolist() for name in ("old", "new", "teacher", "ref", "entropy"))
    token_advantages = _scalar_advantages(cfg, batch, old, teacher, ref)
    losses: list[list[float]] = []
    token = 0
    for length in batch.response_lengths_B:
        losses.append([])
        for n in range(token, token + length):
            if batch.mask_N[n]:
                advantage, ratio = token_advantages[n], math.exp(new[n] - old[n])
                high = algorithm.eps_clip if algorithm.eps_clip_high is None else algorithm.eps_clip_high
                clipped = min(max(ratio, 1 - algorithm.eps_clip), 1 + high)
                loss = max(-ratio * advantage, -clipped * advantage)
                if algorithm.dual_clip is not None and advantage < 0:
                    loss = min(loss, -algorithm.dual_clip * advantage)
                if algorithm.importance_correction == "Truncated":
                    loss *= min(math.exp(old[n] - float(batch.engine_logprobs_N[n])), 2.0)
                loss -= algorithm.entropy_coef * entropy[n]
                loss += reference.loss_kl_coef * _kl(new[n] - ref[n], reference.estimator)
                losses[-1].append(loss)
        token += length
    if algorithm.loss_aggregation == "TokenMean":
        return sum(map(sum, losses)), sum(map(len, losses))
    return sum(statistics.fmean(each) for each in losses if each), sum(bool(each) for each in losses)


def _scalar_advantages(cfg, batch, old, teacher, ref) -> dict[int, float]:
    """Of each unmasked token: task reward within its group, KL in the reward, OPD term, whitening."""
    reference = cfg.algorithm.reference
    rewards, groups = batch.rewards_B.tolist(), batch.groups_B.tolist()
    samples = [sample for sample, length in enumerate(batch.response_lengths_B) for _ in range(length)]
    result = {}
    for n in np.flatnonzero(batch.mask_N).tolist():
        group = [reward for reward, other in zip(rewards, groups, strict=True) if other == groups[samples[n]]]
        value = (rewards[samples[n]] - statistics.fmean(group)) / (statistics.stdev(group) + 1e-6)
        value -= reference.reward_kl_coef * _kl(old[n] - ref[n], reference.estimator)
        limit = cfg.distillation.max_log_ratio or math.inf
        result[n] = value - batch.kl_coef * min(max(old[n] - teacher[n], -limit), limit)
    if cfg.algorithm.normalize_advantages:
        mean, deviation = statistics.fmean(result.values()), statistics.pstdev(result.values())
        result = {n: (value - mean) / deviation for n, value in result.items()}
    return result


def _kl(d: float, kind: str) -> float:
    k3 = math.exp(-d) - 1 + d
    return {"K1": d, "K2": d * d / 2, "K3": k3, "LowVar": min(max(k3, -10), 10)}[kind]
