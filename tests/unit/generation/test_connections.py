"""What the kernel was told about connections to engines and teachers, read from the sockets themselves."""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
from aiohttp import web

from opd_runtime.rollout.engine import EngineClient
from opd_runtime.teacher.scorer import TeacherScorer

ENGINE = {
    "output_ids": [4],
    "meta_info": {"output_token_logprobs": [[-0.5, 4]], "finish_reason": {"type": "stop"}, "weight_version": "1"},
}
TEACHER = {"output_ids": [], "meta_info": {"input_token_logprobs": [[None, 2], [-0.5, 4]]}}


def options_of_connections_to(port: int) -> Iterator[tuple[int, ...]]:
    """SO_KEEPALIVE, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_USER_TIMEOUT."""
    for entry in os.listdir("/proc/self/fd"):
        with suppress(OSError), socket.socket(fileno=os.dup(int(entry))) as found:
            if found.family == socket.AF_INET and found.getpeername()[1] == port:
                tcp = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
                keepalive = found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                yield keepalive, *(found.getsockopt(socket.IPPROTO_TCP, option) for option in tcp)


@pytest.mark.parametrize("answer", [pytest.param(ENGINE, id="engine"), pytest.param(TEACHER, id="teacher")])
async def test_a_peer_that_vanishes_is_noticed_within_a_minute(answer):
    seen: list[tuple[int, ...]] = []

    async def generate(request: web.Request) -> web.Response:
        seen.extend(options_of_connections_to(request.transport.get_extra_info("sockname")[1]))
        return web.json_response([answer])

    app = web.Application()
    app.router.add_post("/generate", generate)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        if answer is ENGINE:
            async with EngineClient(url, vocab_size=10) as client:
                await client.generate([(2, 3)], {})
        else:
            async with TeacherScorer([url], vocab_size=10, deadline_seconds=0) as scorer:
                assert await scorer.score([((2,), (4,))]) == [[-0.5]]
    finally:
        await runner.cleanup()
    assert seen == [(1, 30, 10, 3, 60_000)]
