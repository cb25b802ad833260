"""Megatron's data parallelism and distributed Adam around the student, and the learning rate of a step."""

import math

from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.transformer.module import Float16Module
from megatron.core.utils import get_model_config

from opd_api.spec import Optimizer

import torch


def learning_rate(optimizer: Optimizer, step: int, steps: int) -> float:
    """Rate of `step` (from 0): linear warm-up, then constant, or down to zero at `steps` along a line or half a cosine."""
    if step < optimizer.warmup_steps:
        return optimizer.lr * (step + 1) / optimizer.warmup_steps
    if optimizer.schedule == "Constant":
        return optimizer.lr
    progress = (step - optimizer.warmup_steps) / max(steps - optimizer.warmup_steps, 1)
    left = 1 - progress if optimizer.schedule == "Linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return optimizer.lr * max(left, 0.0)


def wrap(model, config, optimizer: Optimizer, *, bf16: bool) -> tuple[DistributedDataParallel, MegatronOptimizer]:
    """The model under DDP with FP32 gradients, and Adam sharded over the data-parallel group with FP32 main parameters."""
    module = Float16Module(config, model) if bf16 else model
    ddp_config = DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True)
    ddp = DistributedDataParallel(config, ddp_config, module)
    adam = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=optimizer.lr,
            min_lr=0.0,
            weight_decay=optimizer.weight_decay,
            adam_beta1=optimizer.beta1,
            adam_beta2=optimizer.beta2,
            adam_eps=1e-8,
            clip_grad=optimizer.clip_grad,
            bf16=bf16,
            params_dtype=torch.bfloat16 if bf16 else torch.float32,
            use_distributed_optimizer=True,
            optimizer_cpu_offload=optimizer.offload and torch.cuda.is_available(),
        ),
        [ddp],
    )
    model_config = get_model_config(ddp)
    model_config.finalize_model_grads_func = finalize_model_grads
    model_config.grad_scale_func = adam.scale_loss
    return ddp, adam


def set_learning_rate(adam: MegatronOptimizer, rate: float) -> None:
    for group in adam.param_groups:
        group["lr"] = rate * group.get("lr_mult", 1.0)
