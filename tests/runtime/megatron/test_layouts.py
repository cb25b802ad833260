"""Tensor, data and sequence parallelism against one process.

Gradients are compared as Adam's first moment after one step, (1 - beta1) * gradient, which a checkpoint brings from any
layout into one process. FP32 sums in another order differ in the last bits: gradients agree to 1e-4 of the largest in
their tensor, metrics to 1e-4 relative. Weights are compared in relation to their update: Adam makes a step of the size
of the learning rate from a gradient of any size, so where a gradient is all rounding, so is its step.
"""

import numpy as np
import pytest

from opd_api.spec import Algorithm, Optimizer, Reference

STEPS = 3
LENGTHS = [(1, 9), (4, 13), (3, 7), (2, 5), (9, 30), (2, 0), (5, 1), (3, 11), (2, 2)]
"""Nine samples, eight with a response, in micro-batches of 64 tokens: no layout gets equal shares."""

MOST = [
    pytest.param({"tensor": 2}, id="TP2"),
    pytest.param({"data": 2}, id="DP2"),
    pytest.param({"tensor": 2, "sequence_parallel": True}, id="TP2 with sequence parallelism"),
]
ALGORITHM = Algorithm(
    updates_per_step=2, entropy_coef=0.01, normalize_advantages=True, reference=Reference(loss_kl_coef=0.1)
)


@pytest.mark.parametrize("layout", MOST)
def test_gradients_are_those_of_one_process(layout, tiny_model, make_config, make_batch, ranks):
    student, batch = tiny_model(), make_batch(LENGTHS)
    # Without a clip: a scaled gradient would hide a wrong scale.
    cfg = make_config(student, optimizer=Optimizer(lr=1e-3, clip_grad=0), **layout)
    ranks.train(train_and_save, cfg, [batch])
    one = make_config(student, optimizer=cfg.optimizer)
    ranks.train(train_and_save, one, [batch])
    want = ranks.train(moments_and_weights, one)
    got = ranks.train(moments_and_weights, make_config(student, run_dir=cfg.run_dir))
    assert got.keys() == want.keys()
    for name in want:
        largest = np.abs(want[name][0]).max()
        assert largest > 0, name
        np.testing.assert_allclose(got[name][0], want[name][0], atol=1e-4 * largest, rtol=0, err_msg=name)
        np.testing.assert_allclose(got[name][1], want[name][1], atol=1e-4, rtol=0, err_msg=name)


@pytest.mark.parametrize("layout", MOST)
def test_metrics_and_the_student_are_those_of_one_process(layout, tiny_model, make_config, make_batch, ranks):
    student = tiny_model()
    batches = [make_batch(LENGTHS, seed=seed) for seed in range(STEPS)]
    one, one_logprobs = ranks.train(train, make_config(student, algorithm=ALGORITHM, reference_path=student), batches)
    cfg = make_config(student, algorithm=ALGORITHM, reference_path=student, **layout)
    other, other_logprobs = ranks.train(train, cfg, batches)
    for want, got in zip(one, other, strict=True):
        assert got == pytest.approx(want, rel=1e-4, abs=1e-5)
    np.testing.assert_allclose(other_logprobs, one_logprobs, atol=1e-3, rtol=0)


@pytest.mark.full
@pytest.mark.parametrize("layout", MOST)
@pytest.mark.parametrize("recompute", ["None", "Full"])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_so_for_both_families_with_and_without_recomputation(
    family, recompute, layout, tiny_model, make_config, make_batch, ranks
):
    student, batches = tiny_model(family), [make_batch(LENGTHS, seed=seed) for seed in range(STEPS)]
    one, one_logprobs = ranks.train(train, make_config(student, algorithm=ALGORITHM, reference_path=student), batches)
    cfg = make_config(student, algorithm=ALGORITHM, reference_path=student, recompute=recompute, **layout)
    other, other_logprobs = ranks.train(train, cfg, batches)
    for want, got in zip(one, other, strict=True):
        assert got == pytest.approx(want, rel=1e-4, abs=1e-5)
    np.testing.assert_allclose(other_logprobs, one_logprobs, atol=1e-3, rtol=0)


def test_the_size_of_micro_batches_changes_nothing(tiny_model, make_config, make_batch, ranks):
    student, batches = tiny_model(), [make_batch(LENGTHS)]
    small, small_logprobs = ranks.train(train, make_config(student, max_tokens=8), batches)
    large, large_logprobs = ranks.train(train, make_config(student, max_tokens=4096), batches)
    assert small[0] == pytest.approx(large[0], rel=1e-4, abs=1e-5)
    np.testing.assert_allclose(small_logprobs, large_logprobs, atol=1e-4, rtol=0)


def test_an_only_update_tells_the_student_as_it_was_before(tiny_model, make_config, make_batch, ranks):
    """Its own forward pass gives the log-probs: on each rank those of its share."""
    student, batch = tiny_model(), make_batch(LENGTHS)
    cfg = make_config(student, max_tokens=32, data=2)
    before, metrics, after = ranks.train(logprobs_around_a_step, cfg, batch)
    assert np.abs(after - before).max() > 1e-3
    want = (before - batch.teacher_logprobs_N)[batch.mask_N].mean()
    assert metrics["opd/reverse_kl"] == pytest.approx(want, rel=1e-5)
    gap = np.abs(before - batch.engine_logprobs_N)[batch.mask_N]
    assert metrics["logprob/engine_vs_trainer_abs_mean"] == pytest.approx(gap.mean(), rel=1e-5)
    assert (metrics["policy/ppo_kl"], metrics["policy/clip_frac"]) == (0, 0)


def test_more_ranks_than_samples(tiny_model, make_config, make_batch, ranks):
    student, batches = tiny_model(), [make_batch([(3, 6)])]
    one, _ = ranks.train(train, make_config(student), batches)
    two, _ = ranks.train(train, make_config(student, data=2), batches)
    assert two[0] == pytest.approx(one[0], rel=1e-4, abs=1e-6)


def test_weights_move_by_the_rate_in_the_first_step_and_norms_do_not_decay(tiny_model, make_config, make_batch, ranks):
    """With no advantage there is no gradient: what is left is weight decay, lr * decay * weight, on matrices alone."""
    student = tiny_model()
    batch = make_batch(LENGTHS, kl_coef=0.0, rewards_B=np.zeros(len(LENGTHS), dtype=np.float32))
    cfg = make_config(student, optimizer=Optimizer(lr=0.1, weight_decay=0.5))
    before, after = ranks.train(weights_around_a_step, cfg, batch)
    for name in before:
        want = before[name] if "norm" in name else before[name] * (1 - 0.1 * 0.5)
        np.testing.assert_allclose(after[name], want, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("clip_grad", [0.0, 0.5])
def test_the_gradient_norm_is_told_with_and_without_a_limit(clip_grad, tiny_model, make_config, make_batch, ranks):
    cfg = make_config(tiny_model(), optimizer=Optimizer(clip_grad=clip_grad))
    metrics, _ = ranks.train(train, cfg, [make_batch(LENGTHS)])
    assert metrics[0]["policy/grad_norm"] > 0.5


def test_a_step_without_a_usable_sample_changes_nothing_but_says_so(tiny_model, make_config, make_batch, ranks):
    cfg = make_config(tiny_model(), optimizer=Optimizer(weight_decay=0.0), data=2)
    tokens = sum(response for _, response in LENGTHS)
    masked = make_batch(LENGTHS, mask_N=np.zeros(tokens, dtype=bool), valid_B=np.zeros(len(LENGTHS), dtype=bool))
    empty = make_batch([(prompt, 0) for prompt, _ in LENGTHS])
    for batch in (masked, empty):
        before, after = ranks.train(weights_around_a_step, cfg, batch)
        for name in before:
            np.testing.assert_array_equal(before[name], after[name], err_msg=name)


def test_a_gradient_that_is_not_finite_stops_the_run(tiny_model, make_config, make_batch, ranks):
    from opd_runtime.errors import UserError

    batch = make_batch(LENGTHS, kl_coef=1e38)
    with pytest.raises(UserError, match="gradient of step 0 is not finite"):
        ranks.train(train, make_config(tiny_model()), [batch])


@pytest.mark.full
def test_bf16_stays_close_to_fp32(tiny_model, make_config, make_batch, ranks):
    """Bounded by BF16's 8 bits, on the CPU; the GPU has its own test."""
    student, batches = tiny_model(), [make_batch(LENGTHS)]
    full, _ = ranks.train(train, make_config(student), batches)
    half, _ = ranks.train(train, make_config(student, bf16=True, data=2), batches)
    for name in ("opd/reverse_kl", "policy/entropy"):
        assert half[0][name] == pytest.approx(full[0][name], abs=5e-2)
    assert half[0]["policy/grad_norm"] == pytest.approx(full[0]["policy/grad_norm"], rel=5e-2)


def logprobs_around_a_step(trainer, batch):
    before = trainer.logprobs(batch)
    return before, trainer.train_step(batch, 0).metrics, trainer.logprobs(batch)


def train(trainer, batches):
    """Metrics of each step, and the log-probs after the last."""
    metrics = [trainer.train_step(batch, step).metrics for step, batch in enumerate(batches)]
    return metrics, trainer.logprobs(batches[0])


def train_and_save(trainer, batches):
    train(trainer, batches)
    trainer.save(len(batches), {})


def moments_and_weights(trainer):
    """Adam's first moment and the weight of every parameter, loaded from the newest checkpoint."""
    trainer.load_latest()
    (adam,) = [part.optimizer for part in getattr(trainer.adam, "chained_optimizers", [trainer.adam])]
    optimizer = getattr(trainer.adam, "chained_optimizers", [trainer.adam])[0]
    found = {}
    for name, parameter in trainer.model.named_parameters():
        group, order = optimizer.model_param_group_index_map[parameter]
        main = adam.param_groups[group]["params"][order]
        found[name] = (adam.state[main]["exp_avg"].numpy().copy(), parameter.detach().numpy().reshape(-1).copy())
    return found


def weights_around_a_step(trainer, batch):
    before = {name: tensor.numpy().copy() for name, tensor in trainer.named_weights()}
    trainer.train_step(batch, 0)
    return before, {name: tensor.numpy().copy() for name, tensor in trainer.named_weights()}
