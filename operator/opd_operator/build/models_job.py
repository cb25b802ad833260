"""The Job that reads a job's models once: shapes, tokenizers, and with a model cache their weights."""

from typing import Any

from opd_api import names
from opd_api.spec import OPDJob, Pods

from ..objects import Kind, Manifest
from ..settings import Settings
from .child import child
from .digest import of_document
from .places import all_uris
from .pods import PodKind, pod_template
from .resources import MODELS_BYTES, small
from .volumes import JOB_FILE

REPORT_FILE = "/dev/termination-log"
RETRIES = 3
HEADS_OWN = {"containers", "initContainers", "volumes", "restartPolicy", "$patch"}
"""What a podTemplate of the head says about the head alone, and a directive that would take out what is ours; all else
of it is about where and as whom a pod runs."""


def models_job(job: OPDJob, settings: Settings) -> Manifest:
    """Its pod's termination message is a ModelsReport. It is shaped like the head, which needs no GPU either."""
    command = ["opd", "fetch", JOB_FILE, "--report", REPORT_FILE]
    if not job.spec.model_cache.claim_name:
        command.append("--no-weights")
    kind = PodKind(
        role="models",
        uris=all_uris(job),
        made_first=True,
        resources=small(job, job.spec.head.resources, MODELS_BYTES),
        pods=Pods(pod_template=_shape(job.spec.head.pod_template)),
        container={
            "command": command,
            "terminationMessagePath": REPORT_FILE,
            "terminationMessagePolicy": "File",
        },
        spec={"restartPolicy": "Never"},
    )
    spec = {"backoffLimit": RETRIES, "template": pod_template(job, settings, kind)}
    manifest = child(job, Kind.JOB, names.models_job(job.metadata.name), "models")
    return of_document(manifest | {"spec": spec}, job)


def _shape(template: dict[str, Any]) -> dict[str, Any]:
    """Its pod-level fields."""
    parts = {part: template.get(part, {}) for part in ("metadata", "spec")}
    return {part: {key: each for key, each in fields.items() if key not in HEADS_OWN} for part, fields in parts.items()}
