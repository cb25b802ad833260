"""The scorer against a real HTTP server that misbehaves: a named error or a masked sequence, never a made-up number."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from opd_runtime.errors import LogprobsUnusable, TeacherUnavailable
from opd_runtime.teacher.scorer import TeacherScorer

PAIRS = [((1, 2, 3), (4, 5)), ((1, 2, 3), (6, 7, 8)), ((9,), (10,))]


def score(fake, teacher, pairs=PAIRS, **options) -> Any:
    """Result of one `score` call against one fake server, or the TeacherUnavailable it raised."""

    async def run() -> Any:
        settings = {"deadline_seconds": 0.3, "request_timeout_seconds": 5.0} | options
        async with (
            fake.running(teacher),
            TeacherScorer([teacher.url], vocab_size=fake.vocab_size, **settings) as scorer,
        ):
            try:
                return await scorer.score(pairs)
            except TeacherUnavailable as error:
                return error

    return asyncio.run(run())


def test_scores_are_those_of_the_response_tokens_in_order(fake):
    teacher = fake.Teacher()
    assert score(fake, teacher) == [[fake.honest_logprob(i) for i in response] for _, response in PAIRS]
    [request] = teacher.requests
    assert request["logprob_start_len"] == [2, 2, 0]
    assert request["sampling_params"] == {"max_new_tokens": 0, "temperature": 0}


def test_last_id_of_the_vocabulary_may_be_echoed_as_zero(fake):
    last = fake.vocab_size - 1
    assert score(fake, fake.Teacher(), [((1,), (last, 3))]) == [[fake.honest_logprob(last), fake.honest_logprob(3)]]


def test_equal_pairs_are_asked_once_and_all_answered(fake):
    teacher = fake.Teacher()
    scores = score(fake, teacher, [PAIRS[0], PAIRS[1], PAIRS[0], PAIRS[0]])
    want = [[fake.honest_logprob(i) for i in response] for _, response in PAIRS[:2]]
    assert scores == [want[0], want[1], want[0], want[0]]
    [request] = teacher.requests
    assert len(request["input_ids"]) == 2


def test_response_of_zero_tokens_is_scored_without_asking(fake):
    teacher = fake.Teacher()
    assert score(fake, teacher, [((1, 2), ())]) == [[]]
    assert teacher.requests == []


@pytest.mark.parametrize(
    ("pair", "want_message"),
    [
        pytest.param(((1, 50), (2,)), "token id 50 is outside", id="a prompt id outside the vocabulary is never sent"),
        pytest.param(((1,), (2, -1)), "token id -1 is outside", id="a negative response id is never sent"),
        pytest.param(((), (2,)), "an empty prompt", id="an empty prompt is never sent"),
    ],
)
def test_what_would_kill_a_server_is_never_sent(fake, pair, want_message):
    teacher = fake.Teacher()
    bad, good = score(fake, teacher, [pair, ((1,), (2,))])
    assert isinstance(bad, LogprobsUnusable) and want_message in str(bad)
    assert good == [fake.honest_logprob(2)]
    assert [request["input_ids"] for request in teacher.requests] == [[[1, 2]]]


def with_rows(change: Callable[[list[list[Any]]], Any]) -> Callable[[list[dict[str, Any]]], Any]:
    """Spoils the rows of the first sequence only."""

    def reply(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        meta = answers[0]["meta_info"]
        meta["input_token_logprobs"] = change(meta["input_token_logprobs"])
        return answers

    return reply


@pytest.mark.parametrize(
    ("change", "want_message"),
    [
        pytest.param(lambda rows: [rows[0], [math.nan, *rows[1][1:]], *rows[2:]], "not a finite", id="NaN"),
        pytest.param(lambda rows: [rows[0], [-math.inf, *rows[1][1:]], *rows[2:]], "not a finite", id="minus infinity"),
        pytest.param(lambda rows: [rows[0], [None, *rows[1][1:]], *rows[2:]], "not a finite", id="null"),
        pytest.param(lambda rows: [rows[0], ["-1", *rows[1][1:]], *rows[2:]], "not a finite", id="text for a number"),
        pytest.param(lambda rows: [rows[0], [True, *rows[1][1:]], *rows[2:]], "not a finite", id="a boolean"),
        pytest.param(lambda rows: [rows[0], [0.01, *rows[1][1:]], *rows[2:]], "above zero", id="a positive log-prob"),
        pytest.param(lambda rows: rows[:-1], "2 rows for a response of 2", id="one row short"),
        pytest.param(lambda rows: rows[1:], "2 rows for a response of 2", id="first row missing"),
        pytest.param(lambda rows: [*rows, rows[-1]], "4 rows", id="one row too many"),
        pytest.param(lambda rows: [], "0 rows", id="no rows"),
        pytest.param(lambda rows: None, "without meta_info", id="rows are null"),
        pytest.param(lambda rows: [[r[0], 11, None] for r in rows], "ids echoed differ", id="rows of other tokens"),
        pytest.param(lambda rows: [1, 2, 3], "not [log p, id, text]", id="rows are numbers"),
    ],
)
def test_rows_that_cannot_be_believed_cost_their_sequence_alone(fake, change, want_message):
    bad, *others = score(fake, fake.Teacher(reply=with_rows(change)))
    assert isinstance(bad, LogprobsUnusable) and want_message in str(bad)
    assert others == [[fake.honest_logprob(i) for i in response] for _, response in PAIRS[1:]]


def test_tiny_positive_rounding_is_no_error(fake):
    reply = with_rows(lambda rows: [rows[0], [5e-5, *rows[1][1:]], *rows[2:]])
    assert score(fake, fake.Teacher(reply=reply))[0] == [5e-5, fake.honest_logprob(5)]


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(lambda answers: "<html>gateway</html>", id="no JSON"),
        pytest.param(lambda answers: answers[:-1], id="one answer short"),
        pytest.param(lambda answers: {"error": "?"}, id="an object"),
        pytest.param(lambda answers: [1, None, "x"], id="answers that are no objects"),
        pytest.param(lambda answers: [{"meta_info": None}] * 3, id="answers without meta_info"),
    ],
)
def test_garbage_makes_every_sequence_of_the_request_unusable(fake, reply):
    results = score(fake, fake.Teacher(reply=reply))
    assert len(results) == 3 and all(isinstance(result, LogprobsUnusable) for result in results)


def failing(times: int, failure: Callable[[], Any]) -> Callable[[list[dict[str, Any]]], Any]:
    left = [times]

    def reply(answers: list[dict[str, Any]]) -> Any:
        left[0] -= 1
        return failure() if left[0] >= 0 else answers

    return reply


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(lambda: web.Response(status=500), id="500"),
        pytest.param(lambda: web.Response(status=503), id="503 while it starts"),
        pytest.param(lambda: web.Response(status=429), id="429"),
        pytest.param(lambda: ConnectionResetError(), id="connection reset"),
    ],
)
def test_passing_failures_are_retried(fake, failure):
    teacher = fake.Teacher(reply=failing(2, failure))
    results = score(fake, teacher, deadline_seconds=30)
    assert results == [[fake.honest_logprob(i) for i in response] for _, response in PAIRS]
    assert len(teacher.requests) == 3


@pytest.mark.parametrize(
    ("failure", "want_message"),
    [
        pytest.param(lambda: web.Response(status=500, text="boom"), "answers 500: boom", id="500 for ever"),
        pytest.param(lambda: ConnectionResetError(), "does not answer", id="resets for ever"),
    ],
)
def test_lasting_failures_end_at_the_deadline_by_name(fake, failure, want_message):
    error = score(fake, fake.Teacher(reply=failing(10**6, failure)))
    assert isinstance(error, TeacherUnavailable) and want_message in str(error)


def test_a_server_that_hangs_is_unavailable_after_its_timeout(fake):
    async def run() -> TeacherUnavailable:
        teacher = fake.Teacher(hold=asyncio.Event())
        async with (
            fake.running(teacher),
            TeacherScorer(
                [teacher.url], vocab_size=fake.vocab_size, deadline_seconds=0.0, request_timeout_seconds=0.2
            ) as scorer,
        ):
            with pytest.raises(TeacherUnavailable) as caught:
                await scorer.score(PAIRS)
            return caught.value

    assert "does not answer" in str(asyncio.run(run()))


def test_nobody_listening_is_unavailable(fake, unused_tcp_port_url):
    async def run() -> None:
        async with TeacherScorer([unused_tcp_port_url], vocab_size=fake.vocab_size, deadline_seconds=0.1) as scorer:
            await scorer.score(PAIRS)

    with pytest.raises(TeacherUnavailable, match="does not answer"):
        asyncio.run(run())


def test_the_key_is_sent_and_a_missing_one_fails_at_once(fake):
    assert score(fake, fake.Teacher(needs_key=True), api_key=fake.key)[2] == [fake.honest_logprob(10)]
    error = score(fake, fake.Teacher(needs_key=True), deadline_seconds=600)
    assert isinstance(error, TeacherUnavailable) and "refuses the key" in str(error)


def test_one_refused_sequence_does_not_take_its_neighbours_with_it(fake):
    def reply(answers: list[dict[str, Any]]) -> Any:
        longest = max(len(answer["meta_info"]["input_token_logprobs"]) for answer in answers)
        return web.Response(status=400, text="too long") if longest > 3 else answers

    first, second, third = score(fake, fake.Teacher(reply=reply))
    assert isinstance(second, LogprobsUnusable) and "too long" in str(second)
    assert (first, third) == ([fake.honest_logprob(4), fake.honest_logprob(5)], [fake.honest_logprob(10)])


def test_what_waits_while_the_server_is_busy_travels_together(fake):
    async def run() -> list[int]:
        teacher = fake.Teacher(hold=asyncio.Event())
        async with fake.running(teacher), TeacherScorer([teacher.url], vocab_size=fake.vocab_size) as scorer:
            calls = [asyncio.create_task(scorer.score([((1, 2), (n,))])) for n in range(2)]
            while len(teacher.requests) < 1:
                await asyncio.sleep(0.01)
            calls.append(asyncio.create_task(scorer.score([((1, 2), (8,))])))
            while len(teacher.requests) < 2:
                await asyncio.sleep(0.01)
            calls += [asyncio.create_task(scorer.score([((1, 2), (n,))])) for n in range(20)]
            await asyncio.sleep(0)
            teacher.hold.set()
            await asyncio.gather(*calls)
        return [len(request["input_ids"]) for request in teacher.requests]

    assert asyncio.run(run()) == [2, 1, 20]


def test_tokens_in_flight_stay_bounded(fake):
    teacher = fake.Teacher()
    score(fake, teacher, [((1, 2, n // 10), (n % 10,)) for n in range(100)], max_tokens_in_flight=40)
    assert max(len(request["input_ids"]) for request in teacher.requests) == 10
    assert sum(len(request["input_ids"]) for request in teacher.requests) == 100


def test_two_endpoints_share_the_work_and_one_takes_over_when_the_other_fails(fake):
    async def run(first, second) -> list[Any]:
        async with (
            fake.running(first),
            fake.running(second),
            TeacherScorer([first.url, second.url], vocab_size=fake.vocab_size, deadline_seconds=30) as scorer,
        ):
            return await scorer.score(PAIRS * 10)

    want = [[fake.honest_logprob(i) for i in response] for _, response in PAIRS * 10]
    good, bad = fake.Teacher(), fake.Teacher(reply=lambda answers: web.Response(status=500))
    assert asyncio.run(run(good, fake.Teacher())) == want
    assert 0 < sum(len(request["input_ids"]) for request in good.requests) < 30
    assert asyncio.run(run(bad, good)) == want


def test_a_cancelled_call_leaves_the_scorer_usable(fake):
    async def run() -> Any:
        teacher = fake.Teacher(hold=asyncio.Event())
        async with fake.running(teacher), TeacherScorer([teacher.url], vocab_size=fake.vocab_size) as scorer:
            call = asyncio.create_task(scorer.score(PAIRS))
            while not teacher.requests:
                await asyncio.sleep(0.01)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            teacher.hold.set()
            return await scorer.score(PAIRS[:1])

    assert asyncio.run(run()) == [[fake.honest_logprob(4), fake.honest_logprob(5)]]


def test_stats_count_since_the_last_time_they_were_taken(fake):
    async def run() -> Any:
        teacher = fake.Teacher(reply=with_rows(lambda rows: rows[1:]))
        async with fake.running(teacher), TeacherScorer([teacher.url], vocab_size=fake.vocab_size) as scorer:
            await scorer.score(PAIRS)
            return scorer.take_stats(), scorer.take_stats()

    first, second = asyncio.run(run())
    assert (first.scored, first.failed, first.tokens, first.requests) == (2, 1, 5 + 6 + 2, 1)
    assert first.busy_seconds >= first.latency_p95_seconds > 0 and first.tokens_per_second > 0
    assert (second.scored, second.failed, second.requests, second.tokens_per_second) == (0, 0, 0, 0.0)
