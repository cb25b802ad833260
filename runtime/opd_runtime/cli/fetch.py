"""`opd fetch`: brings the models and data of a job to this machine before it is needed, and says where they lie."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ..uris import Scheme, parse_uri, resolve_checkpoint, resolve_model, resolve_prompts
from .models import Place, cache_dir, each, places_of, summaries
from .options import Sets, Volumes, load, volumes_of


def fetch(
    targets: Annotated[list[str], typer.Argument(metavar="FILE|URI...", help="An OPDJob, or URIs of models and data.")],
    summary: Annotated[
        bool, typer.Option("--summary", help="Print the models' shapes as JSON instead, by role or URI.")
    ] = False,
    weights: Annotated[
        bool,
        typer.Option("--weights/--no-weights", help="Models of the hub: all of them, or config and tokenizer only."),
    ] = True,
    sets: Sets = None,
    volumes: Volumes = None,
) -> None:
    """Fetch models and data sets into the cache ($OPD_CACHE, default ~/.cache/opd). What is there is not fetched again.

    \b
    opd fetch job.yaml
    opd fetch hf://Qwen/Qwen3-8B hf://datasets/zhuzilin/dapo-math-17k

    pvc:// and file:// are only looked for.
    """
    if "://" in targets[0]:
        places, claims = [_place(uri) for uri in targets], volumes_of(volumes)
    else:
        if len(targets) > 1:
            raise typer.BadParameter("give one OPDJob, or URIs")
        places, claims = places_of(load(Path(targets[0]), sets)), volumes_of(volumes)
    found = each(places, lambda place: _fetch(place, claims, weights))
    if summary:
        shapes = {
            role: shape.model_dump(mode="json") for role, shape in summaries(places, claims, weights=weights).items()
        }
        typer.echo(json.dumps(shapes, separators=(",", ":")))
        return
    for place, where in zip(places, found, strict=True):
        typer.echo(f"{place.uri} -> {where}" if place.path == place.uri else f"{place.path}: {place.uri} -> {where}")


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
