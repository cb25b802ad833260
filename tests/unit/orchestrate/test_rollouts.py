"""What runs ahead of training, and what a checkpoint remembers of the prompts."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from opd_runtime.orchestrate.rollouts import Rollouts
from opd_runtime.rollout.generate import Collected
from opd_runtime.rollout.sample import Prompt, Sample


class CountingStream:
    """Prompts 0, 1, 2, …"""

    def __init__(self) -> None:
        self.given = 0

    def take(self, count: int) -> list[Prompt]:
        first, self.given = self.given, self.given + count
        return [
            Prompt(index=i, text=str(i), token_ids=(i,), label=None, record={}) for i in range(first, first + count)
        ]

    def state(self) -> dict[str, Any]:
        return {"index": self.given}


class GatedGenerator:
    """Answers a step's prompts when `gate` is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = 0

    async def collect(self, take: Callable[[int], list[Prompt]], count: int) -> Collected:
        self.started += 1
        prompts = take(count)
        await self.gate.wait()
        samples = [
            Sample(prompt=prompt, group=group, response_ids=[1], engine_logprobs=[-1.0], loss_mask=[True])
            for group, prompt in enumerate(prompts)
        ]
        return Collected(
            samples=samples,
            wall_seconds=0.0,
            generate_seconds=0.0,
            score_seconds=0.0,
            hidden_share=1.0,
            groups_rejected=0,
            unscored=0,
            degraded=False,
        )


GO_ON = asyncio.Event()
"""A stop that nobody asks for."""


def rollouts(*, ahead: bool) -> Rollouts:
    return Rollouts(CountingStream(), GatedGenerator(), batch_size=2, ahead=ahead)  # type: ignore[arg-type]


def indices(rollout: Any) -> list[int]:
    return [sample.prompt.index for sample in rollout.collected.samples]


async def test_without_ahead_nothing_is_generated_before_it_is_asked_for() -> None:
    parts = rollouts(ahead=False)
    first = await parts.collect(1.0, last=False)
    await parts.settle(GO_ON)
    assert parts.generator.started == 1
    assert indices(first) == [0, 1]
    assert indices(await parts.collect(1.0, last=False)) == [2, 3]


async def test_ahead_the_next_step_generates_while_this_one_trains() -> None:
    parts = rollouts(ahead=True)
    first = await parts.collect(1.0, last=False)
    await asyncio.sleep(0)
    assert parts.generator.started == 2
    assert first.cursor == {"index": 2}, "a checkpoint after this step must not skip what was generated ahead"
    await parts.settle(GO_ON)
    second = await parts.collect(0.5, last=True)
    assert (indices(second), second.batch.kl_coef) == ([2, 3], 0.5)
    await asyncio.sleep(0)
    assert parts.generator.started == 2, "nothing follows the last step"


async def test_settle_holds_the_weights_back_until_no_engine_generates() -> None:
    parts = rollouts(ahead=True)
    await parts.collect(1.0, last=False)
    parts.generator.gate.clear()
    settled = asyncio.ensure_future(parts.settle(GO_ON))
    await asyncio.sleep(0)
    assert not settled.done()
    parts.generator.gate.set()
    await asyncio.wait_for(settled, 5)


async def test_a_stop_waits_for_no_generation() -> None:
    parts, stop = rollouts(ahead=True), asyncio.Event()
    await parts.collect(1.0, last=False)
    parts.generator.gate.clear()
    settled = asyncio.ensure_future(parts.settle(stop))
    await asyncio.sleep(0)
    assert not settled.done()
    stop.set()
    await asyncio.wait_for(settled, 5)


async def test_a_failure_ahead_is_raised_by_the_step_that_needs_the_samples() -> None:
    parts = rollouts(ahead=True)

    async def fail(*_: Any) -> Collected:
        raise ValueError("no engine")

    await parts.collect(1.0, last=False)
    parts.generator.collect = fail  # before the step ahead has begun
    await parts.settle(GO_ON)
    with pytest.raises(ValueError, match="no engine"):
        await parts.collect(1.0, last=False)


async def test_close_ends_what_runs_ahead() -> None:
    parts = rollouts(ahead=True)
    await parts.collect(1.0, last=False)
    parts.generator.gate.clear()
    await asyncio.wait_for(parts.close(), 5)
