"""Prompts, a tokenizer of digits, and engines and teachers that live in this process: no server, no model."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from opd_runtime.rollout.engine import Generation
from opd_runtime.rollout.sample import Finish, Prompt, Sample

EOS = 1


class DigitTokenizer:
    """As much of PromptTokenizer as generation uses."""

    vocab_size = 20
    eos_ids = (EOS,)

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(str(i) for i in ids if i != EOS)


class ScriptedEngine:
    """Stands in for EngineClient. `script(request number, prompts)` may raise, or give ids for each prompt."""

    def __init__(self, script: Callable[[int, Sequence[Sequence[int]]], Any] | None = None) -> None:
        self.url = "http://engine"
        self.script = script
        self.requests: list[list[tuple[int, ...]]] = []
        self.samplings: list[dict[str, Any]] = []
        self.version = 0

    async def generate(self, prompts: Sequence[Sequence[int]], sampling: dict[str, Any]) -> list[Generation]:
        number = len(self.requests)
        self.requests.append([tuple(prompt) for prompt in prompts])
        self.samplings.append(sampling)
        await asyncio.sleep(0)
        answers = self.script(number, prompts) if self.script else [[prompt[0], EOS] for prompt in prompts]
        return [
            Generation(ids=ids, logprobs=[-0.5] * len(ids), finish=Finish.STOP, weight_version=self.version)
            for ids in answers
        ]

    async def close(self) -> None:
        pass


@pytest.fixture
def make_engine() -> type[ScriptedEngine]:
    return ScriptedEngine


@pytest.fixture
def digits() -> DigitTokenizer:
    return DigitTokenizer()


@pytest.fixture
def make_prompts() -> Callable[..., list[Prompt]]:
    def make(count: int, start: int = 0) -> list[Prompt]:
        return [
            Prompt(index=i, text=f"{i}", token_ids=(2 + i % 10, 3, 4), label=str(2 + i % 10), record={})
            for i in range(start, start + count)
        ]

    return make


@pytest.fixture
def make_answered() -> Callable[..., Sample]:
    """A finished sample."""

    def make(prompt_ids: tuple[int, ...] = (2, 3), response_ids: Sequence[int] = (4, 5), **fields: Any) -> Sample:
        prompt = Prompt(index=0, text="", token_ids=prompt_ids, label=None, record={})
        n = len(response_ids)
        defaults = {"engine_logprobs": [-0.5] * n, "loss_mask": [True] * n, "group": 0}
        return Sample(prompt=prompt, response_ids=list(response_ids), **(defaults | fields))

    return make
