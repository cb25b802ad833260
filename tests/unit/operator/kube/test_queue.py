"""The work queue on a clock that jumps: order, de-duplication, one worker a key, back-off, wanted times."""

import asyncio
import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from opd_operator.kube.queue import NotNow, WorkQueue

type Run = Callable[[Any], Any]


async def serve(queue: WorkQueue[str], seconds: float) -> None:
    """Lets the queue work for so long."""
    try:
        async with asyncio.timeout(seconds):
            await queue.run()
    except TimeoutError:
        pass


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_key_added_many_times_is_worked_on_once(run: Run) -> None:
    async def main() -> list[str]:
        seen: list[str] = []

        async def work(key: str) -> None:
            seen.append(key)

        queue = WorkQueue(work, workers=2)
        for key in ("a", "b", "a", "a", "b"):
            queue.add(key)
        await serve(queue, 1)
        return seen

    assert run(main()) == ["a", "b"]


def test_a_key_added_while_it_is_worked_on_is_worked_on_again_and_never_by_two(run: Run) -> None:
    async def main() -> tuple[int, int]:
        passes = at_once = most = 0

        async def work(key: str) -> None:
            nonlocal passes, at_once, most
            passes, at_once = passes + 1, at_once + 1
            most = max(most, at_once)
            if passes == 1:
                queue.add(key)
                queue.add(key)
            await asyncio.sleep(1)
            at_once -= 1

        queue = WorkQueue(work, workers=4)
        queue.add("a")
        await serve(queue, 10)
        return passes, most

    assert run(main()) == (2, 1)


def test_different_keys_are_worked_on_side_by_side(run: Run) -> None:
    async def main() -> float:
        ended: list[float] = []

        async def work(key: str) -> None:
            await asyncio.sleep(10)
            ended.append(now())

        queue = WorkQueue(work, workers=3)
        begun = now()
        for key in "abc":
            queue.add(key)
        await serve(queue, 60)
        return max(ended) - begun

    assert run(main()) == 10


def test_failures_back_off_from_5_ms_to_1000_s_and_a_success_starts_over(run: Run) -> None:
    async def main() -> list[float]:
        starts: list[float] = []

        async def work(key: str) -> None:
            starts.append(now())
            if len(starts) != 21:
                raise ValueError("no")

        queue = WorkQueue(work, workers=1)
        queue.add("a")
        await serve(queue, 4000)
        queue.add("a")
        await serve(queue, 0.011)
        return starts

    starts = run(main())
    waits = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert [round(wait, 3) for wait in waits[:4]] == [0.005, 0.01, 0.02, 0.04]
    assert round(max(waits[:20]), 3) == 1000
    assert round(waits[-1], 3) == 0.005, "after a success the first failure waits 5 ms again"


def test_work_that_says_how_long_it_can_wait_is_not_kept_longer(run: Run) -> None:
    async def main() -> list[float]:
        starts: list[float] = []

        async def work(key: str) -> None:
            starts.append(now())
            raise NotNow("the API server is away", longest_backoff_seconds=5)

        queue = WorkQueue(work, workers=1)
        queue.add("a")
        await serve(queue, 120)
        return starts

    starts = run(main())
    assert max(later - earlier for earlier, later in itertools.pairwise(starts)) <= 5.001


def test_of_several_wanted_times_the_earliest_wins(run: Run) -> None:
    async def main() -> list[float]:
        begun, starts = now(), []

        async def work(key: str) -> timedelta | None:
            starts.append(now() - begun)
            return timedelta(hours=1) if len(starts) == 1 else None

        queue = WorkQueue(work, workers=1)
        queue.add_after("a", 30)
        queue.add_after("a", 10)
        queue.add_after("a", 20)
        await serve(queue, 4000)
        return starts

    assert run(main()) == [10, 3610]


def test_the_patient_wait_for_the_others_but_not_for_ever(run: Run) -> None:
    async def main() -> list[str]:
        seen: list[str] = []

        async def work(key: str) -> None:
            seen.append(key)
            await asyncio.sleep(10)
            if key.startswith("urgent") and len(seen) < 6:
                queue.add(f"urgent {len(seen)}")

        queue = WorkQueue(work, 1, lambda key: 15.0 if key == "patient" else 0.0)
        for key in ("patient", "urgent 0"):
            queue.add(key)
        await serve(queue, 100)
        return seen

    assert run(main())[:4] == ["urgent 0", "urgent 1", "patient", "urgent 2"]


def test_work_that_begins_does_away_with_times_that_were_wanted_before(run: Run) -> None:
    async def main() -> list[float]:
        begun, starts = now(), []

        async def work(key: str) -> None:
            starts.append(now() - begun)

        queue = WorkQueue(work, workers=1)
        queue.add_after("a", 10)
        queue.add("a")
        await serve(queue, 60)
        return starts

    assert run(main()) == [0]


def test_the_oldest_key_tells_its_age_while_it_waits_and_while_it_is_worked_on(run: Run) -> None:
    async def main() -> list[float]:
        ages: list[float] = []
        gate = asyncio.Event()

        async def work(key: str) -> None:
            await gate.wait()

        queue = WorkQueue(work, workers=1)
        ages.append(queue.oldest_seconds())
        queue.add("a")
        queue.add("b")
        task = asyncio.create_task(queue.run())
        await asyncio.sleep(7)
        ages.append(queue.oldest_seconds())
        assert len(queue) == 2
        gate.set()
        await asyncio.sleep(1)
        ages.append(queue.oldest_seconds())
        task.cancel()
        return ages

    assert run(main()) == [0, 7, 0]
