"""What autograd keeps of a layer, tensor by tensor, against the estimate that sizes GPUs (opd_api.memory).

Not shown: a GPU's kernels. Its RMSNorm is one kernel that keeps its input and a number a row; the CPU's, made of
several operations, keeps the normalised input too.
"""

import pytest

from opd_api.documents import ModelSummary
from opd_api.load import job_from_document
from opd_api.memory import estimate

TOKENS, FP32 = 64, 4
HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM = 64, 128, 4, 2, 16
"""Of `tiny_model`."""


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_a_layer_keeps_what_is_estimated(family, tiny_model, make_config, make_batch, ranks):
    batch = make_batch([(8, TOKENS - 7)])
    two, three = (
        ranks.train(bytes_kept, make_config(tiny_model(family, num_hidden_layers=layers)), batch) for layers in (2, 3)
    )
    normalized, rows = 2 * HIDDEN, 2
    if family == "qwen3":
        normalized, rows = normalized + (HEADS + KV_HEADS) * HEAD_DIM, rows + HEADS + KV_HEADS
    assert three - two == estimated_layer(family) + TOKENS * (normalized + rows) * FP32


def estimated_layer(family: str) -> int:
    model = ModelSummary(
        architecture={"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}[family],
        hidden_size=HIDDEN,
        num_layers=1,
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        ffn_hidden_size=FFN,
        vocab_size=96,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        dtype="float32",
        parameter_count=0,
        tokenizer_fingerprint="",
    )
    document = {
        "apiVersion": "opd.dev/v1alpha1",
        "kind": "OPDJob",
        "metadata": {"name": "activations"},
        "spec": {
            "device": "CPU",
            "student": {"model": "file:///student", "maxTokensPerGPU": TOKENS},
            "rollout": {"maxPromptTokens": 8, "maxResponseTokens": TOKENS - 8},
            "teachers": [{"mode": "SGLang", "model": "file:///teacher"}],
            "data": {"prompts": [{"uri": "file:///prompts.jsonl"}]},
            "steps": 1,
        },
    }
    return estimate(job_from_document(document), {"student": model}).trainer.activations_bytes


def bytes_kept(trainer, batch):
    import torch

    packer = trainer._packer(batch)
    (micro,) = packer.micro_batches(packer.trainable, 0)
    assert micro.tokens_bs.shape == (1, TOKENS)
    weights = {parameter.untyped_storage().data_ptr() for parameter in trainer.model.parameters()}
    kept: dict[int, torch.Tensor] = {}  # the tensors themselves: a freed one's address would be used again

    def keep(tensor):
        if (address := tensor.untyped_storage().data_ptr()) not in weights:
            kept[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = trainer._forward(trainer.ddp, micro)
    assert logits.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
