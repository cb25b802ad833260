"""A whole job on one machine: the run's folder, an embedded Ray, an attempt, and taking it all down again."""

import asyncio
import contextlib
import fcntl
import logging
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import ray

from opd_api.load import dump_job
from opd_api.spec import OPDJob

from ..config import SGLangTeacher, TrainConfig
from ..errors import EngineUnavailable, UserError
from ..report.progress import JOB_FILE
from ..report.reporter import Reporter
from .attempt import Inputs, read_inputs, run_attempt
from .machine import this_machine
from .placement import ENGINE_RESOURCE, TEACHER_RESOURCE, TRAINER_RESOURCE
from .resolve import Places, resolve

RUN_MARK = ".opd-run"
"""A folder with this file is a run's folder; only such a one is ever emptied. No user's own file is named so."""


def run_job(job: OPDJob, places: Places, *, resume: bool, fresh: bool) -> bool:
    """True when the job is complete, False after Ctrl-C and a save. Raises what ended it; takes everything down."""
    started = time.monotonic()
    cfg = resolve(job, places, machine=this_machine())
    inputs = read_inputs(cfg)
    with run_folder(job, cfg.run_dir, resume=resume, fresh=fresh), Reporter(cfg.run_dir, job) as reporter:
        reporter.phase("starting Ray")
        with embedded_ray(cfg):
            return asyncio.run(_attempt(inputs, reporter, resume, started))


async def _attempt(inputs: Inputs, reporter: Reporter, resume: bool, started: float) -> bool:
    stop = asyncio.Event()
    with stop_on_signal(stop, reporter):
        return await run_attempt(inputs, reporter, stop, resume=resume, started=started)


@contextlib.contextmanager
def run_folder(job: OPDJob, run_dir: Path, *, resume: bool, fresh: bool) -> Iterator[None]:
    """The run's folder, held by this process alone. Raises UserError when what is there fits neither flag."""
    used = run_dir.exists() and any(run_dir.iterdir())
    if used and not (run_dir / RUN_MARK).exists():
        raise UserError(f"{run_dir} is not empty and not a run's folder", hint="choose another --run-dir")
    if used and not (resume or fresh):
        raise UserError(
            f"{run_dir} holds an earlier run of this job",
            hint="--resume continues from its newest checkpoint, --fresh deletes it and starts over",
        )
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    with open(run_dir.parent / f".{run_dir.name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{run_dir} is in use by another `opd run`") from error
        if fresh and used:
            shutil.rmtree(run_dir)
        (run_dir / "logs").mkdir(parents=True, exist_ok=True)
        mark(run_dir, job)
        yield
        shutil.rmtree(run_dir / "sync", ignore_errors=True)


def mark(run_dir: Path, job: OPDJob) -> None:
    """From here on the folder is this job's run, and says so."""
    (run_dir / RUN_MARK).touch()
    (run_dir / JOB_FILE).write_text(dump_job(job))


@contextlib.contextmanager
def embedded_ray(cfg: TrainConfig) -> Iterator[None]:
    """A Ray of this process's own, on loopback, that offers what the worker groups of a RayJob would.

    Ray's processes share this process's fate, also under `kill -9`; what they start is bound to them the same way.
    """
    try:
        ray.init(
            num_cpus=1,
            resources={
                TRAINER_RESOURCE: cfg.student.trainers.replicas,
                ENGINE_RESOURCE: cfg.rollout.engines.replicas,
                TEACHER_RESOURCE: cfg.teacher.replicas if isinstance(cfg.teacher, SGLangTeacher) else 0,
            },
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            object_store_memory=256 * 2**20,
            _node_ip_address="127.0.0.1",
        )
    except Exception as error:  # Ray raises bare exceptions when its processes do not come up in its own time limit
        hint = "is the machine overloaded, or out of memory? Ray's logs are in its session folder below /tmp/ray"
        raise EngineUnavailable(f"Ray did not start: {error}\nhint: {hint}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def stop_on_signal(stop: asyncio.Event, reporter: Reporter) -> Iterator[None]:
    """While training, the first SIGINT or SIGTERM sets `stop` (a save, then the end); any other cancels at once."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def on_signal() -> None:
        if stop.is_set() or reporter.progress.phase != "Training":
            task.cancel()
            return
        reporter.note("stopping after this step and a checkpoint; again to stop at once")
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
