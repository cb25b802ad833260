"""What Megatron's checkpoints need of Adam's state where Adam is torch's own: without Transformer Engine and Apex, and
in host memory.

Theirs keep one step for all parameters; torch's keeps one with each, and has no state before its first step.
"""

from collections.abc import Iterator

import torch
from megatron.core.optimizer import MegatronOptimizer, distrib_optimizer
from megatron.core.optimizer.cpu_offloading import HybridDeviceOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor


def prime_adam(optimizer: MegatronOptimizer) -> None:
    """State as it is before the first step: the distributed optimizer can neither save nor load none."""
    for adam in _torch_adams(optimizer):
        if not adam.state:
            for parameter in (p for group in adam.param_groups for p in group["params"]):
                adam.state[parameter] = {
                    "step": torch.zeros(()),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
    for inner in _inner_optimizers(optimizer):
        if isinstance(inner, HybridDeviceOptimizer):
            inner._sync_sub_optimizers_state_to_hdo()


def one_parameter_at_a_time(optimizer: MegatronOptimizer) -> None:
    """As on a CPU. Torch's way on a GPU takes all at once, for some milliseconds less and a copy of every second moment
    more: 4 bytes a parameter, at a moment when the optimizer, gradients and weights are all there.
    """
    for adam in _torch_adams(optimizer):
        for group in adam.param_groups:
            group["foreach"] = False


def own_what_was_loaded(optimizer: MegatronOptimizer) -> None:
    """Megatron's loader puts one step tensor into every parameter's state: each `+= 1` would count for all of them.
    It also takes over how the run that saved went about its parameters."""
    one_parameter_at_a_time(optimizer)
    for adam in _torch_adams(optimizer):
        for state in adam.state.values():
            state["step"] = state["step"].clone()


def _inner_optimizers(optimizer: MegatronOptimizer) -> Iterator[torch.optim.Optimizer]:
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        yield getattr(part, "optimizer", part)


def _torch_adams(optimizer: MegatronOptimizer) -> Iterator[torch.optim.Optimizer]:
    """An optimizer in host memory is made of several."""
    for inner in _inner_optimizers(optimizer):
        for adam in inner.sub_optimizers if isinstance(inner, HybridDeviceOptimizer) else [inner]:
            if isinstance(adam, torch.optim.Adam | torch.optim.AdamW):
                yield adam


_megatrons_own = DistributedOptimizer._set_main_param_and_optimizer_states


def _set_states(self: DistributedOptimizer, model_param: Tensor, tensors: dict[str, Tensor]) -> None:
    """Megatron's own asks for a `step` of each parameter, which the reshardable formats do not carry.

    In host memory it keeps what it is given: a part of a buffer as large as the state of all ranks, hence the copies.
    """
    if isinstance(self.optimizer, HybridDeviceOptimizer):
        copies = {k: v.clone() if isinstance(v, Tensor) else v for k, v in tensors.items()}
        return _megatrons_own(self, model_param, copies)
    if distrib_optimizer.HAVE_APEX_OR_TE:
        return _megatrons_own(self, model_param, tensors)
    group, order = self.model_param_group_index_map[model_param]
    main = self.optimizer.param_groups[group]["params"][order]
    with torch.no_grad():
        for name, value in {"param": main, **self.optimizer.state[main]}.items():
            if name in tensors:
                value.copy_(tensors[name])


DistributedOptimizer._set_main_param_and_optimizer_states = _set_states
