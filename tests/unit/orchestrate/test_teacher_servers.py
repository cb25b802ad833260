"""How a run's own teacher servers come back. Servers and proof are played."""

import asyncio
from collections.abc import Sequence

import pytest

from opd_runtime.errors import TeacherUnavailable
from opd_runtime.orchestrate import teacher_servers
from opd_runtime.orchestrate.teacher_servers import REVIVALS, TeacherServers


class Played(TeacherServers):
    """`deaths`: who is found dead, look by look; nobody afterwards. A proof lasts while somebody is dead."""

    def __init__(self, *deaths: Sequence[int]) -> None:
        self.urls = ["http://0", "http://1"]
        self.looks = list(deaths)
        self.did: list[object] = []
        self.teacher_starts = asyncio.Event()

    async def dead(self) -> list[int]:
        await asyncio.sleep(0)
        dead = list(self.looks.pop(0)) if self.looks else []
        if not dead:
            self.teacher_starts.set()
        return dead

    async def restart(self, index: int) -> None:
        self.did.append(index)

    async def prove(self, student_logprobs: Sequence[float] | None = None) -> None:
        self.did.append("asked")
        await self.teacher_starts.wait()

    async def revive(self, dead: Sequence[int]) -> None:
        async with asyncio.timeout(20):
            await self._revive(self, dead, lambda note: None, lambda ready: self.did.append(("ready", ready)))  # type: ignore[arg-type]


async def test_all_that_died_are_started_before_one_is_asked():
    servers = Played()
    await servers.revive([0, 1])
    assert servers.did == [("ready", 0), 0, 1, "asked", ("ready", 2)]


async def test_one_that_dies_while_another_is_proven_is_started_too():
    servers = Played([1])
    await servers.revive([0])
    assert servers.did == [("ready", 1), 0, "asked", ("ready", 1), 1, "asked", ("ready", 2)]


async def test_servers_that_die_of_the_probe_end_the_run():
    servers = Played(*[[0]] * REVIVALS)
    with pytest.raises(TeacherUnavailable, match="died before they were proven"):
        await servers.revive([0])
    assert servers.did.count(0) == REVIVALS


class Endpoint(TeacherServers):
    """Somebody else's server. `looks`: whether it answers, look by look; then the watch ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *looks: bool) -> None:
        self.urls, self.servers = ["http://teacher"], None
        self.looks, self.did = list(looks), list[object]()
        monkeypatch.setattr(teacher_servers, "WATCH_SECONDS", 0.0)
        monkeypatch.setattr(teacher_servers, "answers", self.answers)

    async def answers(self, url: str, *, known: bool) -> bool:
        if not self.looks:
            raise asyncio.CancelledError
        return self.looks.pop(0)

    async def prove(self, student_logprobs: Sequence[float] | None = None) -> None:
        self.did.append("proven")

    async def watched(self) -> list[object]:
        with pytest.raises(asyncio.CancelledError):
            await self.watch(lambda note: None, lambda ready: self.did.append(("ready", ready)))
        return self.did


async def test_an_endpoint_that_comes_back_is_proven_again(monkeypatch):
    """It may serve another model now."""
    did = await Endpoint(monkeypatch, True, False, False, True, True).watched()
    assert did == [("ready", 0), "proven", ("ready", 1)]


async def test_an_endpoint_that_stays_is_not_asked_again(monkeypatch):
    assert await Endpoint(monkeypatch, True, True).watched() == []
