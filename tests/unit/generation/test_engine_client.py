"""The engine client against a real HTTP server in this process."""

import asyncio
from typing import Any

import pytest
from aiohttp import web

from opd_runtime.errors import EngineUnavailable, UserError
from opd_runtime.rollout.engine import EngineClient, Generation
from opd_runtime.rollout.sample import Finish

ANSWER = {
    "output_ids": [4, 1],
    "meta_info": {
        "output_token_logprobs": [[-0.5, 4, None], [-0.25, 1, None]],
        "finish_reason": {"type": "stop", "matched": 1},
        "weight_version": "12",
    },
}


def ask(handler, prompts=((2, 3),), **options) -> tuple[Any, list[Any]]:
    """(result or error of `generate`, bodies the server got)."""
    bodies: list[Any] = []

    async def serve(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.json())
        said = handler(len(bodies), request)
        if isinstance(said, web.StreamResponse):
            return said
        if isinstance(said, BaseException):
            request.transport.abort()
            raise said
        return web.json_response(said)

    async def run() -> Any:
        app = web.Application()
        app.router.add_post("/generate", serve)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            async with EngineClient(url, vocab_size=10, **options) as client:
                return await client.generate(prompts, {"max_new_tokens": 2})
        except (EngineUnavailable, UserError) as error:
            return error
        finally:
            await runner.cleanup()

    return asyncio.run(run()), bodies


def test_many_sequences_travel_in_one_request_with_the_key():
    def handler(number, request):
        assert request.headers["Authorization"] == "Bearer k"
        return [ANSWER, ANSWER]

    generations, bodies = ask(handler, ((2, 3), (4,)), api_key="k")
    want = Generation(ids=[4, 1], logprobs=[-0.5, -0.25], finish=Finish.STOP, weight_version=12)
    assert generations == [want, want]
    assert bodies == [{"input_ids": [[2, 3], [4]], "sampling_params": {"max_new_tokens": 2}, "return_logprob": True}]


@pytest.mark.parametrize(
    ("version", "want"), [pytest.param("12", 12, id="ours"), pytest.param("default", 0, id="a server's own default")]
)
def test_a_weight_version_is_a_number_or_0(version, want):
    answer = ANSWER | {"meta_info": ANSWER["meta_info"] | {"weight_version": version}}
    [generation] = ask(lambda number, request: [answer])[0]
    assert generation.weight_version == want


@pytest.mark.parametrize(
    "prompts",
    [
        pytest.param(((2, 10),), id="an id outside the vocabulary"),
        pytest.param(((-1,),), id="a negative id"),
        pytest.param(((2,), ()), id="an empty prompt"),
    ],
)
def test_what_would_kill_the_server_is_never_sent(prompts):
    error, bodies = ask(lambda number, request: [ANSWER], prompts)
    assert isinstance(error, UserError) and bodies == []


def test_nothing_to_ask_asks_nothing():
    assert ask(lambda number, request: [], ()) == ([], [])


@pytest.mark.parametrize(
    ("handler", "want_error"),
    [
        pytest.param(lambda n, r: web.Response(status=500), EngineUnavailable, id="500"),
        pytest.param(lambda n, r: ConnectionResetError(), EngineUnavailable, id="every connection reset"),
        pytest.param(lambda n, r: web.Response(text="x"), EngineUnavailable, id="no JSON"),
        pytest.param(lambda n, r: [{}], EngineUnavailable, id="no samples"),
        pytest.param(lambda n, r: [ANSWER, ANSWER], EngineUnavailable, id="more samples than prompts"),
        pytest.param(lambda n, r: [ANSWER | {"output_ids": [4]}], EngineUnavailable, id="log-probs of other tokens"),
        pytest.param(lambda n, r: web.Response(status=400, text="too long"), UserError, id="a refused request"),
    ],
)
def test_what_cannot_be_used_is_named(handler, want_error):
    assert isinstance(ask(handler)[0], want_error)


def test_one_reset_is_retried():
    generations, bodies = ask(lambda n, r: ConnectionResetError() if n == 1 else [ANSWER])
    assert len(generations) == 1 and len(bodies) == 2
