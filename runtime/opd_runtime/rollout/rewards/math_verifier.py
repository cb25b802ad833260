"""Reward 1 when response and label are the same mathematics (math-verify), judged in processes that can be killed.

Two limits: the worker's own alarm, after which it lives on, and a kill for what hangs where no signal is seen.
"""

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path

from ..sample import Sample
from .failure import RewardFailed

WORKER = Path(__file__).with_name("math_worker.py")
WORKERS = 2
START_SECONDS = 120.0
"""Importing sympy takes two seconds, many more on a busy machine; it is no part of a verification's time."""
ALARM_SECONDS = 5.0
"""What a verification may take in the worker, at most half of the time limit; past the time limit it is killed."""


class MathVerifier:
    """A pool of workers, each started when first needed. One that hangs or dies is replaced; its sample gets 0."""

    def __init__(self, *, timeout_seconds: float, workers: int = WORKERS) -> None:
        self._timeout_seconds = timeout_seconds
        self._slots: asyncio.Queue[Process | None] = asyncio.Queue()
        for _ in range(workers):
            self._slots.put_nowait(None)
        self._running: set[Process] = set()

    async def verify(self, sample: Sample) -> float:
        if sample.label is None:
            raise RewardFailed("the record has no label to compare with")
        question = {
            "label": sample.label,
            "response": sample.response,
            "limit_seconds": min(ALARM_SECONDS, self._timeout_seconds / 2),
        }
        worker = await self._slots.get()
        try:
            worker = worker or await self._start()
            return await self._ask(worker, json.dumps(question))
        except BaseException:
            await self._stop(worker)
            raise
        finally:
            self._slots.put_nowait(worker if worker in self._running else None)

    async def _ask(self, worker: Process, question: str) -> float:
        """The worker's number; 0 when it ran out of time or died of the question (out of memory)."""
        assert worker.stdin is not None and worker.stdout is not None
        try:
            async with asyncio.timeout(self._timeout_seconds):
                worker.stdin.write(question.encode() + b"\n")
                await worker.stdin.drain()
                reply = await worker.stdout.readline()
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            reply = b""
        if not reply:
            await self._stop(worker)
            return 0.0
        return float(reply)

    async def _start(self) -> Process:
        """Raises RewardFailed when it does not come up."""
        # -P keeps this folder off the worker's import path.
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-P", str(WORKER), stdin=PIPE, stdout=PIPE, stderr=DEVNULL
        )
        self._running.add(worker)
        assert worker.stdout is not None
        try:
            async with asyncio.timeout(START_SECONDS):
                greeting = await worker.stdout.readline()
            if greeting.strip() != b"ready":
                raise RewardFailed("the math-verify process ended while starting")
        except TimeoutError as error:
            await self._stop(worker)
            raise RewardFailed(f"the math-verify process was not up after {START_SECONDS:g} s") from error
        except BaseException:
            await self._stop(worker)
            raise
        return worker

    async def _stop(self, worker: Process | None) -> None:
        if worker is None or worker not in self._running:
            return
        self._running.discard(worker)
        if worker.returncode is None:
            worker.kill()
        await worker.wait()

    async def close(self) -> None:
        for worker in list(self._running):
            await self._stop(worker)
