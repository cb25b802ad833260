"""All that reconciling asks of Kubernetes: what is known of a job, and the writes of a plan. Plans nothing."""

import asyncio
import logging
from collections.abc import Awaitable, Iterable
from datetime import datetime

from opd_api.names import LABEL_JOB, LABEL_ROLE
from opd_api.status import Status

from .. import metrics
from ..objects import MANIFEST_DIGEST, EventNote, JobKey, Kind, Manifest, ObjectRef
from ..observed import Observed
from .api import Api, ApiError, ApiUnavailable, path_of
from .cache import Cache
from .events import event_of
from .writer import Writer

log = logging.getLogger(__name__)

KINDS = {(kind.api_version, kind.kind): kind for kind in Kind}
REFUSALS = (400, 403, 404, 422)
"""Answers about what was sent, or who sent it: sending it again will not help."""


OWNED = (Kind.CONFIG_MAP, Kind.JOB, Kind.DEPLOYMENT, Kind.RAY_JOB)
"""Kinds that are looked at before a first write; the other children of a job go with one of these."""


class Kube:
    """Reads from `cache`, but for what a fence has to know for certain."""

    def __init__(self, api: Api, cache: Cache, writer: Writer) -> None:
        self._api, self._cache, self._writer = api, cache, writer

    def observe(self, key: JobKey) -> Observed | None:
        return self._cache.observe(key)

    async def write_status(self, observed: Observed, status: Status) -> str | None:
        """The OPDJob's resource version with this status; None: it has changed meanwhile, and nothing was written."""
        if status == observed.status:
            return observed.resource_version
        name = {"name": observed.name, "namespace": observed.namespace}
        manifest = {
            "apiVersion": Kind.OPD_JOB.api_version,
            "kind": Kind.OPD_JOB.kind,
            "metadata": {**name, "uid": observed.uid, "resourceVersion": observed.resource_version},
            "status": status.model_dump(mode="json", exclude_none=True),
        }
        try:
            body = await self._writer.apply_status(Kind.OPD_JOB, manifest)
        except ApiError as error:
            if error.status in (404, 409):
                return None
            raise
        self._cache.take(Kind.OPD_JOB, body)
        return str(body["metadata"]["resourceVersion"])

    async def send_events(self, observed: Observed, notes: Iterable[EventNote], now: datetime) -> None:
        """One that cannot be sent is no reason to stop."""
        key = JobKey(observed.namespace, observed.name)
        for note in notes:
            if note.reason == "ReportIgnored":
                metrics.ignored_reports.inc()
            try:
                await self._writer.create_event(key, event_of(observed, note, now))
            except (ApiError, ApiUnavailable) as error:
                log.warning("event %s was not sent: %s", note.reason, error, extra={"job": str(key)})

    async def is_clear(self, key: JobKey, resource_version: str) -> bool:
        """Whether the API server itself has the OPDJob in this version, and no RayJob and no Ray pod of it."""
        try:
            job = await self._api.call("GET", path_of(Kind.OPD_JOB, key.namespace, key.name))
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        if job["metadata"]["resourceVersion"] != resource_version:
            return False
        mine = f"{LABEL_JOB}={key.name}"
        selectors = {Kind.RAY_JOB: mine, Kind.POD: f"{mine},{LABEL_ROLE} in (head,trainer,engine)"}
        for kind, selector in selectors.items():
            query = {"labelSelector": selector, "limit": "1"}
            if (await self._api.call("GET", path_of(kind, key.namespace), query=query))["items"]:
                return False
        return True

    async def apply(self, observed: Observed, manifests: Iterable[Manifest]) -> None:
        """Bundle by bundle. A refusal ends it, and is remembered for the next plan to tell."""
        key, manifests, beside = JobKey(observed.namespace, observed.name), list(manifests), list[Manifest]()
        await _all(self._refuse_foreign(key, observed.uid, manifest) for manifest in manifests)
        for manifest in manifests:
            if not _goes_alone(manifest):
                beside.append(manifest)
                continue
            await _all(self._apply(key, observed.uid, each) for each in beside)
            await self._apply(key, observed.uid, manifest)
            beside.clear()
        await _all(self._apply(key, observed.uid, each) for each in beside)
        if manifests:
            self._cache.reject(key, observed.uid, "")

    async def _apply(self, key: JobKey, uid: str, manifest: Manifest) -> None:
        try:
            body = await self._writer.apply(_kind(manifest), manifest)
        except ApiError as error:
            if error.status in REFUSALS:
                self._cache.reject(key, uid, error.message)
            raise
        self._cache.take(_kind(manifest), body)

    async def _refuse_foreign(self, key: JobKey, uid: str, manifest: Manifest) -> None:
        """Server-side apply would silently take over what another job, or somebody, has under a child's name."""
        kind, name = _kind(manifest), manifest["metadata"]["name"]
        if kind not in OWNED or self._cache.uid_of(kind, key, name) is not None:
            return
        query = {"fieldSelector": f"metadata.name={name}"}
        for found in (await self._api.call("GET", path_of(kind, key.namespace), query=query))["items"]:
            owners = [each for each in found["metadata"].get("ownerReferences", ()) if each.get("controller")]
            if uid in (each["uid"] for each in owners):
                continue
            whose = ", ".join(f"{each['kind']} {each['name']}" for each in owners) or "somebody else"
            message = f"{kind.kind} {name} belongs to {whose}; rename the job or its teacher, or delete it"
            self._cache.reject(key, uid, message)
            raise ApiError(409, message)

    async def delete(self, key: JobKey, refs: Iterable[ObjectRef]) -> None:
        for ref in refs:
            uid = self._cache.uid_of(ref.kind, key, ref.name)
            await self._writer.delete(ref.kind, JobKey(key.namespace, ref.name), uid)
            self._cache.taken_away(ref.kind, key, ref.name, uid)

    async def delete_job(self, observed: Observed) -> None:
        await self._writer.delete(Kind.OPD_JOB, JobKey(observed.namespace, observed.name), observed.uid)


def _kind(manifest: Manifest) -> Kind:
    return KINDS[manifest["apiVersion"], manifest["kind"]]


def _goes_alone(manifest: Manifest) -> bool:
    """After all before it: its digest tells that they are there. And a binding is refused while its Role is not."""
    return MANIFEST_DIGEST in manifest["metadata"].get("annotations", ()) or _kind(manifest) is Kind.ROLE


async def _all(work: Iterable[Awaitable[None]]) -> None:
    """Side by side; raises the first that failed, once none is under way any more."""
    ended = await asyncio.gather(*work, return_exceptions=True)
    if failed := next((each for each in ended if isinstance(each, BaseException)), None):
        raise failed
