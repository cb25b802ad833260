"""One attempt in the job's Ray cluster, as the driver on its head. Unlike `local` it starts no Ray and ends none.

What the operator must know goes into the job's mailbox, and what it asks comes from there.
"""

import asyncio
import contextlib
import errno
import fcntl
import logging
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import ray

from opd_api.errors import InvalidJob
from opd_api.load import load_job_file
from opd_api.spec import OPDJob

from ..concurrency import while_watching
from ..errors import AttemptLost, EngineUnavailable
from ..report.mailbox import Mailbox
from ..report.reporter import Reporter
from .attempt import Inputs, read_inputs, run_attempt
from .local import mark
from .resolve import Places, resolve

HEARTBEAT_SECONDS = 30.0
"""A sign of life while a step takes long, and a look for requests."""
LOCK_TIMEOUT_SECONDS = 60.0
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}
"""What shared storage without locks says. There the operator's fence alone keeps drivers apart."""


def train_attempt(job: OPDJob, file: Path, places: Places, *, attempt: int, mailbox: Mailbox) -> bool:
    """True when the job is complete, False after a stop and a save. Raises what ended it, having reported it.

    Goes on from the newest complete checkpoint of this job in the run's folder. An attempt that was begun before, as
    the mailbox knows it, is not begun again: KubeRay submits a job anew when its head comes back without memory, and
    nobody knows whether the driver of the old head still works. `file` is where the job came from: edits arrive there.
    """
    started = time.monotonic()
    if (ended := _begun_before(mailbox, attempt)) is not None:
        return ended
    with held(places.run_dir), Reporter(places.run_dir, job, attempt=attempt, mailbox=mailbox) as reporter:
        if mailbox.stop_requested.is_set():
            raise asyncio.CancelledError
        mark(places.run_dir, job)
        reporter.phase("reading models, prompts and settings")
        inputs = read_inputs(resolve(job, places, attempt=attempt))
        reporter.phase("joining Ray")
        with joined_ray():
            return asyncio.run(_attempt(inputs, _kept(file, job), reporter, mailbox, started))


def _begun_before(mailbox: Mailbox, attempt: int) -> bool | None:
    """Whether this attempt completed the job, when it has ended well; its report stays as it is."""
    report = mailbox.read().progress
    if report is None or report.attempt < attempt:
        return None
    if report.attempt > attempt:
        raise AttemptLost(f"attempt {report.attempt} of this job has begun; this is attempt {attempt}")
    if report.phase == "Failed":
        raise AttemptLost(f"attempt {attempt} has failed before: {report.error.message if report.error else ''}")
    if report.phase not in ("Succeeded", "Stopped"):
        raise AttemptLost(f"attempt {attempt} was begun by another driver, at step {report.step}")
    return report.phase == "Succeeded"


def _kept(file: Path, job: OPDJob) -> Callable[[], int]:
    """`checkpoint.keep` as it is now. A document that this version cannot read changes nothing: it is a newer one's."""
    known = job.spec.checkpoint.keep

    def ask() -> int:
        nonlocal known
        with contextlib.suppress(InvalidJob, OSError):
            known = load_job_file(file).spec.checkpoint.keep
        return known

    return ask


async def _attempt(
    inputs: Inputs, keep: Callable[[], int], reporter: Reporter, mailbox: Mailbox, started: float
) -> bool:
    stop = asyncio.Event()
    with stopping(stop, reporter, mailbox):
        work = run_attempt(inputs, reporter, stop, resume=True, started=started, keep=keep)
        return await while_watching(work, _heartbeat(reporter))


async def _heartbeat(reporter: Reporter) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT_SECONDS)
        reporter.alive()


@contextlib.contextmanager
def stopping(stop: asyncio.Event, reporter: Reporter, mailbox: Mailbox) -> Iterator[None]:
    """A request in the mailbox or SIGTERM: while training it sets `stop` (a save, then the end), earlier it cancels."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    asked = False

    def ask(why: str) -> None:
        nonlocal asked
        if asked:
            return
        asked = True
        if reporter.progress.phase == "Training":
            reporter.note(f"{why}: stopping after this step and a checkpoint")
            stop.set()
        elif reporter.progress.phase == "Starting":
            reporter.note(f"{why}: stopping before training has begun")
            task.cancel()

    loop.add_signal_handler(signal.SIGTERM, ask, "SIGTERM")
    loop.add_signal_handler(signal.SIGINT, ask, "SIGINT")
    mailbox.on_stop(partial(loop.call_soon_threadsafe, ask, "the operator asks"))
    try:
        yield
    finally:
        mailbox.on_stop(lambda: None)
        loop.remove_signal_handler(signal.SIGTERM)
        loop.remove_signal_handler(signal.SIGINT)


@contextlib.contextmanager
def joined_ray() -> Iterator[None]:
    """The Ray cluster of this head. What this driver started in it is gone afterwards; the cluster stays."""
    try:
        ray.init(address="auto", log_to_driver=False, logging_level=logging.WARNING)
    except Exception as error:  # Ray raises bare exceptions when it cannot connect
        raise EngineUnavailable(f"the Ray cluster cannot be joined: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """The run's folder, by one driver at a time: one whose head was restarted may still be ending."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / ".lock", "w") as lock:
        deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
        while not _locked(lock.fileno()):
            if time.monotonic() > deadline:
                raise AttemptLost(f"another driver still works in {run_dir}")
            time.sleep(0.5)
        yield


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True
