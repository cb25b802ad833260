"""One door for everything a run tells: each record goes to metrics.jsonl, progress.json, console, TensorBoard and, in a
cluster, the mailbox.

A file that cannot be written stops the run, because the next checkpoint could not be written either. A terminal,
TensorBoard or a plot that fails is said once and then left alone. The mailbox sees to its own troubles.
"""

import asyncio
import errno
import logging
import math
import os
import shutil
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
from rich.console import Console

from opd_api.documents import CheckpointReport, ErrorReport, Progress, RunPhase, TeacherReport
from opd_api.errors import InvalidJob, OPDError
from opd_api.spec import OPDJob

from ..errors import NO_SPACE, LocatedError, UserError
from ..uri import uri_of
from .console import RunConsole, open_console
from .files import replace_file
from .jsonl import FILE_NAME as METRICS_FILE
from .jsonl import MetricsLog
from .mailbox import Mailbox
from .metrics import StepRecord, now
from .progress import FILE_NAME as PROGRESS_FILE
from .progress import ProgressFile
from .tensorboard import TensorBoardLog
from .trend import KLTrend

ETA_STEPS = 20
"""The time left is estimated by so many last steps."""
MESSAGE_LIMIT = 4000
"""Characters of an error that go into progress.json."""
PROVEN_WRONG = {"UniformLogprobs", "SameAsStudent", "TokenizerMismatch"}
"""What the probe of a teacher that answers has found: another try would find the same."""

_log = logging.getLogger(__name__)


class Reporter:
    """A context manager: leaving it by an exception reports the failure, and always gives the terminal back."""

    def __init__(
        self,
        run_dir: Path,
        job: OPDJob,
        *,
        attempt: int = 1,
        mailbox: Mailbox | None = None,
        console: Console | None = None,
    ) -> None:
        self.run_dir, self.job, self._mailbox, self._terminal = run_dir, job, mailbox, console
        self.trend = KLTrend()
        self._metrics = MetricsLog(run_dir / METRICS_FILE)
        also = mailbox.put if mailbox else lambda _: None
        self._progress = ProgressFile(run_dir / PROGRESS_FILE, _first_progress(job, attempt), also=also)
        self._carried: dict[str, float] = {}
        self._step_seconds: deque[float] = deque(maxlen=ETA_STEPS)
        self._console: RunConsole | None = None
        self._tensorboard: TensorBoardLog | None = None
        self._silenced: set[str] = set()

    def __enter__(self) -> Self:
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            teacher = self.job.spec.teachers[0]
            title = f"{self.job.metadata.name} ({teacher.mode} teacher)"
            self._guard("console", lambda: self._open_console(title))
            self._progress.update(force=True, time=now())
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises UserError instead of whatever a full volume has led to."""
        said = self._full_volume(error) or error
        if said is not None:
            self._guard("progress.json", lambda: self._report_end(said))
        for sink in (self._metrics, self._tensorboard, self._console, self._mailbox):
            if sink is not None:
                self._guard(type(sink).__name__, sink.close)
        if said is not None and said is not error:
            raise said from error

    # ------------------------------------------------------------ what a run says
    @property
    def progress(self) -> Progress:
        """The document as it stands, written or not yet."""
        return self._progress.document

    def phase(self, text: str) -> None:
        """What is going on before the first step, or when a step waits for something."""
        self._progress.update(force=True, time=now(), message=text)
        self._tell(lambda console: console.phase(text))

    def note(self, text: str) -> None:
        """A message that stays on the screen."""
        self._tell(lambda console: console.note(text))

    def alive(self) -> None:
        """Nothing new, but somebody is there."""
        self._progress.update(time=now())

    def teacher_ready(self, ready_replicas: int) -> None:
        """So many of the teacher's replicas have passed the probe and answer."""
        teacher = self._teacher(ready=ready_replicas > 0, ready_replicas=ready_replicas)
        self._progress.update(force=True, time=now(), teachers=(teacher,))

    def start(self, completed_steps: int = 0) -> None:
        """Training goes on after `completed_steps`: what earlier attempts wrote about later ones is taken back."""
        failed_scores = 0
        for record in self._metrics.start(completed_steps):
            self._remember(record)
            failed_scores += int(record.metrics.get("teacher/failed", 0))
        self._progress.update(teachers=(self._teacher(failed_scores=failed_scores),))
        if self.job.spec.tracking.tensorboard:
            self._guard("TensorBoard", lambda: self._open_tensorboard(completed_steps))
        self._progress.update(force=True, phase="Training", step=completed_steps, time=now(), message="")

    def step(self, record: StepRecord) -> None:
        """A step is done, or, as step 0, the evaluation before training. Adds what can be told from earlier records."""
        record = self._remember(record)
        self._metrics.append(record)
        trend = self.trend.current
        self._progress.update(
            step=record.step,
            time=record.time,
            metrics=self._carried | _finite(record.metrics),
            trend=trend if self.trend.values else None,
            teachers=(self._teacher_after(record),),
            force=record.step == record.total_steps,
        )
        self._tell(lambda console: console.step(record, trend))
        if self._tensorboard is not None:
            writer = self._tensorboard
            self._guard("TensorBoard", lambda: writer.append(record))

    def checkpoint(self, step: int, uri: str, export_uri: str | None = None) -> None:
        """A checkpoint is complete."""
        report = CheckpointReport(step=step, uri=uri, export_uri=export_uri)
        self._progress.update(force=True, time=now(), checkpoint=report)

    def finish(self, summary: Mapping[str, Any], paths: Mapping[str, Path], *, phase: RunPhase = "Succeeded") -> None:
        """The run's end: `summary.json`, the plot, the last words. `paths` says what lies where, beside the plot."""
        replace_file(self.run_dir / "summary.json", orjson.dumps(summary, option=orjson.OPT_INDENT_2))
        said = "saved and stopped on request" if phase == "Stopped" else ""
        self._progress.update(force=True, phase=phase, time=now(), message=said)
        plot = self.run_dir / "plots" / "overview.png"
        self._guard("plot", lambda: _plot(self.run_dir, plot))
        found = {"plot": plot, **paths} if plot.exists() else paths
        self._tell(lambda console: console.summary(summary, found))

    # ------------------------------------------------------------ its memory
    def _remember(self, record: StepRecord) -> StepRecord:
        """The record with what earlier ones add to it."""
        metrics, more = record.metrics, {}
        if "eval/pass@1" in metrics:
            more["eval/step"] = float(record.step)
        if (reverse_kl := metrics.get("opd/reverse_kl")) is not None and math.isfinite(reverse_kl):
            self.trend.update(reverse_kl)
            more["opd/reverse_kl_first"] = self._carried.setdefault("opd/reverse_kl_first", reverse_kl)
        if (raw_reward := metrics.get("reward/raw")) is not None and math.isfinite(raw_reward):
            more["reward/raw_first"] = self._carried.setdefault("reward/raw_first", raw_reward)
        if seconds := metrics.get("time/step"):
            self._step_seconds.append(seconds)
            mean_seconds = sum(self._step_seconds) / len(self._step_seconds)
            more["time/left"] = mean_seconds * (record.total_steps - record.step)
            if "tokens/response" in metrics:
                more["tokens/per_second"] = metrics["tokens/response"] / seconds
        record = record.with_metrics(more)
        self._carried |= _finite({name: value for name, value in record.metrics.items() if name.startswith("eval/")})
        return record

    def _teacher(self, **changes: Any) -> TeacherReport:
        return self.progress.teachers[0].model_copy(update=changes)

    def _teacher_after(self, record: StepRecord) -> TeacherReport:
        changes: dict[str, Any] = {}
        if failed := record.metrics.get("teacher/failed"):
            changes["failed_scores"] = self.progress.teachers[0].failed_scores + int(failed)
        if (latency := record.metrics.get("teacher/latency_p95")) is not None:
            changes["score_latency_p95_milliseconds"] = 1000.0 * latency
        if (reverse_kl := _finite(record.metrics).get("opd/reverse_kl")) is not None:
            changes["reverse_kl"] = reverse_kl
        return self._teacher(**changes)

    def _report_end(self, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
            self._progress.update(force=True, phase="Stopped", time=now(), message="stopped on request")
            return
        self._progress.update(force=True, phase="Failed", time=now(), error=error_report(error))

    def _full_volume(self, error: BaseException | None) -> UserError | None:
        """torch and Ray wrap the system's error, and keep its number, its words or nothing of it."""
        words = os.strerror(errno.ENOSPC)
        if not isinstance(error, Exception) or isinstance(error, OPDError):  # a stop, or a cause known by its name
            return None
        known = getattr(error, "errno", None) in NO_SPACE or words in str(error)
        if not known and (not self.run_dir.is_dir() or shutil.disk_usage(self.run_dir).free):
            return None
        hint = "free some space there or enlarge it; checkpoint.keep says how many checkpoints stay"
        return UserError(f"is full: {words}", path=uri_of(self.run_dir), hint=hint)

    # ------------------------------------------------------------ what may fail silently
    def _open_console(self, title: str) -> None:
        self._console = open_console(title, self.job.spec.steps, self._terminal)

    def _open_tensorboard(self, completed_steps: int) -> None:
        self._tensorboard = TensorBoardLog(self.run_dir, completed_steps)

    def _tell(self, say: Callable[[RunConsole], None]) -> None:
        console = self._console
        if console is not None:
            self._guard("console", lambda: say(console))

    def _guard(self, sink: str, act: Callable[[], None]) -> None:
        """Runs `act`; the first failure of a sink is said and its last."""
        if sink in self._silenced:
            return
        try:
            act()
        except Exception as error:
            self._silenced.add(sink)
            message = f"{sink} failed and is off for the rest of the run: {type(error).__name__}: {error}"
            _log.warning(message)
            self.note(message)


def error_report(error: BaseException) -> ErrorReport:
    """Why an attempt ended, and who can do something about it."""
    reason = getattr(error, "reason", "") if isinstance(error, OPDError) else ""
    problems = error.problems if isinstance(error, InvalidJob) else ()
    by_user = isinstance(error, UserError | InvalidJob) or reason in PROVEN_WRONG
    return ErrorReport(
        actor="User" if by_user else "Infrastructure",
        reason=reason or type(error).__name__,
        path=problems[0].path if problems else error.path if isinstance(error, LocatedError) else "",
        message=str(error)[:MESSAGE_LIMIT],
    )


def _first_progress(job: OPDJob, attempt: int) -> Progress:
    teacher = job.spec.teachers[0]
    replicas = teacher.sglang.replicas if teacher.mode == "SGLang" else job.spec.student.trainers.replicas
    return Progress(
        attempt=attempt,
        phase="Starting",
        step=0,
        total_steps=job.spec.steps,
        time=now(),
        teachers=(TeacherReport(name=teacher.name, mode=teacher.mode, replicas=replicas),),
    )


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def _plot(run_dir: Path, out: Path) -> None:
    from .plot import plot_run

    plot_run(run_dir, out)
