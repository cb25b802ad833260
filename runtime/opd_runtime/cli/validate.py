"""`opd validate`: everything that is wrong with a job, at once, before anything starts."""

from pathlib import Path
from typing import Annotated

import typer

from opd_api.errors import InvalidJob
from opd_api.rules import check_models
from opd_api.spec import OPDJob

from .models import places_of, summaries
from .options import Sets, Volumes, load, volumes_of


def validate(
    file: Annotated[Path, typer.Argument(help="The OPDJob.")],
    models: Annotated[
        bool, typer.Option("--models", help="Also read the models (fetching them if need be): do they fit each other?")
    ] = False,
    sets: Sets = None,
    volumes: Volumes = None,
) -> None:
    """Check a job: fields, values, and what may not go together. Prints every problem at once and exits with 1."""
    job = load(file, sets)
    if models:
        problems = check_models(job, summaries(places_of(job), volumes_of(volumes)))
        if problems:
            raise InvalidJob(problems)
    typer.echo(f"{file}: valid: {sentence(job)}")


def sentence(job: OPDJob) -> str:
    """The job in one line: who learns from whom, how, for how long."""
    spec = job.spec
    teachers = " and ".join(
        f"{teacher.name} ({teacher.mode}, {teacher.sglang.endpoint or teacher.model or teacher.megatron.load})"
        for teacher in spec.teachers
    )
    size = f"{spec.rollout.batch_size} x {spec.rollout.samples_per_prompt} samples"
    return (
        f"{job.metadata.name}, {spec.student.model} learns from {teachers}, {spec.steps} steps of {size}, {spec.device}"
    )
