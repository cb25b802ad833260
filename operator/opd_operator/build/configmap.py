"""The two ConfigMaps of a job: what the runtime reads (config), and what both write (mailbox). Parses nothing."""

from opd_api import names
from opd_api.documents import ModelsReport, Request
from opd_api.load import dump_job
from opd_api.spec import Metadata, OPDJob

from ..objects import Kind, Manifest
from .child import child
from .digest import digest


def config(job: OPDJob, models: ModelsReport | None) -> Manifest:
    """`opdjob.yaml` with every default filled in, and `models.json`, what the models Job has told (None: forgotten)."""
    data = {names.JOB_KEY: dump_job(_as_run(job))}
    if models is not None:
        data[names.MODELS_KEY] = models.model_dump_json()
    return child(job, Kind.CONFIG_MAP, names.config(job.metadata.name), "config") | {"data": data}


def config_digest(job: OPDJob, models: ModelsReport | None) -> str:
    """Of what `config` says, without writing the YAML: asked in every pass, and a hundred times as fast."""
    return digest([_as_run(job).model_dump_json(exclude={"status"}), models and models.model_dump_json()])


def mailbox(job: OPDJob, request: Request | None) -> Manifest:
    """The operator's part of it. No request is an empty one: a key left out would leave one that somebody else put
    there. `progress.json` is the runtime's own."""
    said = "" if request is None else request.model_dump_json()
    manifest = child(job, Kind.CONFIG_MAP, names.mailbox(job.metadata.name), "mailbox")
    return manifest | {"data": {names.REQUEST_KEY: said}}


def short_document(job: OPDJob) -> str:
    """What the user asked for without the defaults, to read as the config's `opdjob.yaml` (JSON is YAML)."""
    return _as_run(job).model_dump_json(exclude_defaults=True, exclude={"status"})


def _as_run(job: OPDJob) -> OPDJob:
    """Without what Kubernetes keeps about the object, and as a running job: a pause must not change the config."""
    known = job.metadata
    metadata = Metadata(name=known.name, namespace=known.namespace, uid=known.uid)
    return job.model_copy(update={"metadata": metadata, "spec": job.spec.model_copy(update={"suspend": False})})
