"""Asks one rollout engine (an SGLang server) for samples of token ids. Knows no prompts, no rewards, no weights.

One pooled HTTP session; many sequences travel in one request, because with short answers the calls are what costs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from ..connections import connector
from ..errors import EngineUnavailable, UserError
from .sample import Finish

RESETS_RETRIED = 1
"""A pooled connection that the server closed meanwhile fails once, harmlessly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One sampled response."""

    ids: list[int]
    logprobs: list[float]
    """log p of each id at the sampling temperature (nats)."""
    finish: Finish
    weight_version: int
    """Of the weights that sampled its last token; 0 where the server does not count (its own default is a word)."""


class EngineClient:
    """Bound to the event loop of its first call. `url` may be changed when the engine restarts elsewhere."""

    def __init__(self, url: str, *, vocab_size: int, api_key: str = "", timeout_seconds: float = 3600.0) -> None:
        self.url, self.vocab_size = url.rstrip("/"), vocab_size
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=10)
        self._session: aiohttp.ClientSession | None = None

    async def generate(self, input_ids: Sequence[Sequence[int]], sampling: Mapping[str, Any]) -> list[Generation]:
        """One response to each of `input_ids`, in order. `sampling` are SGLang's sampling parameters.

        Raises EngineUnavailable when the engine is gone or answers nonsense, UserError when it refuses the request.
        """
        if not input_ids:
            return []
        check_ids(input_ids, self.vocab_size)
        body = {"input_ids": input_ids, "sampling_params": sampling, "return_logprob": True}
        answers = await self._post("/generate", body)
        try:
            return [_generation(answer) for _, answer in zip(input_ids, answers, strict=True)]
        except (KeyError, TypeError, ValueError) as error:
            raise EngineUnavailable(f"{self.url} answered something else than samples: {error!r}") from error

    async def healthy(self) -> bool:
        try:
            async with self._open().get(f"{self.url}/health", timeout=aiohttp.ClientTimeout(total=5)) as reply:
                return reply.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __aenter__(self) -> "EngineClient":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(headers=self._headers, timeout=self._timeout, connector=connector())
        return self._session

    def _silent(self, error: BaseException) -> EngineUnavailable:
        return EngineUnavailable(f"the engine at {self.url} does not answer ({str(error) or type(error).__name__})")

    async def _post(self, path: str, body: object) -> Any:
        payload = orjson.dumps(body)
        for attempt in range(RESETS_RETRIED + 1):
            try:
                async with self._open().post(self.url + path, data=payload) as reply:
                    content, status = await reply.read(), reply.status
                break
            except (aiohttp.ServerDisconnectedError, ConnectionResetError) as error:
                if attempt == RESETS_RETRIED:
                    raise self._silent(error) from error
            except (TimeoutError, aiohttp.ClientError, OSError) as error:
                raise self._silent(error) from error
        if 400 <= status < 500:
            raise UserError(
                f"the engine refused a request: {_reason(content)}",
                hint="longest prompt + rollout.maxResponseTokens must fit the student's context",
            )
        if status != 200:
            raise EngineUnavailable(f"{self.url}{path} answered {status}: {_reason(content)}")
        try:
            return orjson.loads(content)
        except ValueError as error:
            raise EngineUnavailable(f"{self.url}{path} answered no JSON: {_reason(content)}") from error


def check_ids(input_ids: Sequence[Sequence[int]], vocab_size: int) -> None:
    """Raises UserError for an empty sequence or an id outside the vocabulary: such an id kills an SGLang server."""
    for ids in input_ids:
        if not ids:
            raise UserError("an empty prompt cannot be sent to an engine")
        if min(ids) < 0 or max(ids) >= vocab_size:
            wrong = next(i for i in ids if not 0 <= i < vocab_size)
            raise UserError(
                f"token id {wrong} is outside the model's vocabulary of {vocab_size}",
                hint="tokenizer and config.json of the student do not belong together",
            )


def _generation(answer: Mapping[str, Any]) -> Generation:
    meta, ids = answer["meta_info"], answer["output_ids"]
    logprobs = [float(row[0]) for row in meta["output_token_logprobs"]]
    if len(logprobs) != len(ids):
        raise ValueError(f"{len(logprobs)} log-probs for {len(ids)} tokens")
    reason, version = meta["finish_reason"], str(meta["weight_version"])
    return Generation(
        ids=ids,
        logprobs=logprobs,
        finish=Finish(reason["type"]) if reason else Finish.ABORT,
        weight_version=int(version) if version.isdecimal() else 0,
    )


def _reason(content: bytes) -> str:
    return content[:300].decode(errors="replace")
