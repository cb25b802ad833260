"""`opd get`: the columns of `kubectl get opdjobs -o wide` for runs on this machine, from their progress.json."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from opd_api.columns import columns
from opd_api.documents import DocumentError, parse_progress

from ..errors import UserError
from ..report.progress import FILE_NAME as PROGRESS_FILE
from ..report.progress import JOB_FILE

HEADINGS = (
    "NAME",
    "PHASE",
    "STEP",
    "KL",
    "REWARD",
    "TEACHER",
    "AGE",
    "TREND",
    "PASS@1",
    "ATTEMPT",
    "CHECKPOINT",
    "RAYCLUSTER",
)
MISSING = "<none>"
ENDED = ("Stopped", "Succeeded", "Failed")
POLL_SECONDS = 1.0


def get(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run folders, or a folder of them.", show_default="runs")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Print a run again when it changes, until all have ended.")
    ] = False,
) -> None:
    """Where runs stand: phase, step, reverse KL, reward, teacher, trend, pass@1, newest checkpoint."""
    folders = find_runs(runs or [Path("runs")])
    rows = {folder: row_of(folder, time.time()) for folder in folders}
    typer.echo(table([HEADINGS, *rows.values()]))
    if watch:
        follow(rows)


def find_runs(places: Sequence[Path]) -> list[Path]:
    """Run folders among `places` and directly below them; raises UserError for a place without one."""
    found: list[Path] = []
    for place in places:
        if (place / PROGRESS_FILE).exists():
            below = [place]
        else:
            below = sorted(path.parent for path in place.glob(f"*/{PROGRESS_FILE}"))
        if not below:
            raise UserError(f"there is no {PROGRESS_FILE} in it or below", path=str(place), hint="give a run's folder")
        found.extend(below)
    return found


def follow(rows: dict[Path, tuple[str, ...]], sleep: Callable[[float], None] = time.sleep) -> None:
    """Prints every row whose run has moved on; `rows` are those already printed."""
    age = HEADINGS.index("AGE")
    while any(row[1] not in ENDED for row in rows.values()):
        sleep(POLL_SECONDS)
        for folder, before in rows.items():
            row = row_of(folder, time.time())
            if row[:age] + row[age + 1 :] != before[:age] + before[age + 1 :]:
                rows[folder] = row
                typer.echo(table([HEADINGS, *rows.values(), row]).splitlines()[-1])


def row_of(folder: Path, now_seconds: float) -> tuple[str, ...]:
    """The cells of one run, in the order of HEADINGS."""
    path = folder / PROGRESS_FILE
    progress = parse_progress(path.read_bytes())
    if isinstance(progress, DocumentError):
        raise UserError(f"is no progress document: {progress.message}", path=str(path), hint="delete it or run again")
    shown, job = columns(progress), folder / JOB_FILE
    cells = (
        progress.phase,
        shown.step,
        shown.kl,
        shown.reward,
        shown.teacher,
        age_text(now_seconds - (job if job.exists() else path).stat().st_mtime),
        progress.trend,
        shown.pass_at_1,
        str(progress.attempt),
        str(progress.checkpoint.step) if progress.checkpoint else None,
        None,
    )
    return (folder.resolve().name, *(MISSING if cell is None else cell for cell in cells))


def age_text(seconds: float) -> str:
    """As kubectl writes ages: 45s, 3m12s, 42m, 5h7m, 3d4h."""
    second, minute, hour, day = int(seconds), int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if minute < 2:
        return f"{max(second, 0)}s"
    if minute < 10:
        return f"{minute}m{second % 60}s" if second % 60 else f"{minute}m"
    if hour < 3:
        return f"{minute}m"
    if hour < 8:
        return f"{hour}h{minute % 60}m" if minute % 60 else f"{hour}h"
    if day < 2:
        return f"{hour}h"
    return f"{day}d{hour % 24}h" if day < 8 and hour % 24 else f"{day}d"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, three blanks apart, as kubectl prints them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
