"""Asks SGLang servers for the teacher's log-probs of tokens it is given. Knows no rewards, no advantages, no samples.

Natural batching: what waits when a server has room travels in one request, in the order it came, so that responses to
one prompt stay together and share its KV cache. What a request and a believable answer are is in `logprobs.py`.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from ..connections import connector
from ..errors import LogprobsUnusable, TeacherUnavailable
from .logprobs import Pair, check_pair, request_body, response_logprobs
from .stats import ScorerStats, StatsCounter

REQUESTS_PER_ENDPOINT = 2
"""One being computed, one waiting behind it: the server never idles, and what comes later gathers meanwhile."""
FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class _Item:
    """One sequence that waits for its score."""

    pair: Pair
    future: asyncio.Future[list[float] | LogprobsUnusable]
    tokens: int
    alone: bool = False
    """A request with this and others was refused: it travels alone to show whose fault it was."""
    failing_since: float | None = None


@dataclass(slots=True, eq=False)
class _Endpoint:
    url: str
    tokens: int = 0
    """On their way to it."""
    requests: int = 0
    failures: int = 0
    """In a row."""
    not_before: float = 0.0


class _Unanswered(Exception):
    """The server could not answer now; it may later."""


class _Refused(Exception):
    """The server says that the request itself is wrong."""


class TeacherScorer:
    """One pool of HTTP connections to all replicas of one teacher. Bound to the event loop of its first call."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        vocab_size: int,
        api_key: str = "",
        deadline_seconds: float = 600.0,
        request_timeout_seconds: float = 600.0,
        max_tokens_in_flight: int = 65_536,
    ) -> None:
        """`deadline_seconds`: how long a sequence may keep failing. `max_tokens_in_flight` counts for each endpoint."""
        assert endpoints, "a teacher has at least one endpoint"
        self.vocab_size = vocab_size
        self._endpoints = [_Endpoint(url.rstrip("/")) for url in endpoints]
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._deadline_seconds, self._max_tokens = deadline_seconds, max_tokens_in_flight
        self._timeout = aiohttp.ClientTimeout(total=request_timeout_seconds, sock_connect=10)
        self._session: aiohttp.ClientSession | None = None
        self._waiting: deque[_Item] = deque()
        self._requests: set[asyncio.Task[None]] = set()
        self._pump_scheduled = False
        self._counter = StatsCounter()

    async def score(self, pairs: Sequence[Pair]) -> list[list[float] | LogprobsUnusable]:
        """log p of each response token under the teacher (nats), or why there is none; in order.

        Raises TeacherUnavailable when the teacher does not answer within the deadline, or refuses the key.
        """
        # Equal pairs travel once: of short answers to one prompt most are the same.
        keys = [(tuple(prompt_ids), tuple(response_ids)) for prompt_ids, response_ids in pairs]
        asked = {key: self._enqueue(key) for key in dict.fromkeys(keys)}
        futures = [asked[key] for key in keys]
        try:
            results = await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()
        failed = sum(isinstance(result, LogprobsUnusable) for result in results)
        self._counter.failed += failed
        self._counter.scored += len(results) - failed
        return results

    def use(self, endpoints: Sequence[str]) -> None:
        """The replicas to ask from now on; what is on its way to others is waited for. With none all else waits."""
        known = {endpoint.url: endpoint for endpoint in self._endpoints}
        self._endpoints = [known.get(url.rstrip("/")) or _Endpoint(url.rstrip("/")) for url in endpoints]
        self._schedule_pump()

    def take_stats(self) -> ScorerStats:
        """Counters since the last call."""
        return self._counter.take()

    async def close(self) -> None:
        for task in self._requests:
            task.cancel()
        await asyncio.gather(*self._requests, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __aenter__(self) -> "TeacherScorer":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def _enqueue(self, pair: Pair) -> asyncio.Future[list[float] | LogprobsUnusable]:
        future: asyncio.Future[list[float] | LogprobsUnusable] = asyncio.get_running_loop().create_future()
        try:
            check_pair(pair, self.vocab_size)
        except LogprobsUnusable as error:
            future.set_result(error)
            return future
        if pair[1]:
            self._waiting.append(_Item(pair, future, tokens=len(pair[0]) + len(pair[1])))
            self._schedule_pump()
        else:
            future.set_result([])
        return future

    def _schedule_pump(self) -> None:
        """At the end of this turn of the event loop: what is asked in one turn goes into one request."""
        if not self._pump_scheduled:
            self._pump_scheduled = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Sends what waits to the endpoints that have room, fewest outstanding tokens first."""
        self._pump_scheduled = False
        self._waiting = deque(item for item in self._waiting if not item.future.done())
        while self._waiting:
            now, next_tokens = time.monotonic(), self._waiting[0].tokens
            ready = [e for e in self._endpoints if e.not_before <= now and self._has_room(e, next_tokens)]
            if not ready:
                return
            endpoint = min(ready, key=lambda e: (e.tokens, e.requests))
            idle = sum(e.requests == 0 for e in ready)
            share = sum(item.tokens for item in self._waiting) / max(1, idle)
            self._launch(endpoint, self._take(min(share, self._max_tokens - endpoint.tokens)))

    def _has_room(self, endpoint: _Endpoint, tokens: int) -> bool:
        fits = endpoint.tokens + tokens <= self._max_tokens
        return endpoint.requests == 0 or (endpoint.requests < REQUESTS_PER_ENDPOINT and fits)

    def _take(self, budget: float) -> list[_Item]:
        """The first waiting items up to `budget` tokens, at least one."""
        items = [self._waiting.popleft()]
        tokens = items[0].tokens
        while self._waiting and not items[0].alone and not self._waiting[0].alone:
            tokens += self._waiting[0].tokens
            if tokens > budget:
                break
            items.append(self._waiting.popleft())
        return items

    def _launch(self, endpoint: _Endpoint, items: list[_Item]) -> None:
        tokens = sum(item.tokens for item in items)
        endpoint.tokens += tokens
        endpoint.requests += 1

        def ended(task: asyncio.Task[None]) -> None:
            self._requests.discard(task)
            endpoint.tokens -= tokens
            endpoint.requests -= 1
            if not task.cancelled():
                self._schedule_pump()

        task = asyncio.get_running_loop().create_task(self._ask(endpoint, items))
        self._requests.add(task)
        task.add_done_callback(ended)

    async def _ask(self, endpoint: _Endpoint, items: list[_Item]) -> None:
        """One request; every item of it gets its result, or waits again."""
        pairs = [item.pair for item in items]
        sent_at = self._counter.sent()
        try:
            answers = await self._post(f"{endpoint.url}/generate", request_body(pairs))
        except _Unanswered as error:
            self._counter.lost()
            self._back_off(endpoint, items, error)
        except asyncio.CancelledError:
            self._counter.lost()
            for item in items:
                item.future.cancel()
            raise
        except Exception as error:
            self._counter.lost()
            self._give_up(items, error)
        else:
            self._counter.answered(sent_at, sum(item.tokens for item in items))
            endpoint.failures = 0
            for item, result in zip(items, _results(answers, pairs, self.vocab_size), strict=True):
                _resolve(item, result)

    def _back_off(self, endpoint: _Endpoint, items: list[_Item], error: _Unanswered) -> None:
        """Items go back to the front of the queue, for any endpoint; those past their deadline fail."""
        now = time.monotonic()
        delay = min(FIRST_BACKOFF_SECONDS * 2**endpoint.failures, LONGEST_BACKOFF_SECONDS)
        endpoint.failures += 1
        endpoint.not_before = now + delay
        for item in reversed(items):
            item.failing_since = item.failing_since or now
            if now - item.failing_since >= self._deadline_seconds:
                _resolve(
                    item, TeacherUnavailable(f"{error}, for {self._deadline_seconds:.0f} s", hint=_UNREACHABLE_HINT)
                )
            else:
                self._waiting.appendleft(item)
        asyncio.get_running_loop().call_later(delay, self._schedule_pump)

    def _give_up(self, items: list[_Item], error: Exception) -> None:
        if isinstance(error, _Refused) and len(items) > 1:
            for item in reversed(items):
                item.alone = True
                self._waiting.appendleft(item)
            return
        for item in items:
            _resolve(item, LogprobsUnusable(str(error)) if isinstance(error, _Refused) else error)

    async def _post(self, url: str, body: object) -> Any:
        """The parsed answer; None when it is no JSON. Raises TeacherUnavailable for what no retry cures."""
        if self._session is None:
            self._session = aiohttp.ClientSession(headers=self._headers, timeout=self._timeout, connector=connector())
        try:
            async with self._session.post(url, data=orjson.dumps(body)) as reply:
                content, status = await reply.read(), reply.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _Unanswered(f"the teacher at {url} does not answer ({str(error) or type(error).__name__})") from error
        said = content[:300].decode(errors="replace")
        if status in (401, 403):
            raise TeacherUnavailable(f"the teacher at {url} refuses the key ({status})", hint=_KEY_HINT)
        if status == 404:
            raise TeacherUnavailable(
                f"{url} does not exist: {said}", hint="the endpoint must be an SGLang server's base URL"
            )
        if status >= 500 or status in (408, 429):
            raise _Unanswered(f"the teacher at {url} answers {status}: {said}")
        if status != 200:
            raise _Refused(f"the teacher refused the sequence ({status}): {said}")
        return _parse(content)


_KEY_HINT = "teachers[].sglang.apiKeySecret names the Secret with its `api-key`; with `opd run`, OPD_TEACHER_API_KEY"
_UNREACHABLE_HINT = "is the server up? `opd probe URL` asks it from here"


def _parse(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except ValueError:
        pass
    try:
        return json.loads(content)  # accepts NaN, so that one bad number does not take its neighbours with it
    except ValueError:
        return None


def _results(answers: Any, pairs: Sequence[Pair], vocab_size: int) -> list[list[float] | LogprobsUnusable]:
    if not isinstance(answers, list) or len(answers) != len(pairs):
        said = f"{len(answers)} answers" if isinstance(answers, list) else f"a {type(answers).__name__}"
        return [LogprobsUnusable(f"{said} for {len(pairs)} sequences") for _ in pairs]
    return [_result(answer, pair, vocab_size) for answer, pair in zip(answers, pairs, strict=True)]


def _result(answer: object, pair: Pair, vocab_size: int) -> list[float] | LogprobsUnusable:
    try:
        return response_logprobs(answer, pair, vocab_size)
    except LogprobsUnusable as error:
        return error


def _resolve(item: _Item, result: list[float] | LogprobsUnusable | Exception) -> None:
    """Nobody waits any more for a sequence whose `score` was cancelled."""
    if item.future.done():
        return
    if isinstance(result, list | LogprobsUnusable):
        item.future.set_result(result)
    else:
        item.future.set_exception(result)
