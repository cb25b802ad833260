"""`opd fetch`: brings the models and data of a job to this machine before it is needed, and says where they lie.

In a cluster the models Job runs it with `--report`: what it found, or what the user must change, as one small document.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from opd_api.documents import FieldProblem, ModelsReport
from opd_api.errors import InvalidJob, Problem

from ..errors import UserError
from ..sources import resolve_checkpoint, resolve_model, resolve_prompts
from ..uri import Scheme, parse_uri
from .models import Place, cache_dir, each, places_of, summaries
from .options import Sets, Volumes, load, volumes_of

REPORT_LIMIT_BYTES = 4096
"""What Kubernetes keeps of a container's termination message."""
MOST_PROBLEMS = 32
"""Of a ModelsReport."""


def fetch(
    targets: Annotated[list[str], typer.Argument(metavar="FILE|URI...", help="An OPDJob, or URIs of models and data.")],
    summary: Annotated[
        bool, typer.Option("--summary", help="Print the models' shapes as JSON instead, by role or URI.")
    ] = False,
    weights: Annotated[
        bool,
        typer.Option("--weights/--no-weights", help="Models of the hub: all of them, or config and tokenizer only."),
    ] = True,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Write the models' shapes, or what is wrong with the job, to this file as JSON of at most 4096 bytes."
        ),
    ] = None,
    sets: Sets = None,
    volumes: Volumes = None,
) -> None:
    """Fetch models and data sets into the cache ($OPD_CACHE, default ~/.cache/opd). What is there is not fetched again.

    \b
    opd fetch job.yaml
    opd fetch hf://Qwen/Qwen3-8B hf://datasets/zhuzilin/dapo-math-17k

    pvc:// and file:// are only looked for. With --report, exit 1 without a report means: try again.
    """
    if report is not None and summary:
        raise typer.BadParameter("--report writes the shapes to a file, --summary prints them: give one of the two")
    if report is not None:
        _report(targets, report, weights, sets, volumes)
        return
    places, claims = _places(targets, sets), volumes_of(volumes)
    found = each(places, lambda place: _fetch(place, claims, weights))
    if summary:
        shapes = {
            role: shape.model_dump(mode="json") for role, shape in summaries(places, claims, weights=weights).items()
        }
        typer.echo(json.dumps(shapes, separators=(",", ":")))
        return
    for place, where in zip(places, found, strict=True):
        typer.echo(f"{place.uri} -> {where}" if place.path == place.uri else f"{place.path}: {place.uri} -> {where}")


def _report(targets: list[str], file: Path, weights: bool, sets: list[str] | None, volumes: list[str] | None) -> None:
    """Shapes or problems into `file`; raises what was wrong all the same."""
    try:
        places, claims = _places(targets, sets), volumes_of(volumes)
        each(places, lambda place: _fetch(place, claims, weights))
        document = ModelsReport(models=summaries(places, claims, weights=weights))
    except (InvalidJob, UserError) as error:
        file.write_bytes(problems_report(error))
        raise
    file.write_text(document.model_dump_json())


def problems_report(error: InvalidJob | UserError) -> bytes:
    """A ModelsReport of at most REPORT_LIMIT_BYTES: long texts are cut, then the last problems left out."""
    if isinstance(error, InvalidJob):
        problems = list(error.problems[:MOST_PROBLEMS])
    else:
        problems = [Problem(path=error.path, message=error.message, hint=error.hint)]
    for characters in (1000, 500, 250, 120):
        document = _problems_document(problems, characters)
        if len(document) <= REPORT_LIMIT_BYTES:
            return document
    while len(document) > REPORT_LIMIT_BYTES:
        del problems[-1]
        document = _problems_document(problems, characters)
    return document


def _problems_document(problems: Sequence[Problem], characters: int) -> bytes:
    """At most so many characters of every text."""
    cut = (
        FieldProblem(path=p.path[:characters], message=p.message[:characters], hint=p.hint[:characters])
        for p in problems
    )
    return ModelsReport(problems=tuple(cut)).model_dump_json().encode()


def _places(targets: list[str], sets: list[str] | None) -> list[Place]:
    if "://" in targets[0]:
        if sets:
            raise typer.BadParameter("--set changes an OPDJob; URIs have no fields")
        return [_place(uri) for uri in targets]
    if len(targets) > 1:
        raise typer.BadParameter("give one OPDJob, or URIs")
    return places_of(load(Path(targets[0]), sets))


def _place(uri: str) -> Place:
    """A URI without a job: a checkpoint or model folder, or a data set."""
    data = parse_uri(uri).scheme is Scheme.HF_DATASET or uri.endswith((".jsonl", ".parquet"))
    find = resolve_prompts if data else resolve_checkpoint
    return Place(path=uri, uri=uri, find=find, role="" if data else uri)


def _fetch(place: Place, volumes: Mapping[str, Path], weights: bool) -> str:
    """Where it lies, in words."""
    if place.role and not weights:
        return str(resolve_model(place.uri, volumes, cache_dir(), weights=False))
    found = str(place.find(place.uri, volumes, cache_dir()))
    if not found.startswith("hf://"):
        return found
    from ..rollout.records import load_hub_table

    return f"{load_hub_table(found).num_rows:,} records, in the cache of the datasets library"
