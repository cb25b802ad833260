"""The SGLang teacher of a run: servers of its own, or somebody's endpoint; proven before it may teach."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
import numpy as np

from ..batch import Batch
from ..config import SGLangTeacher, TrainConfig
from ..errors import TeacherUnavailable
from ..report.reporter import PROVEN_WRONG
from ..rollout.teacher_questions import TeacherQuestions, teacher_questions
from ..teacher.probe import probe, probe_when_ready
from ..teacher.scorer import TeacherScorer
from .actors import ServerSpec
from .placement import TEACHER_RESOURCE, Servers

WATCH_SECONDS = 2.0
MISSES = 3
"""Looks in a row. A proxy that answers 502 once is no server that went away."""
SCORE_DEADLINE_SECONDS = 600.0
"""How long a sequence may keep failing, and longer where a server may take longer to come back."""
LOOK_TIMEOUT_SECONDS = 5.0
CONNECT_TIMEOUT_SECONDS = 2.0
REVIVALS = 3
"""In a row. Servers that die of the probe itself would be started for ever."""


class TeacherServers:
    """`start`; then `scorer` asks it and `watch` keeps it alive."""

    def __init__(self, cfg: TrainConfig, teacher: SGLangTeacher) -> None:
        self.cfg, self.teacher = cfg, teacher
        self.questions: TeacherQuestions = teacher_questions(cfg.student_path)
        self.urls = [teacher.endpoint]
        self._scorer: TeacherScorer | None = None
        self._deadline_seconds = SCORE_DEADLINE_SECONDS
        self.servers = (
            None
            if teacher.endpoint
            else Servers(_spec(cfg, teacher), TEACHER_RESOURCE, teacher.startup_timeout_seconds)
        )

    async def start(self) -> None:
        """Its own servers, or somebody's, until they answer and are proven."""
        if self.servers is not None:
            await self.servers.start()
            self.urls = await self.servers.ready()
        await self.prove()

    async def prove(self, student_logprobs: Sequence[float] | None = None) -> None:
        """The semantic probe of every server. Raises TeacherUnavailable with what is wrong."""
        timeout = self.teacher.startup_timeout_seconds
        for url in self.urls:
            asked = self.asked | {"student_logprobs": student_logprobs}
            report = await probe_when_ready(url, startup_timeout_seconds=timeout, **asked)
            report.raise_if_failed()

    @property
    def asked(self) -> dict[str, Any]:
        """Arguments of every probe."""
        return {
            "probe_ids": self.questions.probe_ids,
            "vocab_size": self.questions.vocab_size,
            "token_probes": self.questions.token_probes,
            "api_key": self.teacher.api_key,
        }

    def scorer(self) -> TeacherScorer:
        self._scorer = TeacherScorer(
            self.urls,
            vocab_size=self.questions.vocab_size,
            api_key=self.teacher.api_key,
            deadline_seconds=self._deadline_seconds,
        )
        return self._scorer

    async def watch(self, note: Callable[[str], None], ready: Callable[[int], None]) -> None:
        """For ever: a server that died comes back on its port and is proven again; the scorer retries meanwhile.

        `note` takes what happened, `ready` how many servers are proven and answer.
        """
        misses = 0
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self.servers is not None:
                if dead := await self.servers.dead():
                    await self._revive(self.servers, dead, note, ready)
                continue
            [url] = self.urls
            misses = 0 if await answers(url, known=True) else misses + 1
            if misses == MISSES:
                note(f"the teacher at {url} does not answer")
                await self._comes_back(url, ready)
                note(f"the teacher at {url} is back, and proven")
                misses = 0

    async def _comes_back(self, url: str, ready: Callable[[int], None]) -> None:
        """Somebody else's server, which may serve another model then: nothing is asked before it is proven again."""
        assert self._scorer is not None, "the watch begins with the training"
        self._scorer.use([])
        ready(0)
        deadline = time.monotonic() + SCORE_DEADLINE_SECONDS
        while not (report := await probe(url, **self.asked)).passed:
            if report.reason in PROVEN_WRONG or time.monotonic() > deadline:
                report.raise_if_failed()
            await asyncio.sleep(WATCH_SECONDS)
        self._scorer.use([url])
        ready(1)

    async def _revive(
        self, servers: Servers, dead: Sequence[int], note: Callable[[str], None], ready: Callable[[int], None]
    ) -> None:
        """All that are dead, before any is asked: the probe waits long for a server that nobody starts."""
        for _ in range(REVIVALS):
            ready(len(self.urls) - len(dead))
            for index in dead:
                note(f"teacher server {index} died: starting it again")
                await servers.restart(index)
            proof = asyncio.ensure_future(self.prove())
            try:
                while not proof.done() and not (dead := await servers.dead()):
                    await asyncio.wait([proof], timeout=WATCH_SECONDS)
                if proof.done():
                    proof.result()
                    ready(len(self.urls))
                    return
            finally:
                proof.cancel()
        raise TeacherUnavailable(
            f"its servers died before they were proven, {REVIVALS} times in a row",
            hint="see the teacher's logs in the run's folder",
        )

    async def stop(self) -> None:
        if self.servers is not None:
            await self.servers.stop()


async def answers(url: str, *, known: bool) -> bool:
    """Whether it takes requests. One that is `known` and silent is taken for busy: a long prefill can starve it.

    A busy server's kernel still takes connections for it; where none is taken, its pod has gone without a word.
    """
    timeout = aiohttp.ClientTimeout(total=LOOK_TIMEOUT_SECONDS, sock_connect=CONNECT_TIMEOUT_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{url}/ready") as reply:
            return reply.status < 500
    except aiohttp.ConnectionTimeoutError:
        return False
    except TimeoutError:
        return known
    except (aiohttp.ClientError, OSError):
        return False


def probe_batch(questions: TeacherQuestions) -> Batch:
    """The probe's text as a step of one sample whose first id is the prompt."""
    tokens_S = np.array(questions.probe_ids, dtype=np.int32)
    n = len(tokens_S) - 1
    return Batch(
        tokens_S=tokens_S,
        prompt_lengths_B=np.array([1], np.int32),
        response_lengths_B=np.array([n], np.int32),
        mask_N=np.ones(n, np.bool_),
        engine_logprobs_N=np.zeros(n, np.float32),
        teacher_logprobs_N=None,
        rewards_B=np.zeros(1, np.float32),
        groups_B=np.zeros(1, np.int32),
        valid_B=np.ones(1, np.bool_),
        kl_coef=0.0,
    )


def _spec(cfg: TrainConfig, teacher: SGLangTeacher) -> ServerSpec:
    assert teacher.model_path is not None, "a teacher without an endpoint names its model"
    return ServerSpec(
        name="teacher",
        model_path=teacher.model_path,
        device=cfg.device,
        bf16=cfg.bf16,
        replicas=teacher.replicas,
        gpus=teacher.gpus,
        memory_fraction=teacher.memory_fraction,
        args=teacher.args,
        api_key=teacher.api_key,
        log_dir=cfg.run_dir / "logs",
    )
