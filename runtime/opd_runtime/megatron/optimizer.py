"""Megatron's data parallelism and distributed Adam around the student."""

import math

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.transformer.module import Float16Module
from megatron.core.utils import get_model_config

from opd_api.spec import Optimizer

from .adam_state import one_parameter_at_a_time


def wrap(model, config, optimizer: Optimizer, *, bf16: bool) -> tuple[DistributedDataParallel, MegatronOptimizer]:
    """The model under DDP with FP32 gradients, and Adam sharded over the data-parallel group, FP32 main parameters."""
    module = Float16Module(config, model) if bf16 else model
    ddp_config = DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True)
    ddp = DistributedDataParallel(config, ddp_config, module)
    offload = optimizer.offload and next(model.parameters()).is_cuda
    adam = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=optimizer.lr,
            min_lr=0.0,
            weight_decay=optimizer.weight_decay,
            adam_beta1=optimizer.beta1,
            adam_beta2=optimizer.beta2,
            adam_eps=1e-8,
            # Without a limit the norm is still wanted, as a metric and as the test for gradients that are not finite.
            clip_grad=optimizer.clip_grad or math.inf,
            bf16=bf16,
            params_dtype=torch.bfloat16 if bf16 else torch.float32,
            use_distributed_optimizer=True,
            optimizer_cpu_offload=offload,
            # Main parameters then live in the offloaded optimizer, where checkpoints look for them.
            use_precision_aware_optimizer=offload,
            optimizer_offload_fraction=1.0,
        ),
        [ddp],
    )
    one_parameter_at_a_time(adam)
    model_config = get_model_config(ddp)
    model_config.finalize_model_grads_func = finalize_model_grads
    model_config.grad_scale_func = adam.scale_loss
    return ddp, adam


def set_rates(adam: MegatronOptimizer, rate: float, weight_decay: float) -> None:
    """What Megatron's own scheduler does every step: it alone applies `wd_mult`, which is 0 for norms."""
    for group in adam.param_groups:
        group["lr"] = rate * group.get("lr_mult", 1.0)
        group["weight_decay"] = weight_decay * group.get("wd_mult", 1.0)
