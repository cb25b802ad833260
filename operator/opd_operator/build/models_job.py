"""The Job that reads a job's models once: shapes, tokenizers, and with a model cache their weights."""

from opd_api import names
from opd_api.spec import OPDJob, Resources

from ..objects import Kind, Manifest
from ..settings import Settings
from .child import child
from .places import all_uris
from .pods import PodKind, pod_template
from .resources import MODELS_BYTES, small
from .volumes import JOB_FILE

REPORT_FILE = "/dev/termination-log"
RETRIES = 3


def models_job(job: OPDJob, settings: Settings) -> Manifest:
    """Its pod's termination message is a ModelsReport."""
    command = ["opd", "fetch", JOB_FILE, "--report", REPORT_FILE]
    if not job.spec.model_cache.claim_name:
        command.append("--no-weights")
    kind = PodKind(
        role="models",
        uris=all_uris(job),
        made_first=True,
        resources=small(job, Resources(), MODELS_BYTES),
        container={
            "command": command,
            "terminationMessagePath": REPORT_FILE,
            "terminationMessagePolicy": "File",
        },
        spec={"restartPolicy": "Never"},
    )
    spec = {"backoffLimit": RETRIES, "template": pod_template(job, settings, kind)}
    return child(job, Kind.JOB, names.models_job(job.metadata.name), "models") | {"spec": spec}
