"""Candidates for one Lease on a clock that jumps, with an API server that fails them one by one."""

import asyncio
import copy
import random
from collections.abc import Callable
from typing import Any

import pytest

from opd_operator.kube.api import ApiError, ApiUnavailable
from opd_operator.kube.lease import DURATION_SECONDS, RETRY_SECONDS, Lease

type Body = dict[str, Any]
type Run = Callable[[Any], Any]


class Leases:
    """The API server's side: versions, conflicts, and no other rule."""

    def __init__(self) -> None:
        self.body: Body | None = None
        self._version = 0

    def call(self, method: str, body: Body | None) -> Body:
        if method in ("GET", "PUT") and self.body is None:
            raise ApiError(404, "not found")
        if method == "POST" and self.body is not None:
            raise ApiError(409, "exists")
        if method == "PUT":
            assert body is not None and self.body is not None
            if body["metadata"]["resourceVersion"] != self.body["metadata"]["resourceVersion"]:
                raise ApiError(409, "conflict")
        if body is not None:
            self._version += 1
            self.body = copy.deepcopy(body)
            self.body["metadata"]["resourceVersion"] = str(self._version)
        return copy.deepcopy(self.body or {})


class Line:
    """One candidate's connection: `up`, down, or losing answers to what was done."""

    def __init__(self, leases: Leases) -> None:
        self.leases, self.state = leases, "up"

    async def call(self, method: str, path: str, *, body: Body | None = None, seconds: float) -> Body:
        await asyncio.sleep(0.01)
        if self.state == "down":
            await asyncio.sleep(seconds)
            raise ApiUnavailable("timed out")
        answer = self.leases.call(method, body)
        if self.state == "loses answers":
            await asyncio.sleep(seconds)
            raise ApiUnavailable("timed out")
        return answer


def candidate(leases: Leases, name: str) -> tuple[Lease, Line]:
    line = Line(leases)
    return Lease(line, "ns", "lease", name), line  # type: ignore[arg-type]


async def run_for_ever(lease: Lease) -> None:
    while True:
        await lease.acquire()
        await lease.hold()


def test_the_first_candidate_leads_and_keeps_leading(run: Run) -> None:
    async def main() -> None:
        leases = Leases()
        lease, _ = candidate(leases, "a")
        task = asyncio.create_task(run_for_ever(lease))
        for _ in range(100):
            await asyncio.sleep(1)
            assert lease.leads
        assert leases.body is not None and leases.body["spec"]["leaseTransitions"] == 0
        task.cancel()

    run(main())


def test_a_dead_leader_is_followed_within_its_duration_and_a_try(run: Run) -> None:
    async def main() -> float:
        leases = Leases()
        first, _ = candidate(leases, "a")
        second, _ = candidate(leases, "b")
        leading = asyncio.create_task(run_for_ever(first))
        await asyncio.sleep(5)
        waiting = asyncio.create_task(run_for_ever(second))
        await asyncio.sleep(30)
        assert first.leads and not second.leads
        leading.cancel()
        died = asyncio.get_running_loop().time()
        while not second.leads:
            await asyncio.sleep(0.1)
        waiting.cancel()
        return asyncio.get_running_loop().time() - died

    assert run(main()) <= DURATION_SECONDS + 2 * RETRY_SECONDS


def test_a_released_lease_is_taken_at_the_next_try(run: Run) -> None:
    async def main() -> None:
        leases = Leases()
        first, _ = candidate(leases, "a")
        second, _ = candidate(leases, "b")
        await first.acquire()
        waiting = asyncio.create_task(run_for_ever(second))
        await asyncio.sleep(5)
        await first.release()
        assert not first.leads
        await asyncio.sleep(RETRY_SECONDS + 0.1)
        assert second.leads
        waiting.cancel()

    run(main())


def test_a_lease_that_somebody_annotates_stays_with_its_leader(run: Run) -> None:
    async def main() -> None:
        leases = Leases()
        lease, _ = candidate(leases, "a")
        task = asyncio.create_task(run_for_ever(lease))
        await asyncio.sleep(5)
        assert leases.body is not None
        leases.call("PUT", leases.body | {"metadata": leases.body["metadata"] | {"annotations": {"a": "b"}}})
        for _ in range(30):
            await asyncio.sleep(1)
            assert lease.leads
        assert leases.body["metadata"]["annotations"] == {"a": "b"}
        task.cancel()

    run(main())


def test_a_lease_that_was_deleted_is_made_again_by_its_leader(run: Run) -> None:
    async def main() -> None:
        leases = Leases()
        lease, _ = candidate(leases, "a")
        task = asyncio.create_task(run_for_ever(lease))
        await asyncio.sleep(5)
        leases.body = None
        await asyncio.sleep(5)
        assert lease.leads and leases.body is not None
        task.cancel()

    run(main())


@pytest.mark.parametrize("seed", range(20))
def test_there_are_never_two_leaders_whatever_fails(run: Run, seed: int) -> None:
    async def main() -> int:
        chance, leases = random.Random(seed), Leases()
        candidates = [candidate(leases, name) for name in "abc"]
        tasks = [asyncio.create_task(run_for_ever(lease)) for lease, _ in candidates]
        led: set[str] = set()
        for _ in range(2000):
            await asyncio.sleep(chance.uniform(0.1, 1.0))
            if chance.random() < 0.1:
                _, line = chance.choice(candidates)
                line.state = chance.choice(["up", "up", "down", "loses answers"])
            leaders = [lease.identity for lease, _ in candidates if lease.leads]
            assert len(leaders) <= 1
            led.update(leaders)
        for task in tasks:
            task.cancel()
        return len(led)

    assert run(main()) == 3, "everybody had a turn"
