"""One real SGLang server on the CPU for all tests of this folder, with a tiny random Qwen3 made here."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from opd_runtime.rollout.server import SGLangServer

VOCAB_SIZE = 48
START_SECONDS = 240
"""Imports dominate a start; other processes may want the cores too."""


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of random weights, grouped-query attention, untied; large enough weights that tokens differ much."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("tiny-qwen3")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
        initializer_range=0.2,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sglang_server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SGLangServer]:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    log_path = tmp_path_factory.mktemp("sglang") / "server.log"
    server = SGLangServer(
        tiny_model, device="cpu", bf16=False, memory_fraction=0.8, log_path=log_path, weight_version=5
    )
    server.start()
    try:
        server.wait_ready(START_SECONDS)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def vocab_size() -> int:
    return VOCAB_SIZE
