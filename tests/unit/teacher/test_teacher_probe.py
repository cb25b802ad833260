"""The semantic probe against a real HTTP server that plays each kind of impostor."""

import asyncio
import math
from typing import Any

import pytest
from aiohttp import web

from opd_runtime.errors import TeacherUnavailable
from opd_runtime.teacher.logprobs import degraded
from opd_runtime.teacher.probe import probe

PROBE_IDS = [3, 14, 15, 9, 2, 6, 5]


def run_probe(fake, teacher, **options) -> Any:
    async def run() -> Any:
        async with fake.running(teacher):
            return await probe(
                teacher.url, probe_ids=PROBE_IDS, vocab_size=fake.vocab_size, timeout_seconds=0.5, **options
            )

    return asyncio.run(run())


def with_logprobs(value) -> Any:
    """Every log-prob of an answer becomes value(token id, number of the call)."""
    calls = [0]

    def reply(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        calls[0] += 1
        for answer in answers:
            for row in answer["meta_info"]["input_token_logprobs"][1:]:
                row[0] = value(row[1], calls[0])
        return answers

    return reply


def test_a_real_teacher_passes_with_its_figures(fake):
    student = [fake.honest_logprob(i) - 0.5 for i in PROBE_IDS[1:]]
    texts = {"ab": [97, 98]}
    teacher = fake.Teacher(tokenizer=lambda text: [ord(c) for c in text])
    report = run_probe(fake, teacher, student_logprobs=student, token_probes=texts)
    report.raise_if_failed()
    assert report.passed and report.reason == ""
    assert [check.passed for check in report.checks] == [True] * 4
    assert report.mean_logprob == pytest.approx(sum(map(fake.honest_logprob, PROBE_IDS[1:])) / 6)
    assert report.latency_seconds > 0 and report.tokens_per_second > 0


def test_rounding_on_a_busy_server_is_no_fault(fake):
    """In BF16 a token's log-prob moves by a tenth when another batch is computed."""
    noisy = with_logprobs(lambda i, call: fake.honest_logprob(i) - (0.1 * call if i % 3 == 0 else 0.0))
    report = run_probe(fake, fake.Teacher(reply=noisy))
    assert report.passed, report.checks


@pytest.mark.parametrize(
    ("settings", "want_reason"),
    [
        pytest.param({"health": 503}, "TeacherStarting", id="a server that still loads"),
        pytest.param({"reply": lambda answers: "x"}, "LogprobsUnavailable", id="garbage"),
        pytest.param(
            {"reply": lambda answers: web.Response(status=500)}, "LogprobsUnavailable", id="500 for every request"
        ),
        pytest.param({"needs_key": True}, "LogprobsUnavailable", id="a key that was not given"),
        pytest.param(
            {"reply": with_logprobs(lambda i, call: -1.0 - call - i / 50)}, "LogprobsUnavailable", id="unrepeatable"
        ),
        pytest.param({"reply": with_logprobs(lambda i, call: -2.0)}, "UniformLogprobs", id="all numbers equal"),
        pytest.param(
            {"reply": with_logprobs(lambda i, call: -math.log(50) + {15: 1e-3, 14: -1e-3}.get(i, 0.0))},
            "UniformLogprobs",
            id="a uniform guess over the vocabulary",
        ),
        pytest.param({"tokenizer": lambda text: [1]}, "TokenizerMismatch", id="another tokenizer"),
    ],
)
def test_an_impostor_is_named(fake, settings, want_reason):
    report = run_probe(fake, fake.Teacher(**settings), token_probes={"ab": [97, 98]})
    assert report.reason == want_reason
    assert report.hint
    with pytest.raises(TeacherUnavailable) as caught:
        report.raise_if_failed()
    assert caught.value.reason == want_reason


def test_the_student_itself_is_no_teacher(fake):
    student = [fake.honest_logprob(i) + 1e-5 for i in PROBE_IDS[1:]]
    assert run_probe(fake, fake.Teacher(), student_logprobs=student).reason == "SameAsStudent"


def test_another_tokenizer_is_found_before_any_id_is_sent(fake):
    teacher = fake.Teacher(tokenizer=lambda text: [1])
    run_probe(fake, teacher, token_probes={"ab": [97, 98]})
    assert teacher.requests == []


def test_a_server_without_a_tokenizer_leaves_that_check_open(fake):
    report = run_probe(fake, fake.Teacher(), token_probes={"ab": [97, 98]})
    assert report.passed and {check.name: check.passed for check in report.checks}["tokenizer"] is None


def test_nobody_listening_is_starting(unused_tcp_port_url):
    report = asyncio.run(probe(unused_tcp_port_url, probe_ids=PROBE_IDS, vocab_size=50))
    assert report.reason == "TeacherStarting" and "does not answer" in report.checks[0].detail


@pytest.mark.parametrize(
    ("failed", "want"),
    [
        pytest.param(0, False, id="none"),
        pytest.param(5, False, id="5 % is the limit"),
        pytest.param(6, True, id="above 5 %"),
        pytest.param(50, True, id="half still trains"),
    ],
)
def test_share_of_unusable_scores_decides(failed, want):
    assert degraded(failed, 100) is want


def test_more_than_half_unusable_is_an_error_and_an_empty_step_is_none():
    with pytest.raises(TeacherUnavailable, match="51 of the step's 100"):
        degraded(51, 100)
    assert degraded(0, 0) is False
