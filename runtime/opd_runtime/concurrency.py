"""Coroutines side by side, so that the first failure is what the caller sees. Knows nothing of what they do."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


async def together(work: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Results in order; the first failure cancels the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(piece) for piece in work]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def while_watching[T](work: Coroutine[Any, Any, T], watch: Coroutine[Any, Any, Any]) -> T:
    """The result of `work`; `watch` runs beside it, is cancelled at its end, and ends it by raising."""
    worker, watcher = asyncio.create_task(work), asyncio.create_task(watch)
    try:
        await asyncio.wait((worker, watcher), return_when=asyncio.FIRST_COMPLETED)
        if watcher.done() and not worker.done():
            watcher.result()
        return await worker
    finally:
        worker.cancel()
        watcher.cancel()
        await asyncio.gather(worker, watcher, return_exceptions=True)
