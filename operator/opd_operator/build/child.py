"""What every child of a job has: apiVersion, kind, name, labels, and the job as its owner. Knows no kind's content."""

from opd_api.names import API_VERSION, KIND, labels
from opd_api.spec import OPDJob

from ..objects import Kind, Manifest


def child(job: OPDJob, kind: Kind, name: str, role: str, *, attempt: int | None = None, teacher: str = "") -> Manifest:
    """The head of a manifest; Kubernetes deletes the child with the job."""
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {
            "name": name,
            "namespace": job.metadata.namespace,
            "labels": labels(job.metadata.name, role, attempt=attempt, teacher=teacher),
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": KIND,
                    "name": job.metadata.name,
                    "uid": job.metadata.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
    }
