"""`opd plot`: draws a run's metrics as one PNG. Changes nothing else."""

from pathlib import Path
from typing import Annotated

import typer


def plot(
    run_dir: Annotated[Path, typer.Argument(help="A run's folder, finished or still running.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: RUN_DIR/plots/overview.png.")
    ] = None,
) -> None:
    """Draw reverse KL, pass@1, reward and the split of a step's time."""
    from ..report.plot import plot_run

    out = output or run_dir / "plots" / "overview.png"
    plot_run(run_dir, out)
    typer.echo(out)
