"""Adam in host memory (Megatron's HybridDeviceOptimizer): the same training, and checkpoints that go on.

The model's tensors pretend to be a GPU's where it is decided what is copied to the host. Not shown: copies between two
memories, and that they are awaited; tests/gpu has a job with `offload`.
"""

from unittest import mock

import numpy as np
import pytest

from opd_api.spec import Optimizer


@pytest.fixture(scope="session")
def batches(make_batch):
    return [make_batch([(1, 9), (4, 13), (3, 7)], seed=seed) for seed in range(4)]


@pytest.fixture
def make_offload(tiny_model, make_config):
    """Configuration of a job in BF16, with and without offloading."""

    def make(offload: bool, **changes):
        return make_config(tiny_model(), bf16=True, optimizer=Optimizer(lr=1e-3, offload=offload), **changes)

    return make


@pytest.mark.parametrize("layout", [{}, pytest.param({"data": 2}, marks=pytest.mark.full)], ids=["one process", "DP2"])
def test_going_on_gives_the_bits_of_never_having_stopped(layout, make_offload, batches, ranks):
    cfg = make_offload(True, **layout)
    want_metrics, want_logprobs = ranks.run(train_and_save_half_way, cfg, batches, world_size=cfg.world_size)[0]
    metrics, logprobs = ranks.run(resume_and_train, cfg, batches, world_size=cfg.world_size)[0]
    assert metrics == want_metrics
    np.testing.assert_array_equal(logprobs, want_logprobs)


@pytest.mark.parametrize("saved", [True, False], ids=["to the GPU", "to the host"])
def test_a_run_may_go_on_with_the_optimizer_elsewhere(saved, make_offload, batches, ranks):
    cfg = make_offload(saved)
    want_metrics, want_logprobs = ranks.run(train_and_save_half_way, cfg, batches)[0]
    metrics, logprobs = ranks.run(resume_and_train, make_offload(not saved, run_dir=cfg.run_dir), batches)[0]
    for want, got in zip(want_metrics, metrics, strict=True):
        assert got == pytest.approx(want, rel=1e-3, abs=1e-5)
    np.testing.assert_allclose(logprobs, want_logprobs, atol=1e-3, rtol=0)


def test_a_run_that_has_not_made_an_optimizer_step_can_be_saved(make_offload, batches, ranks):
    cfg = make_offload(True)
    assert ranks.run(save_at_once, cfg) == [0]
    _, logprobs = ranks.run(resume_and_train, cfg, batches)[0]
    _, want_logprobs = ranks.run(train_and_save_half_way, make_offload(True), batches)[0]
    np.testing.assert_array_equal(logprobs, want_logprobs)


def train_and_save_half_way(cfg, batches):
    trainer, metrics = _trainer(cfg), []
    for step, batch in enumerate(batches):
        metrics.append(trainer.train_step(batch, step).metrics)
        if step == 1:
            trainer.save(2, {})
    return metrics[2:], trainer.logprobs(batches[0])


def resume_and_train(cfg, batches):
    trainer = _trainer(cfg)
    step, _ = trainer.load_latest()
    metrics = [trainer.train_step(batches[later], later).metrics for later in range(step, len(batches))]
    return metrics, trainer.logprobs(batches[0])


def save_at_once(cfg):
    trainer = _trainer(cfg)
    trainer.save(0, {})
    return trainer.load_latest()[0]


def _trainer(cfg):
    import torch
    from megatron.core.optimizer.cpu_offloading import HybridDeviceOptimizer

    from opd_runtime.megatron import trainer

    class HostTensor(torch.Tensor):
        is_cuda = False

        def pin_memory(self):
            return self

    def to_host(tensor):
        return tensor.detach().clone().as_subclass(HostTensor)

    def pretending(function):
        def pretend(*arguments, **options):
            with mock.patch.multiple(torch.Tensor, is_cuda=True, cpu=to_host):
                return function(*arguments, **options)

        return pretend

    HybridDeviceOptimizer._get_sub_optimizer_param_groups = pretending(
        HybridDeviceOptimizer._get_sub_optimizer_param_groups
    )
    trainer.wrap = pretending(trainer.wrap)
    made = trainer.Trainer(cfg)
    inner = made.adam.chained_optimizers[0].optimizer
    assert isinstance(inner, HybridDeviceOptimizer) == cfg.optimizer.offload
    assert not cfg.optimizer.offload or (inner.gpu_params_map_cpu_copy and inner.gpu_optimizer is None)
    return made
