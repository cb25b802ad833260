"""Which jobs to look at, and when: a work queue with one worker at a time for each key. Knows no jobs and no API.

A key that is added while it is worked on is worked on again afterwards; one that waits already is not added twice. Of
several wanted times the earliest wins, and work that begins does away with all of them. A key whose work failed comes
back after 5 ms, then twice as late each time. Where more is due than workers can do, the patient wait for the others.
"""

import asyncio
import heapq
import itertools
import logging
from collections.abc import Awaitable, Callable, Hashable
from datetime import timedelta

log = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.005
LONGEST_BACKOFF_SECONDS = 1000.0


class NotNow(Exception):
    """Raised by work that is to be tried again after this many seconds at most, however often it failed."""

    def __init__(self, message: str, longest_backoff_seconds: float) -> None:
        super().__init__(message)
        self.longest_backoff_seconds = longest_backoff_seconds


class WorkQueue[Key: Hashable]:
    """`work` returns when to look again though nothing may have happened, or None. `patience`: how many seconds later
    than a key of none one that is ready at the same moment may have its turn."""

    def __init__(
        self,
        work: Callable[[Key], Awaitable[timedelta | None]],
        workers: int,
        patience: Callable[[Key], float] = lambda _: 0.0,
    ) -> None:
        self._work, self._workers, self._patience = work, workers, patience
        self._ready: list[tuple[float, int, Key]] = []
        """A heap: by the moment until which a key is patient, then in the order in which they came."""
        self._count = itertools.count()
        self._since: dict[Key, float] = {}
        """When a key that is wanted (ready, or added again while being worked on) was first wanted."""
        self._working: dict[Key, float] = {}
        self._later: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        """Keys that are due or being worked on."""
        return len(self._since.keys() | self._working.keys())

    def add(self, key: Key) -> None:
        """As soon as a worker is free."""
        if key in self._since:
            return
        self._since[key] = _now()
        if key not in self._working:
            self._make_ready(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """Then, unless it is wanted earlier already."""
        when = _now() + max(seconds, 0.0)
        known = self._later.get(key)
        if known is not None:
            if known.when() <= when:
                return
            known.cancel()
        self._later[key] = asyncio.get_running_loop().call_at(when, self._due, key)

    def oldest_seconds(self) -> float:
        """How long the key that waits longest, for a worker or for its worker's end, has waited."""
        return _now() - min([*self._since.values(), *self._working.values()], default=_now())

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._serve())
        finally:
            for timer in self._later.values():
                timer.cancel()

    def _make_ready(self, key: Key) -> None:
        heapq.heappush(self._ready, (_now() + self._patience(key), next(self._count), key))
        self._wake.set()

    def _due(self, key: Key) -> None:
        del self._later[key]
        self.add(key)

    async def _serve(self) -> None:
        while True:
            while not self._ready:
                self._wake.clear()
                await self._wake.wait()
            _, _, key = heapq.heappop(self._ready)
            del self._since[key]
            if timer := self._later.pop(key, None):
                timer.cancel()
            self._working[key] = _now()
            try:
                await self._serve_key(key)
            finally:
                del self._working[key]
                if key in self._since:
                    self._make_ready(key)

    async def _serve_key(self, key: Key) -> None:
        try:
            again = await self._work(key)
        except NotNow as error:
            log.warning("%s", error, extra={"job": str(key)})
            self._add_after_failure(key, error.longest_backoff_seconds)
        except Exception:
            log.exception("unexpected", extra={"job": str(key)})
            self._add_after_failure(key, LONGEST_BACKOFF_SECONDS)
        else:
            self._failures.pop(key, None)
            if again is not None:
                self.add_after(key, again.total_seconds())

    def _add_after_failure(self, key: Key, longest: float) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        self.add_after(key, min(FIRST_BACKOFF_SECONDS * 2 ** min(failures - 1, 40), longest))


def _now() -> float:
    return asyncio.get_running_loop().time()
