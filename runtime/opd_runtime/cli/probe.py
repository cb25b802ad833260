"""`opd probe`: is that server a teacher, and how fast? Asks what training asks before its first step."""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from ..sources import resolve_model
from .models import cache_dir
from .options import Sets, Volumes, load, volumes_of

if TYPE_CHECKING:
    from ..teacher.probe import ProbeReport


def probe(
    target: Annotated[
        str, typer.Argument(metavar="URL|FILE", help="A server's base URL, or an OPDJob that names one.")
    ],
    model: Annotated[Path | None, typer.Option(help="The student's folder: its tokenizer; needed with a URL.")] = None,
    sets: Sets = None,
    volumes: Volumes = None,
) -> None:
    """Probe a teacher: does it answer, do its log-probs mean something, are they repeatable, is the tokenizer ours?

    A key, if it wants one, is read from OPD_TEACHER_API_KEY. Exit 1 when a check fails.
    """
    endpoint, student_path = _places(target, model, sets, volumes)
    from ..rollout.teacher_questions import teacher_questions
    from ..teacher.probe import probe as ask

    questions = teacher_questions(student_path)
    report = asyncio.run(
        ask(
            endpoint,
            probe_ids=questions.probe_ids,
            vocab_size=questions.vocab_size,
            token_probes=questions.token_probes,
            api_key=os.environ.get("OPD_TEACHER_API_KEY", ""),
        )
    )
    _show(report)
    raise typer.Exit(0 if report.passed else 1)


def _places(target: str, model: Path | None, sets: list[str] | None, volumes: list[str] | None) -> tuple[str, Path]:
    """The teacher's URL and the student's folder."""
    if target.startswith(("http://", "https://")):
        if model is None:
            raise typer.BadParameter("a URL says nothing of the student's tokenizer: add --model FOLDER")
        if sets or volumes:
            raise typer.BadParameter("--set and --volume are for an OPDJob, not for a URL")
        return target, model
    job = load(Path(target), sets)
    endpoint = next((t.sglang.endpoint for t in job.spec.teachers if t.mode == "SGLang" and t.sglang.endpoint), "")
    if not endpoint:
        raise UserError(
            "names no running teacher",
            path=f"{target}: spec.teachers[].sglang.endpoint",
            hint="`opd run` starts and probes the teacher by itself; give a URL to probe a server by hand",
        )
    return endpoint, model or resolve_model(job.spec.student.model, volumes_of(volumes), cache_dir())


def _show(report: "ProbeReport") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"teacher at {report.endpoint}", title_justify="left", show_header=False)
    for check in report.checks:
        mark = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[yellow]–[/]"}[check.passed]
        table.add_row(mark, check.name, check.detail + ("" if check.passed is not False else f"  ({check.reason})"))
    if report.latency_seconds:
        table.add_row("", "latency", f"{report.latency_seconds * 1000:.1f} ms")
        table.add_row("", "speed", f"{report.tokens_per_second:,.0f} tokens/s")
        table.add_row("", "mean log-prob", f"{report.mean_logprob:.3f} nats")
    Console().print(table)
    if report.hint:
        Console(stderr=True).print(f"hint: {report.hint}")
