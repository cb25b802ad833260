"""`opd train`: the driver of one attempt, on the head of the job's Ray cluster. Pods run it, people run `opd run`."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from opd_api.documents import Progress
from opd_api.errors import InvalidJob
from opd_api.load import read_document
from opd_api.spec import OPDJob

from ..errors import UserError
from ..report.mailbox import SERVICE_ACCOUNT, Mailbox, mailbox_url
from .models import cache_dir
from .options import job_of

STOPPED = 3


def train(
    file: Annotated[Path, typer.Argument(help="The OPDJob with its uid, every default filled in.")],
    attempt: Annotated[int, typer.Option(min=1, help="Number of this attempt.")],
    service_account: Annotated[
        Path, typer.Option(help="Folder with token and ca.crt of an account that may get and patch the mailbox.")
    ] = SERVICE_ACCOUNT,
) -> None:
    """Make one attempt at a job in the Ray cluster around it, from its newest checkpoint, and report to its mailbox.

    Exit 0: complete. 1: failed, the report in the mailbox says why. 3: stopped on request or by SIGTERM, after a
    checkpoint. The operator runs it in a pod where OPD_RUN_DIR is the run's folder and OPD_VOLUMES that of the claims.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    document = read_document(file.read_text(encoding="utf-8"), source=str(file))
    mailbox = _mailbox(document, attempt, service_account)
    job = _job(document, attempt, mailbox)
    from ..orchestrate.cluster import train_attempt
    from ..orchestrate.resolve import Places

    places = Places(run_dir=_run_dir(), volumes={}, cache_dir=cache_dir(), in_cluster=True)
    try:
        completed = train_attempt(job, file, places, attempt=attempt, mailbox=mailbox)
    except (asyncio.CancelledError, KeyboardInterrupt):  # before training began
        completed = False
    raise typer.Exit(0 if completed else STOPPED)


def _mailbox(document: dict[str, Any], attempt: int, service_account: Path) -> Mailbox:
    """By the name in the document, which may be wrong everywhere else."""
    metadata = document.get("metadata")
    name, namespace = (metadata or {}).get("name"), (metadata or {}).get("namespace")
    if not isinstance(name, str) or not isinstance(namespace, str):
        raise UserError("names no job and namespace", path="metadata", hint="the operator writes both into the file")
    return Mailbox(mailbox_url(namespace, name), attempt=attempt, service_account=service_account)


def _job(document: dict[str, Any], attempt: int, mailbox: Mailbox) -> OPDJob:
    """A document this version cannot read is reported too: an image may be older than the operator."""
    from ..report.metrics import now
    from ..report.reporter import error_report

    try:
        return job_of(document, None)
    except InvalidJob as error:
        report = error_report(error)
        mailbox.put(Progress(attempt=attempt, phase="Failed", step=0, total_steps=0, time=now(), error=report))
        mailbox.close()
        raise


def _run_dir() -> Path:
    folder = os.environ.get("OPD_RUN_DIR")
    if not folder:
        raise UserError("OPD_RUN_DIR is not set", hint="it names the run's folder; the operator sets it in its pods")
    return Path(folder).absolute()
