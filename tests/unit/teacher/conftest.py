"""A server that speaks SGLang's /generate and misbehaves on request, on a free port of this machine."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

VOCAB_SIZE = 50
KEY = "secret"


def honest_logprob(token_id: int) -> float:
    """What the fake model says of a token: depends on the token alone."""
    return -1.0 - token_id / VOCAB_SIZE


def honest_answer(ids: Sequence[int], start: int) -> dict[str, Any]:
    """One element of SGLang's answer: row 0 without a number, id V-1 reported as 0."""
    rows: list[list[Any]] = [
        [honest_logprob(i) if n else None, 0 if i == VOCAB_SIZE - 1 else i, None] for n, i in enumerate(ids[start:])
    ]
    return {"output_ids": [], "meta_info": {"input_token_logprobs": rows, "finish_reason": {"type": "length"}}}


Reply = Callable[[list[dict[str, Any]]], Any]
"""Honest answers -> what is sent instead: an object to be sent as JSON, text, bytes, or a web.Response."""


@dataclass
class FakeTeacher:
    """`reply` changes what is said; `requests` are the bodies that arrived."""

    reply: Reply = lambda answers: answers
    tokenizer: Callable[[str], list[int]] | None = None
    needs_key: bool = False
    health: int = 200
    health_checks: int = 0
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    hold: asyncio.Event | None = None
    """When set to an event, answers wait for it."""

    async def generate(self, request: web.Request) -> web.StreamResponse:
        if self.needs_key and request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.Response(status=401)
        body = await request.json()
        self.requests.append(body)
        if self.hold is not None:
            await self.hold.wait()
        honest = [honest_answer(*pair) for pair in zip(body["input_ids"], body["logprob_start_len"], strict=True)]
        said = self.reply(honest)
        if isinstance(said, web.StreamResponse):
            return said
        if isinstance(said, BaseException):
            assert request.transport is not None
            request.transport.abort()
            raise said
        text = said if isinstance(said, str) else json.dumps(said)
        return web.Response(text=text, content_type="application/json")

    async def tokenize(self, request: web.Request) -> web.Response:
        if self.tokenizer is None:
            return web.Response(status=404)
        texts = (await request.json())["prompt"]
        return web.json_response({"tokens": [self.tokenizer(text) for text in texts]})

    async def healthy(self, request: web.Request) -> web.Response:
        self.health_checks += 1
        return web.Response(status=self.health)


@asynccontextmanager
async def running(teacher: FakeTeacher) -> AsyncIterator[FakeTeacher]:
    app = web.Application()
    app.router.add_post("/generate", teacher.generate)
    app.router.add_post("/tokenize", teacher.tokenize)
    app.router.add_get("/health", teacher.healthy)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    teacher.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield teacher
    finally:
        if teacher.hold is not None:
            teacher.hold.set()
        await runner.cleanup()


@dataclass(frozen=True)
class Fake:
    """What tests need of this file."""

    Teacher: type[FakeTeacher]
    running: Callable[[FakeTeacher], Any]
    honest_logprob: Callable[[int], float]
    vocab_size: int
    key: str


@pytest.fixture(scope="session")
def fake() -> Fake:
    return Fake(FakeTeacher, running, honest_logprob, VOCAB_SIZE, KEY)


@pytest.fixture
def unused_tcp_port_url() -> Iterator[str]:
    """A port that is taken by a socket which never listens: connections are refused."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"
