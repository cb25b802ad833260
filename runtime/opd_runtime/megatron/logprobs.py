"""Log-probs and entropies of tokens from logits that are split over the tensor-parallel group.

Shapes: R rows of logits, N chosen rows (one a response token), v vocabulary entries of this rank, V all of them.
"""

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

CHUNK_ROWS = 1024
"""fp32 copies of the logits exist for so many rows at a time."""


def token_logprobs(
    logits_Rv: Tensor, rows_N: Tensor, targets_N: Tensor, *, temperature: float = 1.0, with_entropy: bool = False
) -> tuple[Tensor, Tensor]:
    """log softmax(logits / temperature)[row, target] and the entropy of each row (zeros unless asked for), both fp32.

    Differentiable in logits_Rv. Nothing of size [N, V] in fp32 is kept: the backward pass computes its chunk again.
    """
    return _TokenLogprobs.apply(logits_Rv, rows_N, targets_N, temperature, with_entropy)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits_Rv, rows_N, targets_N, temperature, with_entropy):
        first = parallel_state.get_tensor_model_parallel_rank() * logits_Rv.shape[1]
        local_N = targets_N - first
        mine_N = (local_N >= 0) & (local_N < logits_Rv.shape[1])
        local_N = torch.where(mine_N, local_N, 0)
        logsumexp_N, chosen_N, entropy_N = (logits_Rv.new_zeros(len(rows_N), dtype=torch.float32) for _ in range(3))
        for part in _chunks(len(rows_N)):
            chunk = logits_Rv[rows_N[part]].float() / temperature
            top = _reduced(chunk.amax(dim=1), dist.ReduceOp.MAX)
            shifted = chunk - top[:, None]
            weights = shifted.exp()
            total = _reduced(weights.sum(dim=1))
            logsumexp_N[part] = top + total.log()
            chosen = chunk.gather(1, local_N[part, None])[:, 0]
            chosen_N[part] = _reduced(torch.where(mine_N[part], chosen, 0.0))
            if with_entropy:
                entropy_N[part] = total.log() - _reduced((weights * shifted).sum(dim=1)) / total
        ctx.save_for_backward(logits_Rv, rows_N, local_N, mine_N, logsumexp_N, entropy_N)
        ctx.temperature, ctx.with_entropy = temperature, with_entropy
        return chosen_N - logsumexp_N, entropy_N

    @staticmethod
    def backward(ctx, grad_logprobs_N, grad_entropy_N):
        logits_Rv, rows_N, local_N, mine_N, logsumexp_N, entropy_N = ctx.saved_tensors
        grad_Rv = torch.zeros_like(logits_Rv)
        for part in _chunks(len(rows_N)):
            logp = logits_Rv[rows_N[part]].float() / ctx.temperature - logsumexp_N[part, None]
            probabilities = logp.exp()
            grad = -probabilities * grad_logprobs_N[part, None]
            at_target = torch.where(mine_N[part], grad_logprobs_N[part], 0.0)
            grad.scatter_add_(1, local_N[part, None], at_target[:, None])
            if ctx.with_entropy:
                grad -= probabilities * (logp + entropy_N[part, None]) * grad_entropy_N[part, None]
            grad_Rv[rows_N[part]] = (grad / ctx.temperature).to(logits_Rv.dtype)
        return grad_Rv, None, None, None, None


def _chunks(count: int) -> list[slice]:
    return [slice(start, min(start + CHUNK_ROWS, count)) for start in range(0, count, CHUNK_ROWS)]


def _reduced(tensor: Tensor, operation=dist.ReduceOp.SUM) -> Tensor:
    if parallel_state.get_tensor_model_parallel_world_size() > 1:
        dist.all_reduce(tensor, op=operation, group=parallel_state.get_tensor_model_parallel_group())
    return tensor
