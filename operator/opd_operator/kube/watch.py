"""Keeps the cache in step with one kind of object: list, then watch, and list again when the thread is lost.

A list replaces all that was known of its kind, so what vanished while nobody watched vanishes here too. A kind that the
API server does not know, or does not show us in this namespace, is asked for again until it comes. Never ends by
itself; what it hears is not judged here.
"""

import asyncio
import logging
import random
from collections.abc import Iterator

from opd_api.names import LABEL_JOB

from ..objects import Kind
from .api import Api, ApiError, ApiUnavailable, Body, path_of
from .cache import Cache

log = logging.getLogger(__name__)

PAGE = 250
"""Objects a page: a page of pods is some two megabytes."""
PAGE_OF_LARGE = 25
"""Of kinds that users fill, with up to a megabyte each."""
LARGE = (Kind.OPD_JOB, Kind.CONFIG_MAP)
WATCH_SECONDS = 300
ABSENT_SECONDS = 10.0
BACKOFF_SECONDS = (0.1, 10.0)
FORBIDDEN, ABSENT, GONE = 403, 404, 410


class Watch:
    """One kind, in one namespace ("": in all of them)."""

    def __init__(self, api: Api, cache: Cache, kind: Kind, namespace: str) -> None:
        self._api, self._cache = api, cache
        self._kind, self._namespace = kind, namespace
        self._query = {} if kind is Kind.OPD_JOB else {"labelSelector": LABEL_JOB}
        self.listed = asyncio.Event()
        """The cache is complete: the kind was listed, does not exist, or keeps its namespace out of reach."""
        self.heard = _now()
        """When the API server last said anything (bookmarks: every minute)."""

    def __str__(self) -> str:
        return f"{self._kind.plural} in {self._namespace or 'all namespaces'}"

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            waits = _backoff()
            version = await self._list(waits)
            await self._follow(version)

    # ------------------------------------------------------------ list
    async def _list(self, waits: Iterator[float]) -> int:
        """Its version. Tries until it succeeds."""
        while True:
            try:
                version = await self._list_once()
                self._known()
                return version
            except ApiUnavailable as error:
                log.warning("cannot list %s: %s", self, error)
                await asyncio.sleep(next(waits))
            except ApiError as error:
                if error.status == ABSENT:
                    self._absent()
                elif error.status == FORBIDDEN and self._namespace:
                    self._forbidden(error)
                elif error.status != GONE:  # the list grew old between two pages
                    log.error("cannot list %s: %s", self, error)
                await asyncio.sleep(ABSENT_SECONDS if error.status != GONE else 0)

    async def _list_once(self) -> int:
        seen: set[tuple[str, str]] = set()
        query = {**self._query, "limit": str(PAGE_OF_LARGE if self._kind in LARGE else PAGE)}
        while True:
            page = await self._api.call("GET", path_of(self._kind, self._namespace), query=query)
            self.heard = _now()
            for body in page["items"]:
                self._cache.put(self._kind, body)
                seen.add((body["metadata"]["namespace"], body["metadata"]["name"]))
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                version = int(page["metadata"]["resourceVersion"])
                self._cache.keep(self._kind, self._namespace, seen, version)
                return version

    def _absent(self) -> None:
        self.heard = _now()
        if not self.listed.is_set():
            log.warning("the API server does not know %s; looking again every %d s", self, ABSENT_SECONDS)
        self._cache.lacks(self._kind)
        self._known()

    def _forbidden(self, error: ApiError) -> None:
        """The namespace was deleted, or its Role: its jobs have to wait, and nobody else's."""
        self.heard = _now()
        if self._cache.close(self._kind, self._namespace):
            log.warning("namespace %s is out of reach, its jobs are left alone: %s", self._namespace, error)
        self.listed.set()

    def _known(self) -> None:
        if self._cache.open(self._kind, self._namespace):
            log.info("namespace %s is in reach again", self._namespace)
        self.listed.set()

    # ------------------------------------------------------------ watch
    async def _follow(self, version: int) -> None:
        """From `version` on, over as many connections as it takes, until the API server has forgotten it."""
        waits = _backoff()
        while True:
            seconds = WATCH_SECONDS + random.randrange(60)  # not all at once
            query = {**self._query, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
            try:
                async for event in self._api.stream(
                    path_of(self._kind, self._namespace), {**query, "resourceVersion": str(version)}
                ):
                    self.heard = _now()
                    waits = _backoff()
                    if event["type"] == "ERROR":
                        raise ApiError(GONE, event["object"].get("message", ""))
                    version = self._hear(event["type"], event["object"])
            except ApiUnavailable as error:
                log.info("watch of %s was cut: %s", self, error)
            except ApiError as error:
                log.info("watch of %s starts over: %s", self, error)
                await asyncio.sleep(next(waits))
                return
            await asyncio.sleep(next(waits))

    def _hear(self, what: str, body: Body) -> int:
        version = int(body["metadata"]["resourceVersion"])
        if what == "BOOKMARK":
            self._cache.mark(self._kind, self._namespace, version)
        elif what == "DELETED":
            self._cache.drop(self._kind, body)
        else:
            self._cache.put(self._kind, body)
        return version


def _backoff() -> Iterator[float]:
    """Doubles, with jitter."""
    seconds, most = BACKOFF_SECONDS
    while True:
        yield seconds * random.uniform(0.5, 1.0)
        seconds = min(seconds * 2, most)


def _now() -> float:
    return asyncio.get_running_loop().time()
