"""All that reconciling asks of Kubernetes: what is known of a job, and the writes of a plan. Plans nothing."""

import asyncio
import logging
from collections.abc import Awaitable, Iterable
from datetime import datetime
from typing import cast

from opd_api import names
from opd_api.names import LABEL_JOB, LABEL_ROLE
from opd_api.status import Status

from .. import metrics
from ..objects import MANIFEST_DIGEST, EventNote, JobKey, Kind, Manifest, ObjectRef
from ..observed import Observed
from .api import MERGE, AdmissionUnavailable, Api, ApiError, ApiUnavailable, Body, path_of
from .cache import Cache
from .events import event_of
from .writer import Writer

log = logging.getLogger(__name__)

KINDS = {(kind.api_version, kind.kind): kind for kind in Kind}
REFUSALS = (400, 403, 404, 422)
"""Answers about what was sent, or who sent it: sending it again will not help."""


MADE_ONCE = (Kind.JOB, Kind.RAY_JOB, Kind.SECRET)
"""Kinds that are created and never changed: cheaper than an apply, and the API server itself sees that no other has the
name."""
MARKS = (Kind.CONFIG_MAP, Kind.DEPLOYMENT)
"""Kinds that are looked at before a first apply, which would take over what somebody else has under the name. Every
bundle has one, and they are watched: while it is known, the others of its bundle, which no watch shows, are ours."""


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
        mine = f"{LABEL_JOB}={key.name}"
        of_rays = f"{mine},{LABEL_ROLE} in (head,trainer,engine)"
        job, *left = await asyncio.gather(
            self._named(Kind.OPD_JOB, key, key.name),
            self._list(Kind.RAY_JOB, key, labelSelector=mine, limit="1"),
            self._list(Kind.POD, key, labelSelector=of_rays, limit="1"),
        )
        return job is not None and job["metadata"]["resourceVersion"] == resource_version and not any(left)

    async def apply(self, observed: Observed, manifests: Iterable[Manifest]) -> None:
        """Bundle by bundle. A refusal ends it, and is remembered for the next plan to tell."""
        key, manifests, beside = JobKey(observed.namespace, observed.name), list(manifests), list[Manifest]()
        is_new = await self._refuse_foreign(key, observed.uid, manifests)
        for manifest in manifests:
            if not _goes_alone(manifest):
                beside.append(manifest)
                continue
            await self._apply_beside(key, observed.uid, beside, is_new=is_new)
            await self._apply(key, observed.uid, manifest, is_new=is_new)
            beside.clear()
        await self._apply_beside(key, observed.uid, beside, is_new=is_new)
        if manifests:
            self._cache.reject(key, observed.uid, "")

    async def _apply_beside(self, key: JobKey, uid: str, manifests: list[Manifest], *, is_new: bool) -> None:
        """Marks last: once one is there, what comes with it counts as ours."""
        last = [each for each in manifests if not is_new or _kind(each) in MARKS]
        await _all(self._apply(key, uid, each, is_new=is_new) for each in manifests if each not in last)
        await _all(self._apply(key, uid, each, is_new=is_new) for each in last)

    async def _apply(self, key: JobKey, uid: str, manifest: Manifest, *, is_new: bool) -> None:
        kind = _kind(manifest)
        creates = kind in MADE_ONCE or (is_new and kind not in MARKS)
        try:
            body = await (self._create(key, uid, manifest) if creates else self._writer.apply(kind, manifest))
        except ApiError as error:
            if error.status in REFUSALS:
                self._cache.reject(key, uid, error.message)
            raise
        except AdmissionUnavailable as error:
            self._cache.reject(key, uid, error.message)
            raise
        self._cache.take(kind, body)

    async def _create(self, key: JobKey, uid: str, manifest: Manifest) -> Body:
        """One of ours that is there already, and the cache did not know it, is fine, and made as it should be. A full
        quota refuses one more (403) before the API server sees that it is none."""
        kind = _kind(manifest)
        try:
            return await self._writer.create(kind, manifest)
        except ApiError as error:
            found = await self._named(kind, key, manifest["metadata"]["name"]) if error.status in (403, 409) else None
            if found is None:
                raise
        self._refuse_stranger(key, uid, kind, found)
        return found if kind in MADE_ONCE else await self._writer.apply(kind, manifest)

    async def _refuse_foreign(self, key: JobKey, uid: str, manifests: Iterable[Manifest]) -> bool:
        """Whether a mark is unknown, so that what comes with it may be new."""
        unknown = [each for each in _marks(key, manifests) if self._cache.uid_of(each[0], key, each[1]) is None]
        found = await _all(self._named(kind, key, name) for kind, name in unknown)
        for (kind, _), body in zip(unknown, found, strict=True):
            if body is not None:
                self._refuse_stranger(key, uid, kind, body)
        return bool(unknown)

    def _refuse_stranger(self, key: JobKey, uid: str, kind: Kind, found: Body) -> None:
        owners = [each for each in found["metadata"].get("ownerReferences", ()) if each.get("controller")]
        if uid in (each["uid"] for each in owners):
            return
        whose = ", ".join(f"{each['kind']} {each['name']}" for each in owners) or "somebody else"
        name = found["metadata"]["name"]
        message = f"{kind.kind} {name} belongs to {whose}; rename the job or its teacher, or delete it"
        self._cache.reject(key, uid, message)
        raise ApiError(409, message)

    async def _named(self, kind: Kind, key: JobKey, name: str) -> Body | None:
        """As the API server itself has it. A Secret, which nobody may read here, shows itself to who may patch it."""
        path, nothing = path_of(kind, key.namespace, name), {"dryRun": "All"}
        try:
            if kind is Kind.SECRET:
                return await self._api.call("PATCH", path, query=nothing, body={}, content_type=MERGE)
            return await self._api.call("GET", path)
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    async def _list(self, kind: Kind, key: JobKey, **query: str) -> list[Body]:
        items: list[Body] = (await self._api.call("GET", path_of(kind, key.namespace), query=query))["items"]
        return items

    async def delete(self, key: JobKey, refs: Iterable[ObjectRef]) -> None:
        for ref in refs:
            uid = self._cache.uid_of(ref.kind, key, ref.name)
            await self._writer.delete(ref.kind, JobKey(key.namespace, ref.name), uid)
            self._cache.taken_away(ref.kind, key, ref.name, uid)

    async def delete_job(self, observed: Observed) -> None:
        await self._writer.delete(Kind.OPD_JOB, JobKey(observed.namespace, observed.name), observed.uid)


def _kind(manifest: Manifest) -> Kind:
    return KINDS[manifest["apiVersion"], manifest["kind"]]


def _marks(key: JobKey, manifests: Iterable[Manifest]) -> list[tuple[Kind, str]]:
    """With the models Job those that come after it: nobody should wait for models to hear that a name is taken."""
    needed = {(_kind(each), each["metadata"]["name"]) for each in manifests}
    if (Kind.JOB, names.models_job(key.name)) in needed:
        needed |= {(Kind.CONFIG_MAP, names.config(key.name)), (Kind.CONFIG_MAP, names.mailbox(key.name))}
    return [(kind, name) for kind, name in needed if kind in MARKS]


def _goes_alone(manifest: Manifest) -> bool:
    """After all before it: its digest tells that they are there. And a binding is refused while its Role is not."""
    return MANIFEST_DIGEST in manifest["metadata"].get("annotations", ()) or _kind(manifest) is Kind.ROLE


async def _all[T](work: Iterable[Awaitable[T]]) -> list[T]:
    """Side by side; raises the first that failed, once none is under way any more."""
    ended = await asyncio.gather(*work, return_exceptions=True)
    if failed := next((each for each in ended if isinstance(each, BaseException)), None):
        raise failed
    return cast(list[T], ended)
