"""Log-probs and entropies of response tokens, from logits that are split over the tensor-parallel group.

Shapes: [b, s] a padded micro-batch with N response tokens, h hidden size, v vocabulary entries of this rank.
"""

from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from torch import Tensor
from torch.nn.functional import pad

CHUNK_ROWS = 1024
"""fp32 copies of the logits exist for so many rows at a time."""


def logits_of_rows(model: torch.nn.Module, tokens_bs: Tensor, rows_N: Tensor, **options: Any) -> Tensor:
    """[N, v] logits at rows of the flattened [b * s] positions; `options` go to the model's forward.

    The output layer sees no other position: logits are the largest tensor of a step, and a prompt's are of no use.
    """
    positions_bs = torch.arange(tokens_bs.shape[1], device=tokens_bs.device).expand_as(tokens_bs)
    return model(
        tokens_bs, positions_bs, None, output_processor=_project_rows, output_processor_context=rows_N, **options
    )


def _project_rows(*, hidden_states, output_layer, output_weight, context, **_) -> Tensor:
    hidden_sbh, rows_N, multiple = hidden_states, context, 1
    if output_layer.sequence_parallel:
        # Every rank has the whole gradient of what it gathered here: the scatter below brings it together.
        hidden_sbh = tensor_parallel.gather_from_sequence_parallel_region(hidden_sbh, tensor_parallel_output_grad=False)
        multiple = parallel_state.get_tensor_model_parallel_world_size()
    length, count, _ = hidden_sbh.shape
    padded = max(-(-len(rows_N) // multiple), 1) * multiple  # never none: not every backend reduces nothing
    rows = pad(rows_N, (0, padded - len(rows_N)))
    chosen = hidden_sbh.flatten(0, 1).index_select(0, rows % length * count + rows // length)[:, None]
    if output_layer.sequence_parallel:
        chosen = tensor_parallel.scatter_to_sequence_parallel_region(chosen)
    logits, _ = output_layer(chosen, weight=output_weight)
    return logits.flatten(0, 1)[: len(rows_N)]


def token_logprobs(
    logits_Nv: Tensor, targets_N: Tensor, *, temperature: float = 1.0, with_entropy: bool = False
) -> tuple[Tensor, Tensor]:
    """log softmax(logits / temperature)[target] and the entropy of each row (zeros unless asked for), both fp32.

    Differentiable in logits_Nv. Nothing of its size is kept in fp32: the backward pass computes its chunk again.
    """
    return _TokenLogprobs.apply(logits_Nv, targets_N, temperature, with_entropy)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits_Nv, targets_N, temperature, with_entropy):
        first = parallel_state.get_tensor_model_parallel_rank() * logits_Nv.shape[1]
        local_N = targets_N - first
        mine_N = (local_N >= 0) & (local_N < logits_Nv.shape[1])
        local_N = torch.where(mine_N, local_N, 0)
        logsumexp_N, chosen_N, entropy_N = (logits_Nv.new_zeros(len(targets_N), dtype=torch.float32) for _ in range(3))
        for part in _chunks(len(targets_N)):
            chunk = _scaled(logits_Nv[part], temperature)
            top = _reduced(chunk.amax(dim=1), dist.ReduceOp.MAX)
            shifted = chunk - top[:, None]
            weights = shifted.exp()
            total = _reduced(weights.sum(dim=1))
            logsumexp_N[part] = top + total.log()
            chosen = chunk.gather(1, local_N[part, None])[:, 0]
            chosen_N[part] = _reduced(torch.where(mine_N[part], chosen, 0.0))
            if with_entropy:
                entropy_N[part] = total.log() - _reduced(weights.mul_(shifted).sum(dim=1)) / total
        ctx.save_for_backward(logits_Nv, local_N, mine_N, logsumexp_N, entropy_N)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return chosen_N - logsumexp_N, entropy_N

    @staticmethod
    def backward(ctx, grad_logprobs_N, grad_entropy_N):
        """(onehot(target) - p) times the log-prob's gradient, less p (log p + entropy) times the entropy's."""
        logits_Nv, local_N, mine_N, logsumexp_N, entropy_N = ctx.saved_tensors
        if grad_logprobs_N is None:
            grad_logprobs_N = torch.zeros_like(logsumexp_N)
        grad_Nv = torch.empty_like(logits_Nv)
        for part in _chunks(len(local_N)):
            logp = _scaled(logits_Nv[part], ctx.temperature) - logsumexp_N[part, None]
            outer = grad_logprobs_N[part, None]
            if grad_entropy_N is not None:
                outer = torch.addcmul(outer, logp + entropy_N[part, None], grad_entropy_N[part, None])
            grad = logp.exp_().mul_(-outer)
            at_target = torch.where(mine_N[part], grad_logprobs_N[part], 0.0)
            grad.scatter_add_(1, local_N[part, None], at_target[:, None])
            grad_Nv[part] = _scaled(grad, ctx.temperature)
        return grad_Nv, None, None, None


def _scaled(rows: Tensor, temperature: float) -> Tensor:
    """fp32. Not a copy where nothing changes."""
    return rows.float() if temperature == 1.0 else rows.float() / temperature


def _chunks(count: int) -> list[slice]:
    return [slice(start, min(start + CHUNK_ROWS, count)) for start in range(0, count, CHUNK_ROWS)]


def _reduced(tensor: Tensor, operation=dist.ReduceOp.SUM) -> Tensor:
    if parallel_state.get_tensor_model_parallel_world_size() > 1:
        dist.all_reduce(tensor, op=operation, group=parallel_state.get_tensor_model_parallel_group())
    return tensor
