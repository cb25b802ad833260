"""What only a GPU can show. One process on GPU 0; where there is none, all of this folder is skipped with one line."""

import gc
import os
import socket
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from trainer_fixtures import hf_logprobs, make_batch, make_config, small_model, tiny_model  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device: PyTorch sees none on this machine")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Skips are the folder's, not each test's: one line in the summary."""
    report = yield
    if report.skipped:
        report.longrepr = (str(Path(__file__).parent), None, report.longrepr[2])
    return report


@pytest.fixture
def start_trainer(make_config, monkeypatch) -> Iterator[Callable[..., Any]]:  # noqa: F811
    """Trainers of one rank in this process, one after the other: a new one closes the one before."""
    import torch
    from megatron.core import parallel_state

    from opd_runtime.megatron.trainer import Trainer

    running: list[Trainer] = []

    def stop() -> None:
        while running:
            running.pop().close()
        if torch.distributed.is_initialized():  # by one that could not start
            parallel_state.destroy_model_parallel()
            torch.distributed.destroy_process_group()
        gc.collect()  # before the next one freezes whatever is there
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def start(student: Path, **changes: Any) -> Trainer:
        stop()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        ranks = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        for name, value in {**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
            monkeypatch.setenv(name, value)
        running.append(Trainer(make_config(student, **{"device": "cuda", "bf16": True, **changes})))
        return running[0]

    yield start
    stop()


@pytest.fixture(scope="session")
def large_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random BF16 weights in the shape of Qwen3-1.7B. `OPD_GPU_TEST_DIR` keeps the folder between sessions."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    kept = os.environ.get("OPD_GPU_TEST_DIR")
    folder = Path(kept) / "random-qwen3-1.7b" if kept else tmp_path_factory.mktemp("random-qwen3-1.7b")
    if not (folder / "config.json").is_file():
        config = Qwen3Config(
            vocab_size=151936,
            hidden_size=2048,
            intermediate_size=6144,
            num_hidden_layers=28,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=128,
            max_position_embeddings=40960,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            tie_word_embeddings=True,
            dtype="bfloat16",
        )
        torch.manual_seed(0)
        with torch.device("cuda"):
            Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
        torch.cuda.empty_cache()
    return folder
