"""Volumes of a pod and where they are mounted: the job's config, claims, scratch folders. Says nothing about env."""

from dataclasses import dataclass
from typing import Any

from opd_api import names
from opd_api.spec import OPDJob

from .places import claim_of

CONFIG_DIR = "/etc/opd"
JOB_FILE = f"{CONFIG_DIR}/{names.JOB_KEY}"
JOB_ANNOTATION = "opd.dev/job"
"""Of a pod that is made before the job's config."""
VOLUMES_DIR = "/opd/volumes"
HOME_DIR = "/opd/home"
CACHE_DIR = "/opd/cache"
RUN_DIR = "/opd/run"
SCRATCH = {"home": HOME_DIR, "tmp": "/tmp"}
"""The root is read-only: what programs write beside the claims goes into emptyDirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Volumes:
    """`volumes` of a pod and `volumeMounts` of its container."""

    volumes: list[dict[str, Any]]
    mounts: list[dict[str, Any]]


def volumes(job: OPDJob, uris: list[str], *, ray: bool, fetches: bool, annotated: bool) -> Volumes:
    """A Ray pod writes the run's folder, a pod that fetches the model cache; what else a pod reads is read-only.
    An annotated pod reads the job's document from itself."""
    checkpoints, cache = job.spec.checkpoint.claim_name, job.spec.model_cache.claim_name
    scratch = dict(SCRATCH) if cache else SCRATCH | {"cache": CACHE_DIR}
    if ray and not checkpoints:
        scratch |= {"run": RUN_DIR}
    writable = {checkpoints} if ray else set()
    writable |= {cache} if fetches else set()
    claims = sorted(({claim_of(uri) for uri in uris} | writable | {cache}) - {""})
    found = [
        _Volume("config", _document(job, annotated=annotated), CONFIG_DIR, read_only=True),
        _Volume("dshm", {"emptyDir": {"medium": "Memory"}}, "/dev/shm"),
        *(_Volume(name, {"emptyDir": {}}, path) for name, path in scratch.items()),
        *(_claim(i, claim, read_only=claim not in writable) for i, claim in enumerate(claims)),
    ]
    return Volumes(volumes=[each.volume for each in found], mounts=[each.mount for each in found])


def cache_dir(job: OPDJob) -> str:
    claim = job.spec.model_cache.claim_name
    return f"{VOLUMES_DIR}/{claim}/.opd-cache" if claim else CACHE_DIR


def run_dir(job: OPDJob) -> str:
    """One folder a job and life of it: a job of the same name made anew starts anew."""
    claim, uid = job.spec.checkpoint.claim_name, job.metadata.uid or ""
    return f"{VOLUMES_DIR}/{claim}/{job.metadata.name}-{uid[:8]}" if claim else RUN_DIR


@dataclass(frozen=True, slots=True)
class _Volume:
    name: str
    source: dict[str, Any]
    path: str
    read_only: bool = False

    @property
    def volume(self) -> dict[str, Any]:
        return {"name": self.name, **self.source}

    @property
    def mount(self) -> dict[str, Any]:
        mount = {"name": self.name, "mountPath": self.path}
        return mount | {"readOnly": True} if self.read_only else mount


def _document(job: OPDJob, *, annotated: bool) -> dict[str, Any]:
    if not annotated:
        return {"configMap": {"name": names.config(job.metadata.name)}}
    field = {"fieldPath": f"metadata.annotations['{JOB_ANNOTATION}']"}
    return {"downwardAPI": {"items": [{"path": names.JOB_KEY, "fieldRef": field}]}}


def _claim(index: int, claim: str, *, read_only: bool) -> _Volume:
    """A claim's name may be longer than a volume's and may have dots, so volumes are numbered."""
    source = {"persistentVolumeClaim": {"claimName": claim}}
    return _Volume(f"claim-{index}", source, f"{VOLUMES_DIR}/{claim}", read_only)
