"""Every write to the API server but the Lease: one small door, so that a test can stand in it. Decides nothing."""

from collections.abc import Callable
from enum import StrEnum

from .. import metrics
from ..objects import JobKey, Kind, Manifest
from .api import APPLY, JSON, Api, ApiError, Body, path_of

MANAGER = "opd-operator"
STATUS_MANAGER = "opd-operator-status"


class Verb(StrEnum):
    APPLY = "apply"
    CREATE = "create"
    APPLY_STATUS = "apply_status"
    DELETE = "delete"
    CREATE_EVENT = "create_event"


class NotLeading(Exception):
    """Another operator may be in charge: nothing was written."""


class Writer:
    """`may_write`: asked before every write."""

    def __init__(self, api: Api, may_write: Callable[[], bool]) -> None:
        self._api, self._may_write = api, may_write

    async def apply(self, kind: Kind, manifest: Manifest) -> Body:
        """Server-side apply of a child; what is ours becomes as the manifest says. Its answer."""
        return await self.write(Verb.APPLY, kind, _key(manifest), manifest)

    async def create(self, kind: Kind, manifest: Manifest) -> Body:
        """A child that must not be there yet: ApiError 409 otherwise. Its answer."""
        return await self.write(Verb.CREATE, kind, _key(manifest), manifest)

    async def apply_status(self, kind: Kind, manifest: Manifest) -> Body:
        """All of the status: a field that is left out goes. A resourceVersion in it must be the current one."""
        return await self.write(Verb.APPLY_STATUS, kind, _key(manifest), manifest)

    async def delete(self, kind: Kind, key: JobKey, uid: str | None) -> None:
        """In the background. What is gone, or has another uid by now, is fine."""
        options: Body = {"propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            await self.write(Verb.DELETE, kind, key, options)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    async def create_event(self, key: JobKey, event: Body) -> None:
        """One that was sent before is fine."""
        try:
            await self.write(Verb.CREATE_EVENT, None, key, event)
        except ApiError as error:
            if error.status != 409:
                raise

    async def write(self, verb: Verb, kind: Kind | None, key: JobKey, body: Body) -> Body:
        """The door. `key`: namespace and name of what is written. Raises ApiError, ApiUnavailable, NotLeading."""
        if not self._may_write():
            raise NotLeading(f"{verb} {kind.kind if kind else 'Event'} {key}")
        metrics.writes.labels(verb, kind.kind if kind else "Event").inc()
        match verb, kind:
            case Verb.CREATE_EVENT, _:
                return await self._api.call("POST", f"/api/v1/namespaces/{key.namespace}/events", body=body)
            case Verb.CREATE, Kind():
                query = {"fieldManager": MANAGER, "fieldValidation": "Strict"}
                return await self._api.call("POST", path_of(kind, key.namespace), query=query, body=body)
            case Verb.DELETE, Kind():
                path = path_of(kind, key.namespace, key.name)
                return await self._api.call("DELETE", path, body=body, content_type=JSON)
            case Verb.APPLY_STATUS, Kind():
                return await self._patch(path_of(kind, key.namespace, key.name, "status"), STATUS_MANAGER, body)
            case _, Kind():
                return await self._patch(path_of(kind, key.namespace, key.name), MANAGER, body)
        raise AssertionError(f"{verb} of nothing")

    async def _patch(self, path: str, manager: str, body: Body) -> Body:
        query = {"fieldManager": manager, "force": "true", "fieldValidation": "Strict"}
        return await self._api.call("PATCH", path, query=query, body=body, content_type=APPLY)


def _key(manifest: Manifest) -> JobKey:
    return JobKey(manifest["metadata"]["namespace"], manifest["metadata"]["name"])
