"""`opd serve`: one server of a job's teacher. Finds the model and then becomes SGLang's guardian.

A container's first process gets no signal it has no handler for and must collect the dead; SGLang does neither while it
loads, its guardian does. It passes SIGTERM on, and SGLang drains.
"""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from opd_api.spec import OPDJob, Teacher

from ..errors import UserError
from ..sources import resolve_model
from .models import cache_dir
from .options import Sets, Volumes, load, volumes_of


def serve(
    file: Annotated[Path, typer.Argument(help="The OPDJob.")],
    teacher: Annotated[str, typer.Option(help="Name of the teacher.")] = "teacher",
    host: Annotated[str, typer.Option(help="Address to listen on; in a pod every one, for the others to reach it.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 30000,
    sets: Sets = None,
    volumes: Volumes = None,
) -> None:
    """Serve a job's teacher: fetch its model if need be, then run SGLang with the job's settings until it is ended.

    The key that it asks for, if any, is read from OPD_TEACHER_API_KEY. `opd probe http://HOST:PORT` asks whether it can
    teach.
    """
    job = load(file, sets)
    chosen = _served(job, teacher, str(file))
    model_path = resolve_model(chosen.model, volumes_of(volumes), cache_dir())
    from ..config import uses_bf16
    from ..rollout.server import command, guarded, write_key

    scratch, api_key = tempfile.mkdtemp(prefix="opd-"), os.environ.get("OPD_TEACHER_API_KEY", "")
    argv, env = command(
        model_path,
        device=job.spec.device.lower(),
        bf16=uses_bf16(job.spec),
        host=host,
        port=port,
        tensor_parallel=chosen.sglang.gpus_per_replica,
        memory_fraction=chosen.sglang.memory_fraction,
        weight_version=0,
        key_dir=write_key(Path(scratch), api_key) if api_key else None,
        extra_args=chosen.sglang.args,
        environ=os.environ,
    )
    argv = guarded(argv, parent_pid=os.getppid(), scratch=scratch)
    os.execvpe(argv[0], argv, env)


def _served(job: OPDJob, name: str, source: str) -> Teacher:
    """The teacher of that name, which must be one that a server of ours runs."""
    found = next((teacher for teacher in job.spec.teachers if teacher.name == name), None)
    if found is None:
        names = ", ".join(teacher.name for teacher in job.spec.teachers)
        raise UserError(f"has no teacher {name!r}", path=f"{source}: spec.teachers", hint=f"--teacher takes: {names}")
    if found.mode != "SGLang" or found.sglang.endpoint:
        why = f"it runs at {found.sglang.endpoint}" if found.sglang.endpoint else "mode: Megatron runs in the trainers"
        raise UserError(
            f"{name} is not served from here: {why}",
            path=f"{source}: spec.teachers",
            hint="a teacher with mode: SGLang and no endpoint has a server of its own",
        )
    return found
