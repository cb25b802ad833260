"""The user's own reward function, called as `f(args, sample)`. A plain `def` runs in a thread, beside the loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, nullcontext
from threading import Thread
from typing import Any

from ..hooks import is_async
from ..sample import Sample
from .failure import RewardFailed

THREADS = 16
"""Calls of a plain `def` at a time."""


class CustomVerifier:
    """Exceptions, answers that are no number and overlong calls each mask their sample."""

    def __init__(self, function: Callable[..., Any], args: object, *, timeout_seconds: float) -> None:
        self._function, self._args, self._timeout_seconds = function, args, timeout_seconds
        self._is_async = is_async(function)
        self._slots: AbstractAsyncContextManager[Any] = nullcontext() if self._is_async else asyncio.Semaphore(THREADS)

    async def verify(self, sample: Sample) -> float:
        async with self._slots:
            limit = asyncio.timeout(self._timeout_seconds)
            try:
                async with limit:
                    answer = await self._call(sample)
                return float(answer)
            except Exception as error:  # the user's function may raise anything
                if limit.expired():
                    raise RewardFailed(f"no answer within {self._timeout_seconds:g} s") from error
                raise RewardFailed(f"{type(error).__name__}: {error}") from error

    async def _call(self, sample: Sample) -> Any:
        if self._is_async:
            return await self._function(self._args, sample)
        answer: Future[Any] = Future()
        answer.set_running_or_notify_cancel()  # so that one who stops waiting does not take the thread's answer away
        # Of its own and a daemon: a call that hangs keeps nobody else's thread, and the process may end without it.
        Thread(target=self._answer, args=(sample, answer), name="reward", daemon=True).start()
        return await asyncio.wrap_future(answer)

    def _answer(self, sample: Sample, answer: Future[Any]) -> None:
        try:
            answer.set_result(self._function(self._args, sample))
        except BaseException as error:
            answer.set_exception(error)

    async def close(self) -> None:
        """Holds nothing."""
