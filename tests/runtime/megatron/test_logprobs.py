"""Log-probs and entropies of logits that are split over the tensor-parallel group, against torch on the whole."""

import numpy as np
import pytest

ROWS, VOCABULARY = 37, 24


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("tensor", [1, 2])
def test_values_and_gradients_are_those_of_the_whole_vocabulary(tensor, temperature, ranks):
    """Several chunks; logits large enough that a wrong maximum would overflow."""
    draw = np.random.default_rng(0)
    logits = (draw.normal(size=(ROWS, VOCABULARY)) * 50).astype(np.float32)
    targets = draw.integers(0, VOCABULARY, ROWS)
    want = whole(logits, targets, temperature)
    got = ranks.run(split, tensor, logits, targets, temperature, world_size=tensor)
    for values in got:
        np.testing.assert_allclose(values[0], want[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(values[1], want[1], rtol=1e-5, atol=1e-5)
    gradient = np.concatenate([values[2] for values in got], axis=1)
    np.testing.assert_allclose(gradient, want[2], rtol=1e-4, atol=1e-5)


def test_no_rows_give_nothing(ranks):
    logits, targets = np.ones((0, VOCABULARY), dtype=np.float32), np.empty(0, dtype=np.int64)
    logprobs, entropy, gradient = ranks.run(split, 1, logits, targets, 1.0)[0]
    assert len(logprobs) == len(entropy) == len(gradient) == 0


def whole(logits, targets, temperature):
    import torch

    logits = torch.from_numpy(logits).requires_grad_()
    logp = (logits / temperature).log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1)
    chosen = logp.gather(1, torch.from_numpy(targets)[:, None])[:, 0]
    _weighted(chosen, entropy).backward()
    return chosen.detach().numpy(), entropy.detach().numpy(), logits.grad.numpy()


def split(tensor, logits, targets, temperature):
    """This rank's columns; log-probs, entropies, and the gradient of its columns."""
    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state

    from opd_runtime.megatron import logprobs

    dist.init_process_group("gloo")
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=tensor)
    chunk_rows, logprobs.CHUNK_ROWS = logprobs.CHUNK_ROWS, 8
    mine = torch.from_numpy(logits).chunk(tensor, dim=1)[dist.get_rank()].clone().requires_grad_()
    chosen, entropy = logprobs.token_logprobs(
        mine, torch.from_numpy(targets), temperature=temperature, with_entropy=True
    )
    _weighted(chosen, entropy).backward()
    logprobs.CHUNK_ROWS = chunk_rows
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()
    return chosen.detach().numpy(), entropy.detach().numpy(), mine.grad.numpy()


def _weighted(chosen, entropy):
    """A loss in which every row counts differently."""
    import torch

    weights = torch.arange(len(chosen)) + 1.0
    return (chosen * weights).sum() + (entropy * weights.flip(0)).sum() * 0.3
