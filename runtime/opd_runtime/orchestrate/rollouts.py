"""Samples for the next step, generated now or one step ahead. Hides what overlaps with training; knows no weights."""

import asyncio
from dataclasses import dataclass
from typing import Any

from ..batch import Batch
from ..rollout.data import PromptStream
from ..rollout.generate import Collected, RolloutGenerator, to_batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One step's samples, ready to train on."""

    batch: Batch
    collected: Collected
    cursor: dict[str, Any]
    """State of the prompt stream behind these samples: what a checkpoint after this step must continue from."""


class Rollouts:
    """`collect` gives the samples of a step. With `ahead`, the next step's generate while this one trains.

    Ahead is exactly one step of staleness: step t+1 is sampled by the weights before update t, and `settle` holds the
    weight sync back until that generation has ended.
    """

    def __init__(self, stream: PromptStream, generator: RolloutGenerator, *, batch_size: int, ahead: bool) -> None:
        self.stream, self.generator = stream, generator
        self.batch_size, self.ahead = batch_size, ahead
        self._next: asyncio.Task[tuple[Collected, dict[str, Any]]] | None = None

    async def collect(self, kl_coef: float, *, last: bool) -> Rollout:
        """The next samples; when ahead and these are not the last, starts those after them."""
        collected, cursor = await (self._next or self._generate())
        self._next = asyncio.create_task(self._generate()) if self.ahead and not last else None
        return Rollout(batch=to_batch(collected.samples, kl_coef), collected=collected, cursor=cursor)

    async def settle(self, stop: asyncio.Event) -> None:
        """Waits until no engine generates: the weights may change. `stop` ends the wait and what is generated."""
        if self._next is None:
            return
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait([self._next, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if stop.is_set():
            await self.close()

    async def close(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)

    async def _generate(self) -> tuple[Collected, dict[str, Any]]:
        collected = await self.generator.collect(self.stream.take, self.batch_size)
        return collected, self.stream.state()
