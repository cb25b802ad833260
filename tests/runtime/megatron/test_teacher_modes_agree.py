"""The same teacher weights behind an SGLang server and in the trainer give the same samples the same log-probs."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opd_runtime.config import MegatronTeacher
from opd_runtime.rollout.server import SGLangServer
from opd_runtime.teacher.scorer import TeacherScorer

LENGTHS = [(1, 9), (4, 13), (3, 7), (2, 5), (6, 40)]
START_SECONDS = 240
LARGER = {"num_hidden_layers": 3, "hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 6}


@pytest.fixture(scope="module")
def teacher(tiny_model: Any) -> Path:
    return tiny_model("qwen3", seed=7, **LARGER)


@pytest.fixture(scope="module")
def server_url(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log_path = tmp_path_factory.mktemp("sglang") / "server.log"
    server = SGLangServer(teacher, device="cpu", bf16=False, memory_fraction=0.8, log_path=log_path)
    server.start()
    try:
        server.wait_ready(START_SECONDS)
        yield server.url
    finally:
        server.stop()


def test_both_teacher_modes_give_the_same_logprobs(
    server_url: str,
    teacher: Path,
    tiny_model: Any,
    make_config: Any,
    make_batch: Any,
    logprobs_of: Any,
    record_property,
) -> None:
    batch = make_batch(LENGTHS)
    megatron = MegatronTeacher(name="teacher", model_path=teacher, load=None, checkpoint_step=None, offloaded=True)
    in_trainer = logprobs_of(make_config(tiny_model(), teacher=megatron), batch, "teacher")
    by_server = np.concatenate(asyncio.run(_score(server_url, _pairs(batch))))
    record_property("largest difference in nats", float(np.abs(by_server - in_trainer).max()))
    np.testing.assert_allclose(by_server, in_trainer, atol=1e-4, rtol=0)


def _pairs(batch: Any) -> list[tuple[list[int], list[int]]]:
    ends = np.cumsum(batch.prompt_lengths_B + batch.response_lengths_B)
    samples = np.split(batch.tokens_S, ends[:-1])
    return [
        (tokens[:prompt].tolist(), tokens[prompt:].tolist())
        for tokens, prompt in zip(samples, batch.prompt_lengths_B, strict=True)
    ]


async def _score(url: str, pairs: list[tuple[list[int], list[int]]]) -> list[Any]:
    async with TeacherScorer([url], vocab_size=96) as scorer:
        return await scorer.score(pairs)
