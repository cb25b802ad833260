"""Raw objects -> the small facts of `observed`. Pure: drops what nobody asks for, judges nothing, keeps nothing.

Documents inside objects (the job itself, the mailbox, the models' shapes) stay text here: parsed, a thousand jobs would
take a hundred megabytes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from opd_api import names
from opd_api.documents import PROGRESS_LIMIT_BYTES, DocumentError

from ..objects import DOCUMENT_DIGEST, MANIFEST_DIGEST, JobKey, Kind
from ..observed import DeploymentFacts, ModelsJobFacts, PodFacts, RayClusterFacts, RayJobFacts
from .api import Body

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
LAST_WORDS_CHARACTERS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class MailboxText:
    """ConfigMap `<job>-mailbox`, its documents unread."""

    owner_uid: str
    resource_version: str
    progress: str | DocumentError | None
    request: str | DocumentError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigText:
    """ConfigMap `<job>-config`, its documents unread."""

    owner_uid: str
    digest: str
    models: str | DocumentError | None


type Facts = PodFacts | ModelsJobFacts | RayJobFacts | RayClusterFacts | DeploymentFacts | MailboxText | ConfigText


def job_key(kind: Kind, body: Body) -> JobKey | None:
    """The job an object belongs to, by its label; None: to none of ours."""
    metadata = body["metadata"]
    if kind is Kind.OPD_JOB:
        return JobKey(metadata["namespace"], metadata["name"])
    job = _labels(body).get(names.LABEL_JOB)
    return JobKey(metadata["namespace"], job) if job else None


def facts_of(kind: Kind, body: Body) -> Facts | None:
    """None: an object with our label that says nothing we ask for."""
    match kind:
        case Kind.POD:
            return _pod(body)
        case Kind.RAY_JOB:
            return _rayjob(body)
        case Kind.RAY_CLUSTER:
            return _raycluster(body)
        case Kind.DEPLOYMENT:
            return _deployment(body)
        case Kind.JOB:
            return _models_job(body)
        case Kind.CONFIG_MAP:
            return _config_map(body)
    return None


def moment(text: str) -> datetime:
    """A Kubernetes timestamp, aware."""
    return datetime.fromisoformat(text)


# ---------------------------------------------------------------- pods
def _pod(body: Body) -> PodFacts:
    metadata, spec, status, labels = body["metadata"], body.get("spec", {}), body.get("status", {}), _labels(body)
    main = spec["containers"][0]["name"] if spec.get("containers") else ""
    states = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    own: Body = next((each for each in status.get("containerStatuses", ()) if each["name"] == main), {})
    ended: Body = own.get("state", {}).get("terminated") or own.get("lastState", {}).get("terminated") or {}
    running: Body = own.get("state", {}).get("running") or {}
    waiting: Body = next((each["state"]["waiting"] for each in states if each.get("state", {}).get("waiting")), {})
    conditions = _conditions(body)
    scheduling = conditions.get("PodScheduled", {})
    role, said = labels.get(names.LABEL_ROLE, ""), ended.get("message", "")
    # With any other reason, StartError say, the words are the container runtime's.
    reports = role == "models" and ended.get("reason") in ("Completed", "Error")
    return PodFacts(
        name=metadata["name"],
        role=role,
        attempt=_attempt(body),
        teacher=labels.get(names.LABEL_TEACHER, ""),
        created=moment(metadata["creationTimestamp"]),
        deleting="deletionTimestamp" in metadata,
        deleted=moment(metadata["deletionTimestamp"]) if "deletionTimestamp" in metadata else None,
        phase=status.get("phase", "Pending"),
        ready=conditions.get("Ready", {}).get("status") == "True",
        restarts=own.get("restartCount", 0),
        running_since=moment(running["startedAt"]) if running.get("startedAt") else None,
        scheduled=bool(spec.get("nodeName")),
        unschedulable=scheduling.get("message", "") if scheduling.get("reason") == "Unschedulable" else "",
        waiting_reason=waiting.get("reason", ""),
        waiting_message=waiting.get("message", ""),
        # An evicted pod has no container to tell of.
        terminated_reason=ended.get("reason") or (status.get("reason", "") if status.get("phase") == "Failed" else ""),
        exit_code=ended.get("exitCode"),
        termination_message=said if reports else "",
        last_words="" if reports else _last_line(said),
        node=spec.get("nodeName", ""),
    )


def _last_line(said: str) -> str:
    """Without colours, and no longer than a sentence."""
    lines = [line.strip() for line in _ESCAPES.sub("", said).splitlines()]
    return next((line for line in reversed(lines) if line), "")[:LAST_WORDS_CHARACTERS]


# ---------------------------------------------------------------- KubeRay
def _rayjob(body: Body) -> RayJobFacts | None:
    metadata, status, attempt = body["metadata"], body.get("status", {}), _attempt(body)
    if attempt is None:
        return None
    return RayJobFacts(
        name=metadata["name"],
        owner_uid=_owner(body),
        attempt=attempt,
        document=_annotation(body, DOCUMENT_DIGEST),
        job_status=status.get("jobStatus", ""),
        deployment_status=status.get("jobDeploymentStatus", ""),
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        cluster_name=status.get("rayClusterName", ""),
        dashboard_url=status.get("dashboardURL", ""),
        suspended=bool(body.get("spec", {}).get("suspend")),
        deleting="deletionTimestamp" in metadata,
    )


def _raycluster(body: Body) -> RayClusterFacts | None:
    metadata, status, attempt = body["metadata"], body.get("status", {}), _attempt(body)
    if attempt is None:
        return None
    conditions = _conditions(body)
    return RayClusterFacts(
        name=metadata["name"],
        attempt=attempt,
        head_ready=conditions.get("HeadPodReady", {}).get("status") == "True",
        desired_workers=status.get("desiredWorkerReplicas", 0),
        ready_workers=status.get("readyWorkerReplicas", 0),
        replica_failure=_message_while_true(conditions.get("ReplicaFailure", {})),
        deleting="deletionTimestamp" in metadata,
    )


# ---------------------------------------------------------------- Kubernetes' own
def _deployment(body: Body) -> DeploymentFacts | None:
    metadata, status, teacher = body["metadata"], body.get("status", {}), _labels(body).get(names.LABEL_TEACHER)
    if not teacher:
        return None
    return DeploymentFacts(
        name=metadata["name"],
        owner_uid=_owner(body),
        teacher=teacher,
        digest=_digest(body),
        replicas=body.get("spec", {}).get("replicas", 0),
        ready_replicas=status.get("readyReplicas", 0),
        failure=_message_while_true(_conditions(body).get("ReplicaFailure", {})),
        deleting="deletionTimestamp" in metadata,
    )


def _models_job(body: Body) -> ModelsJobFacts | None:
    metadata = body["metadata"]
    if metadata["name"] != names.models_job(_labels(body)[names.LABEL_JOB]):
        return None
    conditions = _conditions(body)
    failed, suspended = conditions.get("Failed", {}), conditions.get("Suspended", {})
    return ModelsJobFacts(
        owner_uid=_owner(body),
        document=_annotation(body, DOCUMENT_DIGEST),
        created=moment(metadata["creationTimestamp"]),
        suspended=bool(body.get("spec", {}).get("suspend")),
        resumed=moment(suspended["lastTransitionTime"]) if suspended.get("status") == "False" else None,
        succeeded=conditions.get("Complete", {}).get("status") == "True",
        failed=(failed.get("message") or failed.get("reason", "")) if failed.get("status") == "True" else "",
        deleting="deletionTimestamp" in metadata,
    )


def _config_map(body: Body) -> MailboxText | ConfigText | None:
    metadata, data, job = body["metadata"], body.get("data") or {}, _labels(body)[names.LABEL_JOB]
    if metadata["name"] == names.mailbox(job):
        return MailboxText(
            owner_uid=_owner(body),
            resource_version=metadata["resourceVersion"],
            progress=_document(data.get(names.PROGRESS_KEY)),
            request=_document(data.get(names.REQUEST_KEY) or None),
        )
    if metadata["name"] == names.config(job):
        return ConfigText(owner_uid=_owner(body), digest=_digest(body), models=_document(data.get(names.MODELS_KEY)))
    return None


def _document(text: str | None) -> str | DocumentError | None:
    """What is too large is not even kept."""
    if text is None or len(text) <= PROGRESS_LIMIT_BYTES:
        return text
    message = f"{len(text)} characters; at most {PROGRESS_LIMIT_BYTES} bytes are read"
    return DocumentError(reason="TooLarge", message=message)


# ---------------------------------------------------------------- parts
def _labels(body: Body) -> Body:
    return body["metadata"].get("labels") or {}


def _attempt(body: Body) -> int | None:
    label = str(_labels(body).get(names.LABEL_ATTEMPT, ""))
    return int(label) if label.isdecimal() else None


def _owner(body: Body) -> str:
    """Of the controller; "" when nobody owns it."""
    owners: Iterator[Body] = (each for each in body["metadata"].get("ownerReferences", ()) if each.get("controller"))
    return str(next(owners, {}).get("uid", ""))


def _digest(body: Body) -> str:
    return _annotation(body, MANIFEST_DIGEST)


def _annotation(body: Body, name: str) -> str:
    return str((body["metadata"].get("annotations") or {}).get(name, ""))


def _conditions(body: Body) -> dict[str, Body]:
    return {each["type"]: each for each in body.get("status", {}).get("conditions") or ()}


def _message_while_true(condition: Body) -> str:
    if condition.get("status") != "True":
        return ""
    return str(condition.get("message") or condition.get("reason", ""))
