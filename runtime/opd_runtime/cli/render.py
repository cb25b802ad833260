"""`opd render`: a job with every default filled in, and what memory it takes once its models can be read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from opd_api.load import dump_job
from opd_api.memory import GIB, MemoryEstimate, ServerEstimate, TrainerEstimate, estimate
from opd_api.spec import OPDJob

from .models import places_of, summaries
from .options import Sets, Volumes, load, volumes_of


def render(
    file: Annotated[Path, typer.Argument(help="The OPDJob.")],
    sets: Sets = None,
    volumes: Volumes = None,
    models: Annotated[
        bool, typer.Option("--models", help="Read the models (fetching them if need be) and add a memory estimate.")
    ] = False,
    gpu_gib: Annotated[
        float | None,
        typer.Option("--gpu-gib", min=1, help="Memory of a GPU, for the size of KV caches; with --models."),
    ] = None,
) -> None:
    """Print the job with every default filled in; with --models, a memory estimate as YAML comments behind it.

    The output is an OPDJob again: `opd render job.yaml | kubectl apply -f -`.
    """
    if gpu_gib is not None and not models:
        raise typer.BadParameter("--gpu-gib is for the memory estimate: add --models")
    job = load(file, sets)
    typer.echo(dump_job(job), nl=False)
    if models:
        typer.echo("".join(f"# {line}".rstrip() + "\n" for line in _memory(job, volumes, gpu_gib)), nl=False)


def _memory(job: OPDJob, volumes: list[str] | None, gpu_gib: float | None) -> list[str]:
    known = summaries(places_of(job), volumes_of(volumes))
    return memory_table(estimate(job, known, gpu_memory_bytes=int(gpu_gib * GIB) if gpu_gib else None))


def memory_table(plan: MemoryEstimate) -> list[str]:
    """Lines for people; sizes in GiB."""
    rows = [("memory estimate", "GPU GiB", "host GiB"), *_trainer_rows(plan.trainer)]
    for server in (plan.engine, *plan.teachers):
        rows += _server_rows(server)
    width = max(len(what) for what, _, _ in rows)
    return [f"{what:<{width}}  {gpu:>9}  {host:>9}" for what, gpu, host in rows]


def _trainer_rows(trainer: TrainerEstimate) -> Iterator[tuple[str, str, str]]:
    yield "one trainer rank", _gib(trainer.gpu_bytes), _gib(trainer.host_bytes)
    parts = {
        "weights": trainer.student.weights_bytes,
        "gradients": trainer.gradients_bytes,
        "optimizer": trainer.optimizer_bytes,
        "activations": trainer.activations_bytes,
        "logits": trainer.logits_bytes,
    }
    for what, size in parts.items():
        on_host = not trainer.cuda or (what == "optimizer" and trainer.optimizer_on_host)
        yield f"  {what}", "" if on_host else _gib(size), _gib(size) if on_host else ""
    for what, part in (("teacher", trainer.teacher), ("reference", trainer.reference)):
        if part is not None:
            gpu, host = trainer.cuda, part.visits or not trainer.cuda
            note = f"{what}, while it scores" if part.visits else what
            yield f"  {note}", _gib(part.weights_bytes) if gpu else "", _gib(part.weights_bytes) if host else ""


def _server_rows(server: ServerEstimate) -> Iterator[tuple[str, str, str]]:
    name = "one engine GPU" if server.name == "engine" else f"one GPU of teacher {server.name}"
    yield name if server.cuda else name.replace(" GPU", ""), _gib(server.gpu_bytes), _gib(server.host_bytes)
    yield "  weights", *((_gib(server.weights_bytes), "") if server.cuda else ("", _gib(server.weights_bytes)))
    kib = server.kv_bytes_per_token / 1024
    cache = "" if server.cache_tokens is None else f", room for {server.cache_tokens:,} tokens"
    yield f"  KV cache {kib:,.0f} KiB a token{cache}", "", ""


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}" if size else ""
