"""The user's own reward function, called as `f(args, sample)`. A plain `def` runs in a thread, beside the loop."""

import asyncio
from collections.abc import Callable
from typing import Any

from ..hooks import is_async
from ..sample import Sample
from .failure import RewardFailed


class CustomVerifier:
    """Exceptions, answers that are no number and overlong calls each mask their sample."""

    def __init__(self, function: Callable[..., Any], args: object, *, timeout_seconds: float) -> None:
        self._function, self._args, self._timeout_seconds = function, args, timeout_seconds
        self._is_async = is_async(function)

    async def verify(self, sample: Sample) -> float:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                answer = await self._call(sample)
            return float(answer)
        except TimeoutError as error:
            raise RewardFailed("timeout", f"no answer within {self._timeout_seconds:g} s") from error
        except Exception as error:  # the user's function may raise anything
            raise RewardFailed("exception", f"{type(error).__name__}: {error}") from error

    async def _call(self, sample: Sample) -> Any:
        if self._is_async:
            return await self._function(self._args, sample)
        return await asyncio.to_thread(self._function, self._args, sample)

    async def close(self) -> None:
        """Holds nothing."""
