"""Tiny models in Hugging Face format and real SGLang servers that serve them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from opd_runtime.rollout.server import SGLangServer

VOCABULARY = 48
SHAPE = dict(
    vocab_size=VOCABULARY,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    head_dim=16,
    max_position_embeddings=512,
    initializer_range=0.1,
    eos_token_id=1,
    pad_token_id=0,
    bos_token_id=None,
)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., PreTrainedModel]:
    def make(family: str, *, tied: bool, kv_heads: int = 2, seed: int = 0) -> PreTrainedModel:
        torch.manual_seed(seed)
        config, model = {"qwen3": (Qwen3Config, Qwen3ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}[family]
        return model(config(**SHAPE, num_key_value_heads=kv_heads, tie_word_embeddings=tied)).eval()

    return make


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory):
    """Starts servers for models; the same key gives the same server. The two asked for last stay alive."""
    servers: dict[object, SGLangServer] = {}
    patch = pytest.MonkeyPatch()
    # Two ranks on a machine without GPUs: say which core is whose, and let SGLang not find NCCL.
    patch.setenv("SGLANG_CPU_OMP_THREADS_BIND", "0|1")
    patch.setenv("SGLANG_NCCL_SO_PATH", "/nonexistent")

    def start(model: PreTrainedModel, key: object, **options) -> SGLangServer:
        if key in servers:
            servers[key] = servers.pop(key)
        else:
            while len(servers) > 1:
                servers.pop(next(iter(servers))).stop()
            folder = tmp_path_factory.mktemp("model")
            save(model, folder)
            servers[key] = SGLangServer(
                folder,
                device="cpu",
                bf16=False,
                memory_fraction=0.3,
                extra_args=("--max-total-tokens", "8192"),
                log_path=tmp_path_factory.mktemp("log") / "server.log",
                **options,
            )
            servers[key].start()
            servers[key].wait_ready(180)
        return servers[key]

    yield start
    patch.undo()
    for server in servers.values():
        server.stop()


def save(model: PreTrainedModel, folder: Path) -> None:
    model.save_pretrained(folder)
    words = {f"w{number}": number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w1", pad_token="w0").save_pretrained(folder)
