"""What the watches and our own writes have shown, as facts by job. Asks nobody, decides nothing.

Resource versions order everything the API server says, so an older view never replaces a newer one: the answer to our
own write is as good as the watch event that follows it, and a watch that lags cannot bring an old status back.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from opd_api.documents import DocumentError, parse_models, parse_progress, parse_request

from ..metrics import JobNumbers
from ..objects import JobKey, Kind
from ..observed import (
    ConfigFacts,
    DeploymentFacts,
    MailboxFacts,
    ModelsJobFacts,
    Observed,
    PodFacts,
    RayClusterFacts,
    RayJobFacts,
)
from .api import Body
from .documents import document_text, read_job, read_status, status_text
from .facts import ConfigText, Facts, MailboxText, facts_of, job_key, moment
from .numbers import numbers_of

RAY_KINDS = (Kind.RAY_JOB, Kind.RAY_CLUSTER)
WATCHED = (Kind.OPD_JOB, *RAY_KINDS, Kind.DEPLOYMENT, Kind.JOB, Kind.CONFIG_MAP, Kind.POD)
"""What facts are kept of."""


@dataclass(slots=True, kw_only=True)
class JobRecord:
    """One OPDJob as last seen."""

    uid: str
    version: int
    generation: int
    created: str
    deleting: bool
    document: str
    status: str
    attempt: int | None
    launched: bool
    numbers: JobNumbers
    rejection: str = ""

    @property
    def course(self) -> tuple[object, ...]:
        """What the next step follows from."""
        return self.uid, self.deleting, self.document, self.attempt, self.numbers.phase


@dataclass(slots=True)
class ChildRecord:
    """One child as last seen."""

    uid: str
    version: int
    facts: Facts | None


class Cache:
    """`changed` is called with the key of every job of which something became known that was not known before; `moved`
    instead where nothing of the job waits for it: pods and what counts them went a step on their way, or a status tells
    of such steps."""

    def __init__(
        self,
        namespaces: tuple[str, ...],
        changed: Callable[[JobKey], None],
        moved: Callable[[JobKey], None] | None = None,
    ) -> None:
        self._scoped = bool(namespaces)
        self._changed, self._moved = changed, moved or changed
        self._jobs: dict[JobKey, JobRecord] = {}
        self._children: dict[JobKey, dict[tuple[Kind, str], ChildRecord]] = {}
        self._filed: dict[tuple[Kind, str, str], JobKey] = {}
        """Kind, namespace and name of every child: the job whose label it was last seen with."""
        self._marks: dict[tuple[Kind, str], int] = {}
        self._absent: set[Kind] = set()
        self._closed: dict[str, set[Kind]] = {}
        """Namespaces of which we may not see these kinds."""

    # ------------------------------------------------------------ what watches say
    def put(self, kind: Kind, body: Body) -> None:
        """Exists like this."""
        key, version = job_key(kind, body), _version(body)
        if key is not None:
            self._put_job(key, body, version) if kind is Kind.OPD_JOB else self._put_child(kind, key, body, version)
        self._mark(kind, body["metadata"]["namespace"], version)

    def drop(self, kind: Kind, body: Body) -> None:
        """Is gone."""
        key, version = job_key(kind, body), _version(body)
        self._mark(kind, body["metadata"]["namespace"], version)
        if key is not None:
            self._forget(kind, key, body["metadata"]["name"], version)

    def keep(self, kind: Kind, namespace: str, seen: set[tuple[str, str]], version: int) -> None:
        """A list of `version` had these (namespace, name) and no others: what else was known of then is gone."""
        if kind in self._absent:
            self._absent.discard(kind)
            self._all_changed()
        for key, name in [*self._named(kind)]:
            if (not namespace or key.namespace == namespace) and (key.namespace, name) not in seen:
                self._forget(kind, key, name, version)
        self._marks[kind, namespace] = version

    def mark(self, kind: Kind, namespace: str, version: int) -> None:
        """The watch of `namespace` ("": of all) has told everything up to `version`."""
        self._marks[kind, namespace] = max(version, self._marks.get((kind, namespace), 0))

    def lacks(self, kind: Kind) -> None:
        """The API server does not know the kind."""
        if kind not in self._absent:
            self._absent.add(kind)
            for key, name in [*self._named(kind)]:
                self._forget(kind, key, name, None)
            self._all_changed()

    def close(self, kind: Kind, namespace: str) -> bool:
        """We may not see the kind there. Whether that puts the namespace out of reach: no job of it is acted on while
        one of its kinds is hidden, for "no pods" might be a lie."""
        first = namespace not in self._closed
        self._closed.setdefault(namespace, set()).add(kind)
        return first

    def open(self, kind: Kind, namespace: str) -> bool:
        """The kind is known there. Whether that brings the namespace back."""
        hidden = self._closed.get(namespace, set())
        hidden.discard(kind)
        back = not hidden and self._closed.pop(namespace, None) is not None
        if back:
            self._all_changed()
        return back

    # ------------------------------------------------------------ what our own writes say
    def take(self, kind: Kind, body: Body) -> None:
        """The answer to a write. What the watch has passed already is left to it: the object may be gone since."""
        key, version = job_key(kind, body), _version(body)
        scope = body["metadata"]["namespace"] if self._scoped else ""
        if key is not None and kind in WATCHED and version > self._marks.get((kind, scope), 0):
            self._put_job(key, body, version) if kind is Kind.OPD_JOB else self._put_child(kind, key, body, version)

    def taken_away(self, kind: Kind, key: JobKey, name: str, uid: str | None) -> None:
        """The API server agreed to delete it: it is on its way out until a watch says that it is gone."""
        record = self._children.get(key, {}).get((kind, name))
        if record is None or record.uid != uid:
            return
        if isinstance(record.facts, RayJobFacts | DeploymentFacts | ModelsJobFacts):
            record.facts = replace(record.facts, deleting=True)

    def reject(self, key: JobKey, uid: str, message: str) -> None:
        """What the API server said to one of the job's children; "": all were applied."""
        record = self._jobs.get(key)
        if record is not None and record.uid == uid and record.rejection != message:
            record.rejection = message
            self._changed(key)

    # ------------------------------------------------------------ answers
    def uid_of(self, kind: Kind, key: JobKey, name: str) -> str | None:
        """Of a child that a watch has shown."""
        record = self._children.get(key, {}).get((kind, name))
        return record.uid if record else None

    def observe(self, key: JobKey) -> Observed | None:
        """All that is known of a job; None: there is no such job, or it is out of reach."""
        record = self._jobs.get(key)
        if record is None or key.namespace in self._closed:
            return None
        job, problems = read_job(record.document)
        facts = [child.facts for child in self._children.get(key, {}).values()]
        return Observed(
            namespace=key.namespace,
            name=key.name,
            uid=record.uid,
            generation=record.generation,
            resource_version=str(record.version),
            created=moment(record.created),
            deleting=record.deleting,
            job=job,
            problems=problems,
            status=read_status(record.status),
            kuberay=self._absent.isdisjoint(RAY_KINDS),
            rejection=record.rejection,
            config=next((_config(each) for each in facts if isinstance(each, ConfigText)), None),
            mailbox=next((_mailbox(each) for each in facts if isinstance(each, MailboxText)), None),
            models_job=next((each for each in facts if isinstance(each, ModelsJobFacts)), None),
            rayjobs=_sorted(each for each in facts if isinstance(each, RayJobFacts)),
            rayclusters=_sorted(each for each in facts if isinstance(each, RayClusterFacts)),
            deployments=_sorted(each for each in facts if isinstance(each, DeploymentFacts)),
            pods=_sorted(each for each in facts if isinstance(each, PodFacts)),
        )

    def is_recorded(self, key: JobKey) -> bool:
        """Whether the job's status tells of an attempt."""
        record = self._jobs.get(key)
        return record is not None and record.attempt is not None

    def is_launched(self, key: JobKey) -> bool:
        """Whether the job's status tells of a RayJob."""
        record = self._jobs.get(key)
        return record is not None and record.launched

    def numbers(self) -> list[JobNumbers]:
        """Of every job in reach."""
        return [record.numbers for key, record in self._jobs.items() if key.namespace not in self._closed]

    # ------------------------------------------------------------ records
    def _put_job(self, key: JobKey, body: Body, version: int) -> None:
        old, metadata, status = self._jobs.get(key), body["metadata"], body.get("status") or {}
        if old is not None and old.version >= version:
            return
        record = self._jobs[key] = JobRecord(
            uid=metadata["uid"],
            version=version,
            generation=metadata["generation"],
            created=metadata["creationTimestamp"],
            deleting="deletionTimestamp" in metadata,
            document=document_text(body),
            status=status_text(status),
            attempt=status.get("attempt"),
            launched=bool(status.get("rayJobName")),
            numbers=numbers_of(key, status),
            rejection=old.rejection if old is not None and old.uid == metadata["uid"] else "",
        )
        (self._moved if old is not None and old.course == record.course else self._changed)(key)

    def _put_child(self, kind: Kind, key: JobKey, body: Body, version: int) -> None:
        name = body["metadata"]["name"]
        filed = self._filed.get((kind, key.namespace, name), key)
        old = self._children.get(filed, {}).get((kind, name))
        if old is not None and old.version >= version:
            return
        if filed != key:  # another job's label: a trainer may change its own mailbox's
            self._forget(kind, filed, name, version)
            old = None
        facts, children = facts_of(kind, body), self._children.setdefault(key, {})
        self._filed[kind, key.namespace, name] = key
        children[kind, name] = ChildRecord(body["metadata"]["uid"], version, facts)
        if old is None or old.facts != facts:
            (self._moved if _is_step(kind, facts, new=old is None) else self._changed)(key)

    def _forget(self, kind: Kind, key: JobKey, name: str, version: int | None) -> None:
        """Unless something newer than `version` is known under the name."""
        if kind is Kind.OPD_JOB:
            job = self._jobs.get(key)
            if job is not None and (version is None or job.version <= version):
                del self._jobs[key]
                self._changed(key)
            return
        children = self._children.get(key, {})
        child = children.get((kind, name))
        if child is not None and (version is None or child.version <= version):
            del children[kind, name], self._filed[kind, key.namespace, name]
            if not children:
                del self._children[key]
            self._changed(key)

    def _named(self, kind: Kind) -> Iterator[tuple[JobKey, str]]:
        if kind is Kind.OPD_JOB:
            yield from ((key, key.name) for key in self._jobs)
        for key, children in self._children.items():
            yield from ((key, name) for other, name in children if other is kind)

    def _mark(self, kind: Kind, namespace: str, version: int) -> None:
        self.mark(kind, namespace if self._scoped else "", version)

    def _all_changed(self) -> None:
        for key in [*self._jobs]:
            self._changed(key)


def _is_step(kind: Kind, facts: Facts | None, *, new: bool) -> bool:
    """Nothing of the job waits for it. What the models' pod says is waited for, and so is a RayJob being there."""
    match kind:
        case Kind.POD:
            return not (isinstance(facts, PodFacts) and facts.role == "models")
        case Kind.RAY_JOB:
            return not new
    return kind in (Kind.RAY_CLUSTER, Kind.DEPLOYMENT)


def _version(body: Body) -> int:
    return int(body["metadata"]["resourceVersion"])


def _sorted[F: (RayJobFacts, RayClusterFacts, DeploymentFacts, PodFacts)](facts: Iterable[F]) -> tuple[F, ...]:
    """In the order of their names: the same facts, the same plan."""
    return tuple(sorted(facts, key=lambda each: each.name))


def _config(text: ConfigText) -> ConfigFacts:
    models = parse_models(text.models.encode()) if isinstance(text.models, str) else None
    return ConfigFacts(
        owner_uid=text.owner_uid, digest=text.digest, models=None if isinstance(models, DocumentError) else models
    )


def _mailbox(text: MailboxText) -> MailboxFacts:
    return MailboxFacts(
        owner_uid=text.owner_uid,
        resource_version=text.resource_version,
        progress=parse_progress(text.progress.encode()) if isinstance(text.progress, str) else text.progress,
        request=parse_request(text.request.encode()) if isinstance(text.request, str) else text.request,
    )
