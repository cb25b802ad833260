"""Asks a reward server: POST {prompt, response, label, record}, answer {"reward": number}. One pooled client a run."""

import asyncio
import contextlib
import time
from typing import Any

import httpx
import orjson

from ..sample import Sample
from .failure import RewardFailed

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
MAX_CONNECTIONS = 64


class RemoteVerifier:
    """Connection errors, 429 and 5xx are tried again until the time is up; any other answer counts as it is."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        self._url, self._timeout_seconds = url, timeout_seconds
        limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS)
        self._client = httpx.AsyncClient(limits=limits, timeout=None)  # the deadline is of a whole verification
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)
        self._answered = 0.0
        """When the server last answered anything, by time.monotonic."""

    async def verify(self, sample: Sample) -> float:
        """Waiting for a connection takes nothing from a sample's time, as an evaluation asks for thousands at once;
        but not while the server answers nobody."""
        asked = time.monotonic()
        while True:
            patience = max(asked, self._answered) + self._timeout_seconds - time.monotonic()
            if patience <= 0:
                raise RewardFailed(f"{self._url}: answered nobody for {self._timeout_seconds:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._free.acquire(), patience)
                break
        try:
            return await self._verify(sample)
        finally:
            self._free.release()

    async def _verify(self, sample: Sample) -> float:
        body = orjson.dumps(
            {"prompt": sample.prompt.text, "response": sample.response, "label": sample.label, "record": sample.record},
            default=str,
        )
        last = "no answer"
        pause = FIRST_PAUSE_SECONDS
        deadline = time.monotonic() + self._timeout_seconds
        try:
            async with asyncio.timeout(self._timeout_seconds):
                while True:
                    try:
                        answer = await self._client.post(
                            self._url, content=body, headers={"content-type": "application/json"}
                        )
                        if answer.status_code != 429 and answer.status_code < 500:
                            self._answered = time.monotonic()
                            return read_reward(answer)
                        last = f"status {answer.status_code}"
                    except httpx.TransportError as error:
                        last = f"{type(error).__name__}: {error}"
                    await asyncio.sleep(min(pause, max(0.0, deadline - time.monotonic())))
                    pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        except TimeoutError as error:
            raise RewardFailed(
                f"{self._url}: nothing usable within {self._timeout_seconds:g} s (last: {last})"
            ) from error

    async def close(self) -> None:
        await self._client.aclose()


def read_reward(answer: httpx.Response) -> float:
    """The number in `{"reward": …}`. Raises RewardFailed for any other answer."""
    start = answer.text[:80]
    if answer.status_code != 200:
        raise RewardFailed(f"status {answer.status_code}: {start!r}")
    try:
        document: Any = orjson.loads(answer.content)
    except orjson.JSONDecodeError as error:
        raise RewardFailed(f"the answer is not JSON: {start!r}") from error
    reward = document.get("reward") if isinstance(document, dict) else None
    if not isinstance(reward, int | float):
        raise RewardFailed(f"the answer has no number `reward`: {start!r}")
    return float(reward)
