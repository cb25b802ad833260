"""One response of the student to one prompt, from generation to teacher score. Plain data; knows no server."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Finish(StrEnum):
    """Why generation ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One record of the prompt files, tokenized."""

    index: int
    """Position in the job's prompt stream: 0, 1, 2, … over all epochs; never repeats."""
    text: str
    """What the model reads, chat template applied."""
    token_ids: tuple[int, ...]
    label: str | None
    """Reference answer for verifiers."""
    record: dict[str, Any]
    """The whole record, for custom rewards."""
    source: int = 0
    """Index into `data.prompts`."""


@dataclass(slots=True, kw_only=True)
class Sample:
    """One response. Filled in order: generation, reward, teacher score."""

    prompt: Prompt
    group: int
    """Index of the prompt in this step."""
    response_ids: list[int] = field(default_factory=list)
    response: str = ""
    engine_logprobs: list[float] = field(default_factory=list)
    """log p of each response token as the engine sampled it (nats)."""
    loss_mask: list[bool] = field(default_factory=list)
    """Which response tokens train; False for tool output. Same length as response_ids."""
    weight_version: int = 0
    """Version of the student's weights that sampled it."""
    finish: Finish = Finish.STOP
    raw_reward: float | None = None
    """The verifier's number before weight and post-processing; None without a verifier."""
    reward: float = 0.0
    teacher_logprobs: list[float] | None = None
    """log p of each response token under the teacher (nats); None when the teacher is in the trainer or failed."""
    failure: str = ""
    """Why this sample is masked; empty when it is usable."""

    @property
    def label(self) -> str | None:
        return self.prompt.label

    @property
    def record(self) -> dict[str, Any]:
        return self.prompt.record
