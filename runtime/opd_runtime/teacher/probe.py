"""Is this server a teacher? Asks it to score a fixed text and judges the numbers, before training and after a restart.

Knows token ids and tokens' texts only through its arguments: no tokenizer and no model is loaded here.
"""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import aiohttp

from ..errors import LogprobsUnusable, TeacherUnavailable
from .scorer import TeacherScorer

REPEATABLE = 0.05
"""Mean difference of two scores of one text (nats). In BF16 what else a server computes changes how sums are rounded:
single tokens of an honest, busy teacher differ by 0.1 and more, on average they do by a hundredth."""
SAME_MODEL = 1e-3
"""Mean difference under which two models' scores of a text are those of one model (nats)."""
UNIFORM = 1e-4
"""A spread, or a distance from -log V, below this is no model's answer (nats)."""
POLL_SECONDS = 0.5
TOKENIZE_PATHS = ("/tokenize", "/v1/tokenize")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing the probe looked at."""

    name: str
    passed: bool | None
    """None: could not be checked here."""
    detail: str
    reason: str
    """Of the condition when it failed: LogprobsUnavailable, UniformLogprobs, SameAsStudent, TokenizerMismatch, …"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """What the probe saw; `raise_if_failed` turns a failed check into the named error."""

    endpoint: str
    checks: tuple[Check, ...]
    latency_seconds: float
    """Of scoring the text once, the second time."""
    tokens_per_second: float
    mean_logprob: float

    @property
    def passed(self) -> bool:
        return not any(check.passed is False for check in self.checks)

    @property
    def reason(self) -> str:
        """Of the first failed check; empty when all passed."""
        return next((check.reason for check in self.checks if check.passed is False), "")

    @property
    def hint(self) -> str:
        """What to do about `reason`."""
        return HINTS.get(self.reason, "")

    def raise_if_failed(self) -> None:
        for check in self.checks:
            if check.passed is False:
                message = f"the teacher at {self.endpoint} failed its probe: {check.detail}"
                raise TeacherUnavailable(message, reason=self.reason, hint=self.hint)


HINTS: Mapping[str, str] = {
    "TeacherStarting": "wait until its /health answers 200; teachers[].sglang.startupTimeoutSeconds bounds the wait",
    "TeacherUnavailable": "start it, correct the URL, or raise teachers[].sglang.startupTimeoutSeconds",
    "LogprobsUnavailable": "an SGLang server with /generate and input log-probs is needed; try `opd probe URL`",
    "UniformLogprobs": "its weights were not loaded (a dummy load format?), or the vocabulary is another",
    "SameAsStudent": "there is nothing to learn from it: check teachers[].model or sglang.endpoint",
    "TokenizerMismatch": "teacher and student must share tokenizer and vocabulary",
}


async def probe(
    endpoint: str,
    *,
    probe_ids: Sequence[int],
    vocab_size: int,
    api_key: str = "",
    student_logprobs: Sequence[float] | None = None,
    token_probes: Mapping[str, Sequence[int]] | None = None,
    timeout_seconds: float = 60.0,
) -> ProbeReport:
    """Scores `probe_ids` (at least 3) twice. Raises nothing: what goes wrong is a failed check.

    `student_logprobs` are the student's for probe_ids[1:]. `token_probes` are texts with the student tokenizer's ids
    (no special tokens added); a server without a tokenizer leaves that one unchecked. Tokenizers come first: an id that
    the teacher's vocabulary lacks would end its server.
    """
    assert len(probe_ids) >= 3
    if state := await _server_state(endpoint):
        return _report(endpoint, [Check(name="answers", passed=False, detail=state, reason="TeacherStarting")])
    tokenizer = await _check_tokenizer(endpoint, api_key, token_probes)
    if tokenizer.passed is False:
        return _report(endpoint, [tokenizer])
    pair = (probe_ids[:1], probe_ids[1:])
    scores: list[list[float]] = []
    async with TeacherScorer(
        [endpoint],
        vocab_size=vocab_size,
        api_key=api_key,
        deadline_seconds=timeout_seconds,
        request_timeout_seconds=timeout_seconds,
    ) as scorer:
        for _ in range(2):
            started = time.perf_counter()
            try:
                [score] = await scorer.score([pair])
            except TeacherUnavailable as error:
                score = LogprobsUnusable(str(error))
            if isinstance(score, LogprobsUnusable):
                failed = Check(name="log-probs", passed=False, detail=str(score), reason="LogprobsUnavailable")
                return _report(endpoint, [tokenizer, failed])
            scores.append(score)
            seconds = time.perf_counter() - started
    checks = judge(scores[0], scores[1], vocab_size=vocab_size, student_logprobs=student_logprobs)
    return _report(endpoint, [tokenizer, *checks], scores[1], seconds, len(probe_ids))


async def probe_when_ready(endpoint: str, *, startup_timeout_seconds: float, **questions: Any) -> ProbeReport:
    """`probe(endpoint, **questions)` again and again while the server starts, for at most so long."""
    deadline = time.monotonic() + startup_timeout_seconds
    while True:
        report = await probe(endpoint, **questions)
        if report.reason != "TeacherStarting":
            return report
        if time.monotonic() > deadline:
            [check] = report.checks
            return _report(endpoint, [replace(check, reason="TeacherUnavailable")])
        await asyncio.sleep(POLL_SECONDS)


def judge(
    first: Sequence[float],
    second: Sequence[float],
    *,
    vocab_size: int,
    student_logprobs: Sequence[float] | None,
) -> list[Check]:
    """Checks on two scores of one text, each of which is a list of believable numbers already."""
    drift = fmean(abs(a - b) for a, b in zip(first, second, strict=True))
    spread, mean, uniform = max(first) - min(first), fmean(first), -math.log(vocab_size)
    checks = [
        Check(
            name="repeatable",
            passed=drift <= REPEATABLE,
            detail=f"two scores of one text differ by {drift:.1e} nats on average",
            reason="LogprobsUnavailable",
        ),
        Check(
            name="informed",
            passed=spread > UNIFORM and abs(mean - uniform) > UNIFORM,
            detail=f"log-probs spread over {spread:.3f} nats, mean {mean:.3f} (a uniform guess: {uniform:.3f})",
            reason="UniformLogprobs",
        ),
    ]
    if student_logprobs is not None:
        checks.append(other_than_student(first, student_logprobs))
    return checks


def other_than_student(teacher_logprobs: Sequence[float], student_logprobs: Sequence[float]) -> Check:
    """Two scores of one text by two models, which have to differ."""
    distance = fmean(abs(a - b) for a, b in zip(teacher_logprobs, student_logprobs, strict=True))
    detail = f"mean distance from the student's scores {distance:.4f} nats"
    return Check(name="not the student", passed=distance > SAME_MODEL, detail=detail, reason="SameAsStudent")


async def _server_state(endpoint: str) -> str:
    """Empty when the server serves, else why not."""
    url = f"{endpoint.rstrip('/')}/health"
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session, session.get(url) as reply:
            return f"{url} answers {reply.status}" if reply.status >= 500 else ""
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return f"{url} does not answer ({str(error) or type(error).__name__})"


async def _check_tokenizer(endpoint: str, api_key: str, probes: Mapping[str, Sequence[int]] | None) -> Check:
    """Compares ids of texts, where the server can tokenize."""

    def check(passed: bool | None, detail: str) -> Check:
        return Check(name="tokenizer", passed=passed, detail=detail, reason="TokenizerMismatch")

    if not probes:
        return check(None, "not asked for: no student tokenizer given")
    theirs = await _tokenize(endpoint, api_key, list(probes))
    if theirs is None:
        return check(None, "the server does not tokenize; compare the models' folders with `opd validate --models`")
    for (text, ours), ids in zip(probes.items(), theirs, strict=True):
        if list(ours) != ids:
            return check(False, f"{text!r} is {list(ours)[:8]} for the student and {ids[:8]} for the teacher")
    return check(True, f"same ids for {len(probes)} texts")


async def _tokenize(endpoint: str, api_key: str, texts: list[str]) -> list[list[int]] | None:
    """Ids of each text by the server's tokenizer; None when it has none or says something else."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    body = {"model": "default", "prompt": texts, "add_special_tokens": False}
    timeout = aiohttp.ClientTimeout(total=30)
    try:
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
            for path in TOKENIZE_PATHS:
                async with session.post(endpoint.rstrip("/") + path, json=body) as reply:
                    if reply.status == 200:
                        tokens = (await reply.json())["tokens"]
                        return [list(ids) for ids in tokens] if len(tokens) == len(texts) else None
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError):
        return None
    return None


def _report(
    endpoint: str, checks: Sequence[Check], score: Sequence[float] = (), seconds: float = 0.0, tokens: int = 0
) -> ProbeReport:
    return ProbeReport(
        endpoint=endpoint,
        checks=tuple(checks),
        latency_seconds=seconds,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        mean_logprob=fmean(score) if score else math.nan,
    )
