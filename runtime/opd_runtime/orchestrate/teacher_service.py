"""An SGLang teacher that the operator has deployed: every ready address behind its headless Service is a server.

Pods come and go while training goes on. Looks for them and proves each before it is asked; starts none.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from ..config import SGLangTeacher, TrainConfig
from ..errors import TeacherUnavailable
from ..teacher.probe import probe
from .teacher_servers import SCORE_DEADLINE_SECONDS, WATCH_SECONDS, TeacherServers, answers


class TeacherService(TeacherServers):
    """`urls` are the servers that are proven and answer."""

    def __init__(self, cfg: TrainConfig, teacher: SGLangTeacher) -> None:
        super().__init__(cfg, teacher)
        self.urls = []
        self._deadline_seconds = max(SCORE_DEADLINE_SECONDS, teacher.startup_timeout_seconds)

    async def start(self) -> None:
        """Until the first server is proven; others join while training goes on."""
        deadline = time.monotonic() + self.teacher.startup_timeout_seconds
        while not await self._look(_say_nothing):
            if time.monotonic() > deadline:
                raise TeacherUnavailable(
                    f"no server behind {self.teacher.endpoint} is ready after "
                    f"{self.teacher.startup_timeout_seconds:.0f} s",
                    hint="its pods' logs say why; teachers[].sglang.startupTimeoutSeconds bounds the wait",
                )
            await asyncio.sleep(WATCH_SECONDS)

    async def watch(self, note: Callable[[str], None], ready: Callable[[int], None]) -> None:
        """For ever: servers that stop answering are asked no more, others are proven and join."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            before = self.urls
            if await self._look(note) != before:
                ready(len(self.urls))

    async def _look(self, note: Callable[[str], None]) -> list[str]:
        """One look at all addresses, known ones and those of the Service; the new `urls`."""
        candidates = sorted({*self.urls, *await self._addresses()})
        looks = await asyncio.gather(*(answers(url, known=url in self.urls) for url in candidates))
        answering = [url for url, answer in zip(candidates, looks, strict=True) if answer]
        proven = [url for url in answering if url in self.urls or await self._is_proven(url)]
        for url in set(self.urls) - set(proven):
            note(f"the teacher's server at {url} is gone")
        for url in set(proven) - set(self.urls):
            note(f"the teacher's server at {url} is ready")
        self.urls = proven
        if self._scorer is not None and proven:  # with none left it asks those it knows until one is back
            self._scorer.use(proven)
        return proven

    async def _is_proven(self, url: str) -> bool:
        """False when it has gone meanwhile. Raises TeacherUnavailable when it answers and is no teacher."""
        report = await probe(url, **self.asked)
        if not report.passed and await answers(url, known=False):
            report.raise_if_failed()
        return report.passed

    async def _addresses(self) -> list[str]:
        """As the cluster's DNS knows them now; none while no server is ready."""
        parts = urlsplit(self.teacher.endpoint)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                parts.hostname, parts.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
            )
        except OSError:  # no ready server is no name; those known are looked at all the same
            return []
        hosts = [f"[{host}]" if family == socket.AF_INET6 else host for family, *_, (host, *_) in found]
        return [f"http://{host}:{parts.port}" for host in hosts]


def _say_nothing(_: str) -> None:
    """At the start nobody is missed yet."""
