"""The distributed optimizer's state on its way into a checkpoint, brought together in fewer copies than Megatron makes.

Megatron copies a rank's shards into a buffer, gathers buffers into others, joins those and copies them into a whole, of
which its writer then copies each parameter's part. All of that is host memory touched for the first time, and takes
longer than writing. Here a state is gathered into its whole at once, one after the other, and taken apart right away.
"""

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor

megatrons_own = DistributedOptimizer.get_parameter_state_dp_zero


def gathered_state(
    self: DistributedOptimizer, use_gloo_comm: bool = True, empty_data: bool = False, return_on_all_ranks: bool = False
) -> dict[Any, Any] | None:
    """As Megatron's; where that has a flat tensor of all parameters, here is {slice of it: tensor of its own}."""
    if empty_data:  # to load into
        return megatrons_own(self, use_gloo_comm, empty_data, return_on_all_ranks)
    assert use_gloo_comm and not return_on_all_ranks, "checkpoints are saved with `mem_efficient`"
    first = self.data_parallel_group_gloo.rank() == 0
    state: dict[Any, Any] = {"buckets_coalesced": True}
    for index, (buffer, ranges) in enumerate(zip(self.buffers, self.gbuf_ranges, strict=True)):
        ((dtype, buckets),) = ranges.items()
        places = [slice(start, end) for start, end, _ in buffer.param_index_map.values()]
        state[index] = {dtype: {"numel_unpadded": buffer.numel_unpadded}}
        for key in ("param", *self.optimizer_state_keys):
            whole = _whole(self, buffer, buckets, key)
            if whole is not None:
                state[index][dtype][key] = {place: whole[place].clone() for place in places}
    return state if first else None


def _whole(optimizer: DistributedOptimizer, buffer: Any, buckets: list[dict[str, Any]], key: str) -> Tensor | None:
    """State `key` of a buffer's parameters, FP32, in host memory of the first data-parallel rank; None on others."""
    group = optimizer.data_parallel_group_gloo
    size, first = group.size(), group.rank() == 0
    whole = torch.empty(buffer.numel) if first else None
    start = 0
    for bucket, ranges in zip(buffer.buckets, buckets, strict=True):
        length = bucket.grad_data.numel()
        # With its padding, which the next bucket then overwrites.
        target = None if whole is None else whole[start : start + length]
        own = torch.zeros(length // size) if size > 1 or target is None else target
        for parameter, place in ranges["param_map"].items():
            local = place["gbuf_local"]
            own[local.start : local.end].copy_(optimizer._get_main_param_and_optimizer_states(parameter)[key])
        if size > 1:
            parts = None if target is None else list(target.split(length // size))
            dist.gather(own, parts, dst=dist.get_process_group_ranks(group)[0], group=group)
        start += bucket.numel_unpadded
    return None if whole is None else whole[: buffer.numel_unpadded]
