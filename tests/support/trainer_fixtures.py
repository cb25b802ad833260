"""What tests of the trainer share, on CPU and on GPUs: tiny models, a job's configuration, a step's samples.

Conftests that want them import them by name.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opd_api.spec import (
    Algorithm,
    Checkpoint,
    Data,
    Distillation,
    Evaluation,
    Optimizer,
    PromptSource,
    Reward,
    Rollout,
    Student,
)
from opd_runtime.batch import Batch
from opd_runtime.config import SGLangTeacher, TrainConfig

VOCABULARY, SMALL_VOCABULARY = 96, 512
SERVER = SGLangTeacher(
    name="teacher",
    endpoint="http://127.0.0.1:1",
    model_path=None,
    memory_fraction=0.5,
    args=(),
    gpus=1,
    replicas=1,
    api_key="",
    startup_timeout_seconds=1.0,
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folder of a random Qwen3 or Llama; the same arguments give the same folder. Weights are large: tokens differ."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    families: dict[str, tuple[Any, Any]] = {
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
    }
    made: dict[tuple[object, ...], Path] = {}

    def make(family: str = "qwen3", *, seed: int = 0, **changes: Any) -> Path:
        key = (family, seed, repr(sorted(changes.items())))
        if key not in made:
            torch.manual_seed(seed)
            config, model = families[family]
            shape = {
                "vocab_size": VOCABULARY,
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "max_position_embeddings": 512,
                "initializer_range": 0.1,
                "tie_word_embeddings": family == "qwen3",
                "eos_token_id": 1,
                "pad_token_id": 0,
                "bos_token_id": None,
            }
            made[key] = tmp_path_factory.mktemp(family)
            model(config(**shape | changes)).save_pretrained(made[key])
        return made[key]

    return make


@pytest.fixture(scope="session")
def small_model(tiny_model: Callable[..., Path]) -> Callable[..., Path]:
    """As `tiny_model`, of a size that kernels for GPUs accept."""
    shape = {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "head_dim": 64,
        "vocab_size": SMALL_VOCABULARY,
        "initializer_range": 0.02,
    }
    return lambda family="qwen3", **changes: tiny_model(family, **shape | changes)


@pytest.fixture(scope="session")
def make_config(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TrainConfig]:
    """TrainConfig of a job on one machine. `tensor`, `data`: sizes of the two kinds of parallelism."""

    def make(student: Path, *, tensor: int = 1, data: int = 1, max_tokens: int = 64, **changes: Any) -> TrainConfig:
        recompute = changes.pop("recompute", "None")
        cfg = TrainConfig(
            name="test",
            uid="test/0",
            attempt=1,
            run_dir=changes.get("run_dir") or tmp_path_factory.mktemp("run"),
            device="cpu",
            bf16=False,
            seed=3,
            steps=100,
            student_path=student,
            student_load=None,
            reference_path=None,
            teacher=SERVER,
            prompts=(),
            eval_prompts=(),
            world_size=tensor * data,
            tensor_parallel=tensor,
            sequence_parallel=False,
            student=Student(model=f"file://{student}", max_tokens_per_gpu=max_tokens, recompute=recompute),
            rollout=Rollout(),
            data=Data(prompts=(PromptSource(uri="file:///prompts.jsonl"),)),
            distillation=Distillation(),
            algorithm=Algorithm(),
            reward=Reward(),
            evaluation=Evaluation(),
            optimizer=Optimizer(lr=1e-3),
            checkpoint=Checkpoint(),
            tensorboard=False,
        )
        return dataclasses.replace(cfg, **changes)

    return make


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    """Random samples of the given (prompt, response) lengths, two to a prompt; every seventh token is masked."""

    def make(
        lengths: Sequence[tuple[int, int]], *, seed: int = 0, vocabulary: int = VOCABULARY, **changes: Any
    ) -> Batch:
        draw = np.random.default_rng(seed)
        prompts, responses = np.array(lengths, dtype=np.int32).T
        tokens = int(responses.sum())
        fields: dict[str, Any] = {
            "tokens_S": draw.integers(2, vocabulary, int((prompts + responses).sum()), dtype=np.int32),
            "prompt_lengths_B": prompts,
            "response_lengths_B": responses,
            "mask_N": np.arange(tokens) % 7 != 6,
            "engine_logprobs_N": -draw.random(tokens, dtype=np.float32) * 6,
            "teacher_logprobs_N": -draw.random(tokens, dtype=np.float32) * 6,
            "rewards_B": draw.random(len(lengths), dtype=np.float32),
            "groups_B": np.arange(len(lengths), dtype=np.int32) // 2,
            "valid_B": np.ones(len(lengths), dtype=bool),
            "kl_coef": 1.0,
        }
        return Batch(**fields | changes)

    return make


@pytest.fixture(scope="session")
def hf_logprobs() -> Callable[..., np.ndarray]:
    """log p of every response token by transformers on the CPU in FP32, sample by sample: what the trainer must say."""
    import torch
    from transformers import AutoModelForCausalLM

    @torch.no_grad()
    def score(folder: Path, batch: Batch, temperature: float = 1.0) -> np.ndarray:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        scored, start = [], 0
        for prompt, response in zip(batch.prompt_lengths_B, batch.response_lengths_B, strict=True):
            tokens = torch.from_numpy(batch.tokens_S[start : start + prompt + response].astype(np.int64))
            start += prompt + response
            logp = (model(tokens[None]).logits[0, prompt - 1 : -1] / temperature).log_softmax(-1)
            scored.append(logp.gather(1, tokens[prompt:, None])[:, 0])
        return torch.cat(scored).numpy()

    return score
