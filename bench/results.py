"""What a benchmark found: rows, printed as a table and kept as `bench/results/NAME.json`. Measures nothing."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One comparison. `None` is what a row does not have."""

    what: str
    ours: float
    peer: float | None = None
    ratio: float | None = None
    """As the row's unit has it: more is better for a rate, less is better for seconds."""
    goal: float | None = None
    """Of the ratio."""
    unit: str


def compared(what: str, ours: float, peer: float, *, unit: str, goal: float | None = None) -> Row:
    """A row with ratio ours / peer."""
    return Row(what=what, ours=ours, peer=peer, ratio=ours / peer, goal=goal, unit=unit)


def document(rows: Sequence[Row], command: str) -> dict[str, Any]:
    """What the file holds."""
    return {
        "rows": [{name: _rounded(value) for name, value in asdict(row).items()} for row in rows],
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": _machine(),
        "command": command,
    }


def report(name: str, rows: Sequence[Row], *, peer: str) -> Path:
    """Prints the table, writes the file. `peer` heads the peer's column."""
    table = Table("what", *(("ours", peer, "ratio", "goal")), "unit", title=f"bench/{name}.py")
    for column in table.columns[1:5]:
        column.justify = "right"
    for row in rows:
        table.add_row(row.what, *(_shown(value) for value in (row.ours, row.peer, row.ratio, row.goal)), row.unit)
    Console(width=max(120, Console().width)).print(table)
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(document(rows, " ".join(["python", *sys.argv])), indent=1) + "\n")
    return path


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _machine() -> str:
    """Cores this process may use, memory, and the load of the minute, because other work shows in every figure."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return (
        f"{platform.machine()}, {cores} cores, {memory:.0f} GiB, no GPU used, load {os.getloadavg()[0]:.1f} at the end"
    )
