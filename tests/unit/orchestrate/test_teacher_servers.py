"""How a run's own teacher servers come back. Servers and proof are played."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from opd_runtime.errors import TeacherUnavailable
from opd_runtime.orchestrate import teacher_servers
from opd_runtime.orchestrate.teacher_servers import MISSES, REVIVALS, TeacherServers
from opd_runtime.teacher.probe import Check, ProbeReport


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
    """Somebody's server. `looks`: whether it answers, look by look, then the watch ends. `reasons`: what each probe
    finds wrong, "" for nothing."""

    asked: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, monkeypatch: pytest.MonkeyPatch, looks: Sequence[bool], reasons: Sequence[str] = ()) -> None:
        self.urls, self.servers = ["http://teacher"], None
        self.looks, self.reasons, self.did = list(looks), list(reasons), list[object]()
        self._scorer = SimpleNamespace(use=lambda urls: self.did.append(("asks", urls)))  # type: ignore[assignment]
        monkeypatch.setattr(teacher_servers, "WATCH_SECONDS", 0.0)
        monkeypatch.setattr(teacher_servers, "answers", self.answers)
        monkeypatch.setattr(teacher_servers, "probe", self.probe)

    async def answers(self, url: str, *, known: bool) -> bool:
        if not self.looks:
            raise asyncio.CancelledError
        return self.looks.pop(0)

    async def probe(self, url: str, **_: Any) -> ProbeReport:
        reason = self.reasons.pop(0)
        check = Check(name="log-probs", passed=not reason, detail="as played", reason=reason or "LogprobsUnavailable")
        return ProbeReport(endpoint=url, checks=(check,), latency_seconds=0.0, tokens_per_second=0.0, mean_logprob=-1.0)

    async def watched(self) -> list[object]:
        with pytest.raises(asyncio.CancelledError):
            await self.watch(lambda note: None, lambda ready: self.did.append(("ready", ready)))
        return self.did


GONE = [True, *[False] * MISSES]


async def test_an_endpoint_that_comes_back_is_asked_nothing_before_it_is_proven_again(monkeypatch):
    """It may serve another model now; one that starts, or is busy, is not the wrong one yet."""
    did = await Endpoint(monkeypatch, [*GONE, True], ["TeacherStarting", "LogprobsUnavailable", ""]).watched()
    assert did == [("asks", []), ("ready", 0), ("asks", ["http://teacher"]), ("ready", 1)]


async def test_an_endpoint_that_goes_away_again_is_noticed_again(monkeypatch):
    did = await Endpoint(monkeypatch, [*GONE, *GONE[1:]], ["", ""]).watched()
    assert [each for each in did if each in (("ready", 0), ("ready", 1))] == 2 * [("ready", 0), ("ready", 1)]


async def test_an_endpoint_that_comes_back_as_no_teacher_ends_the_run_by_name(monkeypatch):
    with pytest.raises(TeacherUnavailable) as ended:
        await Endpoint(monkeypatch, GONE, ["TokenizerMismatch"]).watch(lambda note: None, lambda ready: None)
    assert ended.value.reason == "TokenizerMismatch"


async def test_an_endpoint_that_stutters_is_left_alone(monkeypatch):
    assert await Endpoint(monkeypatch, [True, *[False] * (MISSES - 1), True, False, True]).watched() == []
