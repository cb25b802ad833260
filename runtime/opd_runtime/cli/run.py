"""`opd run`: an OPDJob on this machine, from its YAML to an exported student."""

import asyncio
import os
import secrets
from pathlib import Path
from typing import Annotated

import typer

from ..errors import EngineUnavailable, TeacherUnavailable, TrainerLost, WeightSyncFailed
from .models import cache_dir
from .options import Sets, Volumes, load, volumes_of


def run(
    file: Annotated[Path, typer.Argument(help="The OPDJob, the same YAML that `kubectl apply` takes.")],
    sets: Sets = None,
    volumes: Volumes = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest complete checkpoint.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete what an earlier run left, and start over.")] = False,
    run_dir: Annotated[Path | None, typer.Option(help="The run's folder; default runs/<job>.")] = None,
) -> None:
    """Distil a student on this machine: starts Ray, engines and teacher, trains, exports, and takes all of it down.

    Ctrl-C ends the step in progress, saves a checkpoint and stops; a second one stops at once.
    """
    job = load(file, sets)
    if resume and fresh:
        raise typer.BadParameter("--resume continues a run and --fresh deletes it: choose one")
    if job.spec.suspend:
        typer.echo("spec.suspend is true: nothing to run")
        return
    _ray_environment()
    from ..orchestrate.local import run_job
    from ..orchestrate.resolve import Places

    places = Places(
        run_dir=(run_dir or Path("runs") / job.metadata.name).absolute(),
        volumes=volumes_of(volumes),
        cache_dir=cache_dir(),
    )
    try:
        completed = run_job(job, places, resume=resume, fresh=fresh)
    except asyncio.CancelledError:  # Ctrl-C before training began, or a second one
        completed = False
    except (EngineUnavailable, TeacherUnavailable, TrainerLost, WeightSyncFailed) as error:
        error.add_note("hint: run it again with --resume; it goes on from the newest checkpoint")
        raise
    raise typer.Exit(0 if completed else 130)


def _ray_environment() -> None:
    """Ray reads these when it is imported: token authentication with a token of this run alone, no usage report."""
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Ray's default of 15 lets any other work on the machine starve trainers and servers.
    os.environ.setdefault("RAY_worker_niceness", "0")
