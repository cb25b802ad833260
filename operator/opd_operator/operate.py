"""One operator: stands by until it leads, then watches and reconciles until it does not. Plans nothing, serves nothing.

Losing the Lease ends all work and forgets all that was known; the same process stands by again. So an API server that
was away for minutes, or an operator that was frozen, begins anew from what the API server says then.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from . import metrics
from .kube.api import Api, ApiError, ApiUnavailable
from .kube.cache import WATCHED, Cache
from .kube.kube import Kube
from .kube.lease import Lease
from .kube.queue import NotNow, WorkQueue
from .kube.watch import Watch
from .kube.writer import NotLeading, Writer
from .metrics import JobNumbers
from .objects import JobKey
from .reconcile import reconcile
from .settings import Settings

log = logging.getLogger(__name__)

WORKERS = 16
NEW_PATIENCE_SECONDS, LAUNCHED_PATIENCE_SECONDS = 10.0, 20.0
"""When many come at once: how long a job may wait for those whose attempt is written down and whose RayJob is the next
thing to make, one without an attempt, and one that has its RayJob."""
SETTLE_SECONDS = 4.0
"""News of pods comes in volleys, and one status tells of them all."""
UNAVAILABLE_BACKOFF_SECONDS = 5.0
"""An API server that comes back is not kept waiting."""
REFUSED_BACKOFF_SECONDS = 60.0
"""Nothing tells when a quota or a right has come that was missing."""
WATCH_SILENCE_SECONDS = 240.0
QUEUE_AGE_SECONDS = 300.0
PULSE_SECONDS = 60.0
"""Longest ages of a healthy operator: a watch that hears nothing, a job that waits, an election that stands still."""


class Operator:
    """`make_writer`: a test's way to every write."""

    def __init__(
        self,
        api: Api,
        settings: Settings,
        make_writer: Callable[[Api, Callable[[], bool]], Writer] = Writer,
    ) -> None:
        self._api, self._settings, self._make_writer = api, settings, make_writer
        self.lease = Lease(api, settings.operator_namespace, settings.lease_name)
        self._work: Work | None = None

    async def run(self) -> None:
        """Until cancelled; then the Lease is free."""
        try:
            while True:
                await self.lease.acquire()
                metrics.leader.set(1)
                await self._lead()
                metrics.leader.set(0)
        finally:
            with contextlib.suppress(ApiError, ApiUnavailable):
                await asyncio.shield(self.lease.release())

    async def _lead(self) -> None:
        self._work = Work(self._api, self._settings, self._make_writer(self._api, lambda: self.lease.leads))
        metrics.jobs.source = self._work
        tasks = [asyncio.create_task(self._work.run()), asyncio.create_task(self.lease.hold())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            metrics.jobs.source, self._work = (), None

    def ill(self) -> str:
        """Why it should be restarted; "" while it works, and while it waits for the API server."""
        if asyncio.get_running_loop().time() - self.lease.tried > PULSE_SECONDS:
            return f"the election has stood still for more than {PULSE_SECONDS:.0f} s"
        return self._work.ill() if self._work else ""

    def unready(self) -> str:
        """Why it cannot do its part yet; a standby does its part by standing by."""
        if self._work is None:
            return "" if self.lease.answered else "the API server has not answered yet"
        return self._work.unready()

    def measure(self) -> None:
        """Brings the gauges up to date."""
        queue = self._work.queue if self._work else None
        metrics.queue_depth.set(len(queue) if queue else 0)
        metrics.queue_age.set(queue.oldest_seconds() if queue else 0)


class Work:
    """What a leader does: watches feed the cache, the cache the queue, the queue reconciles."""

    def __init__(self, api: Api, settings: Settings, writer: Writer) -> None:
        self._settings = settings
        self.queue = WorkQueue(self._reconcile, WORKERS, self._patience)
        self._cache = Cache(
            settings.namespaces, self.queue.add, moved=lambda key: self.queue.add_after(key, SETTLE_SECONDS)
        )
        self._kube = Kube(api, self._cache, writer)
        self._watches = [
            Watch(api, self._cache, kind, namespace) for kind in WATCHED for namespace in settings.namespaces or ("",)
        ]

    def __iter__(self) -> Iterator[JobNumbers]:
        """Of every job."""
        return iter(self._cache.numbers())

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for watch in self._watches:
                group.create_task(watch.run())
            for watch in self._watches:
                await watch.listed.wait()
            log.info("in step with the API server")
            group.create_task(self.queue.run())

    def ill(self) -> str:
        silent = max(self._watches, key=lambda watch: -watch.heard)
        if asyncio.get_running_loop().time() - silent.heard > WATCH_SILENCE_SECONDS:
            return f"nothing was heard of {silent} for more than {WATCH_SILENCE_SECONDS:.0f} s"
        if self.queue.oldest_seconds() > QUEUE_AGE_SECONDS and self.unready() == "":
            return f"a job has waited for more than {QUEUE_AGE_SECONDS:.0f} s"
        return ""

    def unready(self) -> str:
        waited = next((watch for watch in self._watches if not watch.listed.is_set()), None)
        return f"{waited} are not listed yet" if waited else ""

    def _patience(self, key: JobKey) -> float:
        if self._cache.is_launched(key):
            return LAUNCHED_PATIENCE_SECONDS
        return 0.0 if self._cache.is_recorded(key) else NEW_PATIENCE_SECONDS

    async def _reconcile(self, key: JobKey) -> timedelta | None:
        try:
            with metrics.reconcile_seconds.time(), metrics.reconcile_errors.count_exceptions():
                return await reconcile(key, self._kube, self._settings, lambda: datetime.now(UTC))
        except (ApiUnavailable, NotLeading) as error:
            raise NotNow(str(error), UNAVAILABLE_BACKOFF_SECONDS) from error
        except ApiError as error:
            raise NotNow(str(error), REFUSED_BACKOFF_SECONDS) from error
