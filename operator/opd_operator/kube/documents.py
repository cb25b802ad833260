"""Text of an OPDJob -> job, problems and status as the plan reads them. Never raises."""

import json
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from opd_api.errors import InvalidJob, Problem
from opd_api.load import job_from_document
from opd_api.spec import OPDJob
from opd_api.status import Status

from .api import Body

_METADATA = ("name", "namespace", "uid", "generation")


def document_text(body: Body) -> str:
    """The job without what others keep in it and without its status: changes exactly when the user changes it."""
    metadata = {key: body["metadata"][key] for key in _METADATA if key in body["metadata"]}
    kept = {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": metadata, "spec": body.get("spec", {})}
    return json.dumps(kept, separators=(",", ":"))


@lru_cache(maxsize=128)
def read_job(text: str) -> tuple[OPDJob | None, tuple[Problem, ...]]:
    """The job, or why it is none. The newest are remembered: a job that trains is read every few seconds."""
    try:
        return job_from_document(json.loads(text)), ()
    except InvalidJob as error:
        return None, error.problems


def read_status(text: str) -> Status:
    """Of another version, or edited by hand: what can be read of it. A typo must not lose the attempt's number."""
    document = json.loads(text)
    while document:
        try:
            return Status.model_validate_json(json.dumps(document), by_alias=True, by_name=False)
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_input=False):
                document.pop(detail["loc"][0], None)
    return Status()


def status_text(status: Any) -> str:
    """As stored beside the job's text."""
    return json.dumps(status or {}, separators=(",", ":"))
