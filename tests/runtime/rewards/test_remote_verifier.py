"""The remote reward against a real server that answers well, badly, late or not at all."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from opd_api.spec import Reward
from opd_runtime.rollout.rewards import build_rewarder
from opd_runtime.rollout.rewards.remote_verifier import MAX_CONNECTIONS
from opd_runtime.rollout.sample import Sample

Handler = Callable[[web.Request], Awaitable[web.Response]]


def ask(handler: Handler, *samples: Sample, timeout_seconds: int = 20):
    """Rewards the samples side by side from a server on a free port."""

    async def run():
        app = web.Application()
        app.router.add_post("/score", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        rewarder = build_rewarder(
            Reward(type="Remote", url=f"http://127.0.0.1:{port}/score", timeout_seconds=timeout_seconds)
        )
        try:
            await rewarder.reward_all(samples)
        finally:
            await rewarder.close()
            await runner.cleanup()

    asyncio.run(run())


def answer(text: str, status: int = 200) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=text, status=status)

    return handler


def test_the_server_sees_prompt_response_label_and_record(make_sample):
    seen = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(await request.json())
        return web.json_response({"reward": 0.25})

    sample = make_sample("2", "2", level="easy")
    ask(handler, sample)
    assert seen == [{"prompt": "1+1=", "response": "2", "label": "2", "record": {"level": "easy"}}]
    assert (sample.raw_reward, sample.failure) == (0.25, "")


def test_waiting_for_a_connection_takes_nothing_from_a_samples_time(make_sample):
    """Three rounds of a judge that takes most of the time one sample has."""

    async def handler(request: web.Request) -> web.Response:
        await asyncio.sleep(1.5)
        return web.json_response({"reward": 1})

    samples = [make_sample("2") for _ in range(2 * MAX_CONNECTIONS + 1)]
    ask(handler, *samples, timeout_seconds=4)
    assert {sample.failure for sample in samples} == {""}


def test_a_server_that_answers_nobody_is_given_up_for_all_at_once(make_sample, unused_port):
    """Not for one round of connections after the other."""
    samples = [make_sample("2") for _ in range(3 * MAX_CONNECTIONS)]

    async def run():
        url = f"http://127.0.0.1:{unused_port}"
        rewarder = build_rewarder(Reward(type="Remote", url=url, timeout_seconds=2))
        async with asyncio.timeout(5):  # three rounds would take 6 s
            await rewarder.reward_all(samples)
        await rewarder.close()

    asyncio.run(run())
    assert all("answered nobody" in sample.failure or "nothing usable" in sample.failure for sample in samples)


def test_true_and_false_are_rewards_too(make_sample):
    sample = make_sample("2")
    ask(answer('{"reward": true}'), sample)
    assert sample.raw_reward == 1.0


@pytest.mark.parametrize(
    ("text", "status", "want"),
    [
        pytest.param("<html>", 200, "the answer is not JSON", id="HTML"),
        pytest.param("[1]", 200, "has no number `reward`", id="a list"),
        pytest.param('{"score": 1}', 200, "has no number `reward`", id="another key"),
        pytest.param('{"reward": "1"}', 200, "has no number `reward`", id="a number as text"),
        pytest.param('{"reward": null}', 200, "has no number `reward`", id="null"),
        pytest.param('{"reward": NaN}', 200, "the answer is not JSON", id="NaN"),
        pytest.param("who are you", 403, "status 403: 'who are you'", id="refused"),
    ],
)
def test_a_bad_answer_masks_the_sample(make_sample, text, status, want):
    sample = make_sample("2")
    ask(answer(text, status), sample)
    assert want in sample.failure and sample.raw_reward is None


def test_a_server_that_recovers_is_asked_again(make_sample):
    statuses = iter([500, 503, 429, 200])

    async def handler(request: web.Request) -> web.Response:
        return web.json_response({"reward": 1}, status=next(statuses))

    sample = make_sample("2")
    ask(handler, sample)
    assert (sample.raw_reward, sample.failure) == (1.0, "")


def test_a_server_that_keeps_failing_is_given_up_at_the_time_limit(make_sample):
    sample = make_sample("2")
    ask(answer("down", 500), sample, timeout_seconds=1)
    assert "nothing usable within 1 s (last: status 500)" in sample.failure


def test_a_server_that_hangs_is_given_up_at_the_time_limit(make_sample):
    async def handler(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    sample = make_sample("2")
    ask(handler, sample, timeout_seconds=1)
    assert "nothing usable within 1 s (last: no answer)" in sample.failure


def test_a_server_that_is_not_there_is_named(make_sample, unused_port):
    sample = make_sample("2")

    async def run():
        rewarder = build_rewarder(Reward(type="Remote", url=f"http://127.0.0.1:{unused_port}", timeout_seconds=1))
        await rewarder.reward(sample)
        await rewarder.close()

    asyncio.run(run())
    assert f"http://127.0.0.1:{unused_port}: nothing usable within 1 s (last: ConnectError" in sample.failure


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_one_bad_sample_of_many_masks_only_itself(make_sample):
    async def handler(request: web.Request) -> web.Response:
        response = (await request.json())["response"]
        return web.Response(text="oops") if response == "bad" else web.json_response({"reward": float(response)})

    samples = [make_sample("bad" if i == 7 else str(i)) for i in range(100)]
    ask(handler, *samples)
    assert [i for i, sample in enumerate(samples) if sample.failure] == [7]
    assert [sample.raw_reward for sample in samples if not sample.failure] == [i for i in range(100) if i != 7]


def test_a_record_json_has_no_word_for_is_still_sent(make_sample):
    import datetime

    sample = make_sample("2", None, day=datetime.date(2026, 1, 1), data=b"\x00")
    ask(answer('{"reward": 1}'), sample)
    assert sample.failure == ""
