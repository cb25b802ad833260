"""Whose failure is seen when several things happen at once."""

import asyncio

import pytest

from opd_runtime.concurrency import together, while_watching


async def forever() -> None:
    await asyncio.Event().wait()


async def answer(value: int) -> int:
    return value


async def fail(error: Exception) -> None:
    raise error


async def test_results_come_in_order() -> None:
    assert await together([answer(1), answer(2)]) == [1, 2]


async def test_the_first_failure_cancels_the_others_and_arrives_unwrapped() -> None:
    with pytest.raises(ValueError, match="first"):
        await asyncio.wait_for(together([forever(), fail(ValueError("first"))]), 5)


async def test_watching_ends_with_the_work() -> None:
    assert await asyncio.wait_for(while_watching(answer(3), forever()), 5) == 3


async def test_a_failing_watch_ends_the_work() -> None:
    with pytest.raises(ValueError, match="teacher"):
        await asyncio.wait_for(while_watching(forever(), fail(ValueError("teacher"))), 5)


async def test_failing_work_is_raised_as_it_is() -> None:
    with pytest.raises(KeyError):
        await asyncio.wait_for(while_watching(fail(KeyError("x")), forever()), 5)


async def test_cancelling_reaches_both() -> None:
    ended: list[str] = []

    async def note(name: str) -> None:
        try:
            await forever()
        finally:
            ended.append(name)

    task = asyncio.create_task(while_watching(note("work"), note("watch")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(ended) == ["watch", "work"]
