"""The job's rollout engines as one: work goes to the least loaded, and what a dead engine had is done again.

Knows nothing of what the work is. How an engine comes back, with which weights, is the caller's `recover`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from ..errors import EngineUnavailable
from .engine import EngineClient

Recover = Callable[[int], Awaitable[str]]
"""Index of a dead engine -> the URL it answers at again."""

MAX_ATTEMPTS = 3
"""Of one piece of work. An engine that dies of the same request for ever must end the step."""


@dataclass(slots=True, eq=False)
class _Engine:
    index: int
    client: EngineClient
    tokens: int = 0
    """Outstanding."""
    pieces: int = 0
    recovering: asyncio.Task[None] | None = None
    lives: int = 0
    """How often it has come back."""


@dataclass(slots=True, eq=False)
class EnginePool:
    """`run` from many tasks at once; `pieces_per_engine` times the engines are under way at most, the others wait."""

    clients: Sequence[EngineClient]
    recover: Recover
    pieces_per_engine: int = 64
    recoveries: int = 0
    """Engines brought back since the start."""
    _engines: list[_Engine] = field(init=False)
    _slots: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._engines = [_Engine(index, client) for index, client in enumerate(self.clients)]
        self._slots = asyncio.Semaphore(self.pieces_per_engine * len(self._engines))

    async def run[T](self, work: Callable[[EngineClient], Awaitable[T]], tokens: int) -> T:
        """Result of `work` on some engine. `tokens` is how heavy it may get.

        Raises EngineUnavailable when engines died under this work three times, or one could not be brought back.
        """
        async with self._slots:
            for attempt in range(1, MAX_ATTEMPTS + 1):
                engine = min(self._engines, key=lambda e: (e.recovering is not None, e.tokens, e.pieces))
                if engine.recovering is not None:
                    await asyncio.shield(engine.recovering)
                life = engine.lives
                engine.tokens += tokens
                engine.pieces += 1
                try:
                    return await work(engine.client)
                except EngineUnavailable:
                    if attempt == MAX_ATTEMPTS:
                        raise
                    await self._bring_back(engine, life)
                finally:
                    engine.tokens -= tokens
                    engine.pieces -= 1
        raise AssertionError("the last attempt returns or raises")

    async def close(self) -> None:
        await asyncio.gather(*(engine.client.close() for engine in self._engines))

    async def _bring_back(self, engine: _Engine, life: int) -> None:
        """Once for all requests that failed in the same life of the engine."""
        if engine.lives != life:
            return
        if engine.recovering is None:
            engine.recovering = asyncio.create_task(self._recover(engine))
        await asyncio.shield(engine.recovering)

    async def _recover(self, engine: _Engine) -> None:
        try:
            engine.client.url = (await self.recover(engine.index)).rstrip("/")
            engine.lives += 1
            self.recoveries += 1
        finally:
            engine.recovering = None
