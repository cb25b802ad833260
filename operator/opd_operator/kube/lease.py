"""Leadership by a coordination.k8s.io Lease, with Kubernetes' own times: 15 s / 10 s / 2 s. Does no other work.

A leader that has not renewed for 10 s stands down, and a standby waits for 15 s in which nothing changed, by its own
clock: whatever a clock on the wall says, there are never two. The client library's election knows neither: it compares
clocks of two machines, and a request that hangs for minutes keeps its leader in office.
"""

import asyncio
import logging
import secrets
import socket
from datetime import UTC, datetime

from .api import Api, ApiError, ApiUnavailable, Body

log = logging.getLogger(__name__)

DURATION_SECONDS = 15
RENEW_DEADLINE_SECONDS = 10.0
RETRY_SECONDS = 2.0
REQUEST_SECONDS = 5.0


class Lease:
    """One candidate. `acquire`, then `hold` until it returns, then `acquire` again."""

    def __init__(self, api: Api, namespace: str, name: str, identity: str = "") -> None:
        self._api = api
        self._folder = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._named = {"name": name, "namespace": namespace}
        self.identity = identity or f"{socket.gethostname()}_{secrets.token_hex(4)}"
        self._body: Body | None = None
        """As last seen or written."""
        self._unchanged_since = 0.0
        self._renewed: float | None = None
        self._doubtful = False
        """Somebody else has written the Lease: look before the next write."""
        self.tried = _now()
        """When a candidate or leader last tried anything: its pulse."""
        self._complaint = ""
        self.answered = False
        """Whether the API server has let us read or write the Lease."""

    @property
    def leads(self) -> bool:
        """Whether nobody else can have taken over yet."""
        return self._renewed is not None and _now() - self._renewed < RENEW_DEADLINE_SECONDS

    async def acquire(self) -> None:
        """Returns as the leader."""
        while not await self._try():
            await asyncio.sleep(RETRY_SECONDS)
        log.info("leader: %s", self.identity)

    async def hold(self) -> None:
        """Returns when leadership is lost."""
        while self.leads:
            await asyncio.sleep(RETRY_SECONDS)
            await self._try()
        log.warning("leadership lost: the Lease was not renewed for %d s", RENEW_DEADLINE_SECONDS)
        self._renewed = None

    async def release(self) -> None:
        """Lets a standby take over at once."""
        leads, self._renewed = self.leads, None
        if leads and self._body is not None:
            spec = {**self._body["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
            await self._put({**self._body, "spec": spec})

    async def _try(self) -> bool:
        """One look, and one write when the Lease is ours to take. Whether we lead."""
        self.tried = begun = _now()
        try:
            if self._doubtful or not self.leads:
                await self._look()
            if self._is_mine_to_take() and await self._put(self._taken()):
                self._renewed = begun
            self._complaint, self.answered = "", True
        except (ApiError, ApiUnavailable) as error:
            if str(error) != self._complaint:
                log.warning("Lease %s/%s: %s", self._named["namespace"], self._named["name"], error)
            self._complaint, self.answered = str(error), False
        return self.leads

    async def _look(self) -> None:
        try:
            seen: Body | None = await self._api.call("GET", self._path, seconds=REQUEST_SECONDS)
        except ApiError as error:
            if error.status != 404:
                raise
            seen = None
        if _version(seen) != _version(self._body) or self._unchanged_since == 0.0:
            self._unchanged_since = _now()
        self._body, self._doubtful = seen, False

    def _is_mine_to_take(self) -> bool:
        holder = self._body["spec"].get("holderIdentity") if self._body else ""
        if not holder or holder == self.identity:
            return True
        self._renewed = None
        return _now() - self._unchanged_since >= DURATION_SECONDS

    def _taken(self) -> Body:
        old: Body = self._body["spec"] if self._body else {}
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        mine = old.get("holderIdentity") == self.identity
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": DURATION_SECONDS,
            "acquireTime": old["acquireTime"] if mine else now,
            "renewTime": now,
            "leaseTransitions": old.get("leaseTransitions", 0) + (0 if mine or not old else 1),
        }
        new = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": self._named}
        return {**(self._body or new), "spec": spec}

    async def _put(self, body: Body) -> bool:
        """False: somebody was faster, or it was deleted."""
        method, path = ("PUT", self._path) if self._body else ("POST", self._folder)
        try:
            self._body = await self._api.call(method, path, body=body, seconds=REQUEST_SECONDS)
            return True
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            self._doubtful = True
            return False

    @property
    def _path(self) -> str:
        return f"{self._folder}/{self._named['name']}"


def _version(body: Body | None) -> str:
    return str(body["metadata"]["resourceVersion"]) if body else ""


def _now() -> float:
    return asyncio.get_running_loop().time()
