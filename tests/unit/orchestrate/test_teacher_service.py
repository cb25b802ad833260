"""A teacher behind a Service whose ready addresses come and go, with servers that are not SGLang."""

import asyncio
import json
import math
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from opd_runtime.config import SGLangTeacher
from opd_runtime.errors import TeacherUnavailable
from opd_runtime.orchestrate import teacher_servers, teacher_service
from opd_runtime.orchestrate.teacher_service import TeacherService

STUDENT = Path(__file__).parents[3] / "examples" / "arithmetic" / "models" / "student"
VOCAB_SIZE = json.loads((STUDENT / "config.json").read_text())["vocab_size"]
UNIFORM = -math.log(VOCAB_SIZE)
DEADLINE_SECONDS = 20


@dataclass
class Server:
    """Scores by the token alone, or, when not `informed`, as if it knew nothing."""

    informed: bool = True
    ready: int = 200
    scored: int = 0

    async def generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.scored += 1
        answers = []
        for ids, start in zip(body["input_ids"], body["logprob_start_len"], strict=True):
            rows = [
                [(-1.0 - i / VOCAB_SIZE if self.informed else UNIFORM) if n else None, i, None]
                for n, i in enumerate(ids[start:])
            ]
            answers.append({"output_ids": [], "meta_info": {"input_token_logprobs": rows}})
        return web.json_response(answers)

    async def state(self, request: web.Request) -> web.Response:
        return web.Response(status=self.ready)


@asynccontextmanager
async def listening(server: Server, host: str, port: int) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_post("/generate", server.generate)
    app.router.add_get("/ready", server.state)
    app.router.add_get("/health", server.state)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    try:
        yield
    finally:
        await runner.cleanup()


@dataclass
class Service:
    """`announced` are the addresses that the name stands for."""

    teacher: TeacherService
    port: int
    announced: list[str]
    notes: list[str] = field(default_factory=list)
    ready: list[int] = field(default_factory=list)

    def url(self, host: str) -> str:
        return f"http://{host}:{self.port}"

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.teacher.watch(self.notes.append, self.ready.append))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setattr(teacher_service, "WATCH_SECONDS", 0.02)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    announced: list[str] = []
    ask = socket.getaddrinfo

    def answer(host: Any, *arguments: Any, **named: Any) -> Any:
        if host != "job-teacher.ml.svc":
            return ask(host, *arguments, **named)
        if not announced:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [found for each in announced for found in ask(each, *arguments, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    teacher = SGLangTeacher(
        name="teacher",
        endpoint=f"http://job-teacher.ml.svc:{port}",
        discovered=True,
        model_path=None,
        memory_fraction=0.8,
        args=(),
        replicas=2,
        gpus=1,
        api_key="",
        startup_timeout_seconds=DEADLINE_SECONDS,
    )
    return Service(TeacherService(SimpleNamespace(student_path=STUDENT), teacher), port, announced)  # type: ignore[arg-type]


async def until(condition: Callable[[], bool], what: str) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.01)

    try:
        await asyncio.wait_for(wait(), DEADLINE_SECONDS)
    except TimeoutError:
        pytest.fail(f"no {what} after {DEADLINE_SECONDS} s")


async def test_the_start_waits_for_the_first_server_and_proves_it(service):
    started = asyncio.create_task(service.teacher.start())
    server = Server(ready=503)
    async with listening(server, "127.0.4.1", service.port):
        service.announced.append("127.0.4.1")
        await asyncio.sleep(0.1)
        assert not started.done()
        server.ready = 200
        await started
    assert service.teacher.urls == [service.url("127.0.4.1")] and server.scored == 2


async def test_a_second_server_joins_and_is_asked_too(service):
    first, second = Server(), Server()
    async with listening(first, "127.0.4.1", service.port), listening(second, "127.0.4.2", service.port):
        service.announced.append("127.0.4.1")
        await service.teacher.start()
        async with service.teacher.scorer() as scorer, service.watched():
            service.announced.append("127.0.4.2")
            await until(lambda: service.ready == [2], "second server")
            first.scored = second.scored = 0
            scores = await scorer.score([((1,), (i, i + 1)) for i in range(2, 8)])
    assert all(isinstance(score, list) for score in scores) and first.scored and second.scored
    assert service.notes == [f"the teacher's server at {service.url('127.0.4.2')} is ready"]


async def test_a_server_that_is_replaced_is_noted_and_scoring_waits_for_the_new_one(service):
    service.announced.append("127.0.4.1")
    async with listening(Server(), "127.0.4.1", service.port):
        await service.teacher.start()
    async with service.teacher.scorer() as scorer, service.watched():
        await until(lambda: service.ready == [0], "loss")
        service.announced[:] = []
        waiting = asyncio.create_task(scorer.score([((1,), (2, 3))]))
        new = Server()
        async with listening(new, "127.0.4.2", service.port):
            service.announced.append("127.0.4.2")
            [score] = await asyncio.wait_for(waiting, DEADLINE_SECONDS)
    assert score == pytest.approx([-1.0 - 2 / VOCAB_SIZE, -1.0 - 3 / VOCAB_SIZE])
    assert service.ready == [0, 1]
    assert service.notes == [
        f"the teacher's server at {service.url('127.0.4.1')} is gone",
        f"the teacher's server at {service.url('127.0.4.2')} is ready",
    ]


async def test_a_known_server_stays_while_the_name_cannot_be_resolved(service):
    service.announced.append("127.0.4.1")
    async with listening(Server(), "127.0.4.1", service.port):
        await service.teacher.start()
        async with service.watched():
            service.announced.clear()
            await asyncio.sleep(0.2)
    assert service.teacher.urls == [service.url("127.0.4.1")] and service.notes == []


async def test_a_pod_that_vanished_without_a_word_is_dropped_and_a_busy_one_stays(service, monkeypatch):
    """A full backlog, like a pod that is gone, takes no connection; one that is never read is a busy server's."""
    monkeypatch.setattr(teacher_servers, "CONNECT_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(teacher_servers, "LOOK_TIMEOUT_SECONDS", 0.6)
    with socket.socket() as vanished, socket.socket() as busy, socket.socket() as filler:
        vanished.bind(("127.0.4.1", service.port))
        vanished.listen(0)
        filler.connect(vanished.getsockname())
        busy.bind(("127.0.4.2", service.port))
        busy.listen()
        service.teacher.urls = [service.url("127.0.4.1"), service.url("127.0.4.2")]
        async with service.watched():
            await until(lambda: service.ready == [1], "loss")
    assert service.teacher.urls == [service.url("127.0.4.2")]
    assert service.notes == [f"the teacher's server at {service.url('127.0.4.1')} is gone"]


async def test_a_server_that_is_no_teacher_ends_the_watch_by_name(service):
    async with listening(Server(), "127.0.4.1", service.port):
        service.announced.append("127.0.4.1")
        await service.teacher.start()
        async with listening(Server(informed=False), "127.0.4.2", service.port):
            service.announced.append("127.0.4.2")
            with pytest.raises(TeacherUnavailable, match="failed its probe") as refused:
                await asyncio.wait_for(service.teacher.watch(print, print), DEADLINE_SECONDS)
    assert refused.value.reason == "UniformLogprobs"


async def test_a_start_without_any_server_ends_by_its_deadline(service, monkeypatch):
    teacher = service.teacher
    object.__setattr__(teacher.teacher, "startup_timeout_seconds", 0.05)
    with pytest.raises(TeacherUnavailable, match=r"no server behind http://job-teacher.ml.svc:\d+ is ready"):
        await teacher.start()
