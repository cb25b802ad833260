"""Options that several verbs share, and how they become a job and its volumes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from opd_api.errors import InvalidJob, Problem
from opd_api.load import job_from_document, read_document, set_path
from opd_api.spec import OPDJob

from ..errors import UserError

Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="Change a field: --set steps=20 --set optimizer.lr=1e-4. Repeatable."
    ),
]
Volumes = Annotated[
    list[str] | None,
    typer.Option(
        "--volume", metavar="CLAIM=DIR", help="Where pvc://CLAIM lies on this machine; default runs/volumes/CLAIM."
    ),
]


def load(file: Path, sets: list[str] | None) -> OPDJob:
    """The job in `file` with `--set` applied; raises InvalidJob with all problems at once, UserError without a file."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidJob([Problem(path=str(file), message="is not UTF-8 text")]) from error
    except OSError as error:
        raise UserError(error.strerror or str(error), path=str(file), hint="name the file of an OPDJob") from error
    return job_of(read_document(text, source=str(file)), sets)


def job_of(document: dict[str, Any], sets: list[str] | None) -> OPDJob:
    """The job in `document` with `--set` applied; raises InvalidJob with all problems at once."""
    problems: list[Problem] = []
    for assignment in sets or []:
        try:
            set_path(document, assignment)
        except InvalidJob as error:
            problems += error.problems
    if problems:
        raise InvalidJob(problems)
    return job_from_document(document)


def volumes_of(assignments: list[str] | None) -> dict[str, Path]:
    volumes = {}
    for assignment in assignments or []:
        claim, separator, folder = assignment.partition("=")
        if not (claim and separator and folder):
            raise typer.BadParameter(f"--volume {assignment!r}: expected CLAIM=DIR")
        volumes[claim] = Path(folder).absolute()
    return volumes
