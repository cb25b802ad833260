"""What every pod of a job has, whatever runs in it: volumes, environment, security, size, and the user's podTemplate.

The main container is the first and is named after the pod's role: that is the name a podTemplate merges into.
"""

from dataclasses import dataclass, field
from typing import Any

from opd_api import names
from opd_api.errors import Problem
from opd_api.spec import OPDJob, Pods

from ..objects import Manifest
from ..settings import Settings
from .configmap import short_document
from .environment import Env, common, credentials, fetches, hub
from .merge import merge
from .volumes import JOB_ANNOTATION, volumes

USER_ID = 1000
"""User and group of the runtime image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodKind:
    """What tells one kind of pod from the others."""

    role: str
    uris: list[str]
    """What it reads."""
    resources: dict[str, Any]
    gpus: int = 0
    pods: Pods = field(default_factory=Pods)
    """The user's words."""
    container: dict[str, Any] = field(default_factory=dict)
    """Command, ports, probes."""
    env: Env = field(default_factory=list)
    affinity: dict[str, Any] = field(default_factory=dict)
    attempt: int | None = None
    """Of Ray pods."""
    teacher: str = ""
    """Of teacher pods."""
    api_access: bool = False
    """Has the account's token."""
    made_first: bool = False
    """Before the job's config and account: carries the document as an annotation, runs under the default account."""
    spec: dict[str, Any] = field(default_factory=dict)
    """More of the pod's spec."""


def pod_template(job: OPDJob, settings: Settings, kind: PodKind) -> Manifest:
    """A PodTemplateSpec. The labels by which the operator finds its pods, and the document that a pod carries, stand
    above the user's template."""
    labels = names.labels(job.metadata.name, kind.role, attempt=kind.attempt, teacher=kind.teacher)
    annotations = {JOB_ANNOTATION: short_document(job)} if kind.made_first else {}
    ours = _filled({"labels": labels, "annotations": annotations})
    merged: Manifest = merge({"metadata": ours, "spec": _spec(job, settings, kind)}, kind.pods.pod_template)
    metadata = merged["metadata"]
    return merged | {"metadata": metadata | {key: metadata.get(key, {}) | known for key, known in ours.items()}}


def template_problems(job: OPDJob) -> list[Problem]:
    """Templates that cannot be merged, or that take the main container away; the API server checks everything else."""
    spec = job.spec
    places = [("spec.head", "head", spec.head), ("spec.student.trainers", "trainer", spec.student.trainers)]
    places += [("spec.rollout.engines", "engine", spec.rollout.engines)]
    places += [(f"spec.teachers[{i}].sglang", "teacher", each.sglang) for i, each in enumerate(spec.teachers)]
    return [problem for path, role, pods in places for problem in _problems(f"{path}.podTemplate", role, pods)]


def _problems(path: str, role: str, pods: Pods) -> list[Problem]:
    base = {"metadata": {"labels": {}}, "spec": {"containers": [{"name": role}]}}
    merged = merge(base, pods.pod_template)
    for key in ("metadata", "spec"):
        if not isinstance(merged.get(key), dict):
            return [Problem(path=f"{path}.{key}", message="is no object", hint="write a PodTemplateSpec")]
    for key in ("labels", "annotations"):
        if not isinstance(merged["metadata"].get(key, {}), dict):
            return [Problem(path=f"{path}.metadata.{key}", message="is no object", hint=f"write {key} as name: value")]
    containers = merged["spec"].get("containers")
    first = containers[0] if isinstance(containers, list) and containers else None
    if isinstance(first, dict) and first.get("name") == role:
        return []
    message = f"leaves the pod without its main container `{role}`"
    hint = f"give every container a name; what is meant for the main one stands under name: {role}"
    return [Problem(path=f"{path}.spec.containers", message=message, hint=hint)]


def _spec(job: OPDJob, settings: Settings, kind: PodKind) -> dict[str, Any]:
    online = fetches(job, kind.role, kind.uris)
    found = volumes(job, kind.uris, ray=kind.attempt is not None, fetches=online, annotated=kind.made_first)
    container = {
        "name": kind.role,
        "image": job.spec.image or settings.runtime_image,
        "imagePullPolicy": settings.image_pull_policy,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **kind.container,
        "env": [*common(job, gpus=bool(kind.gpus)), *hub(job, online=online), *kind.env],
        # On the head for hooks and rewards, wherever models and prompts come from.
        "envFrom": credentials(job) if online or kind.role == "head" else [],
        "resources": kind.resources,
        "volumeMounts": found.mounts,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    spec = {
        "serviceAccountName": "" if kind.made_first else names.service_account(job.metadata.name),
        "automountServiceAccountToken": kind.api_access,
        "enableServiceLinks": False,
        "priorityClassName": job.spec.scheduling.priority_class_name,
        "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            # Else the kubelet walks through every file of a model cache at each start.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": kind.affinity,
        **kind.spec,
        "containers": [_filled(container)],
        "volumes": found.volumes,
    }
    return _filled(spec)


def _filled(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what is empty."""
    return {name: value for name, value in fields.items() if value not in ("", [], {})}
