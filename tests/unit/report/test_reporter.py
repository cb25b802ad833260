"""The reporter as the training loop sees it: real files, no terminal."""

import asyncio
import errno
import io
import logging
import shutil
from types import SimpleNamespace

import orjson
import pytest
from rich.console import Console

from opd_api.documents import parse_progress
from opd_api.errors import InvalidJob, Problem
from opd_runtime.errors import SourceUnavailable, TeacherUnavailable, UserError
from opd_runtime.report import progress
from opd_runtime.report.jsonl import read_records
from opd_runtime.report.reporter import Reporter

SUMMARY = {
    "teacher_mode": "SGLang",
    "steps": 10,
    "seconds": 20.0,
    "reverse_kl": {"first": 1.2, "last": 0.1},
    "pass_at_1": {"before": 0.4, "after": 0.9, "teacher": 0.99},
}


@pytest.fixture
def open_reporter(tmp_path, make_job):
    def open_reporter(**job):
        return Reporter(tmp_path / "run", make_job(**job), attempt=3, console=Console(file=io.StringIO(), width=200))

    return open_reporter


@pytest.fixture
def written(tmp_path):
    """What an outsider reads in progress.json now."""
    return lambda: parse_progress((tmp_path / "run" / "progress.json").read_bytes())


def test_run_leaves_metrics_progress_summary_plot_and_tensorboard(open_reporter, make_record, written, tmp_path):
    with open_reporter(tensorboard=True) as reporter:
        reporter.phase("starting servers")
        reporter.teacher_ready(1)
        reporter.start()
        for step in range(11):
            reporter.step(make_record(step, evaluated=step % 5 == 0))
        reporter.checkpoint(10, "pvc://checkpoints/arithmetic", "pvc://checkpoints/arithmetic/export")
        reporter.finish(SUMMARY, {"exported student": tmp_path / "run" / "export"})
    run = tmp_path / "run"
    assert [record.step for record in read_records(run / "metrics.jsonl")] == list(range(11))
    assert orjson.loads((run / "summary.json").read_bytes()) == SUMMARY
    assert (run / "plots" / "overview.png").read_bytes().startswith(b"\x89PNG")
    assert list((run / "tensorboard").iterdir())
    progress = written()
    assert (progress.phase, progress.step, progress.attempt, progress.trend) == ("Succeeded", 10, 3, "Falling")
    assert progress.checkpoint.step == 10
    assert progress.teachers[0].ready


def test_record_gains_what_earlier_steps_tell(open_reporter, make_record, tmp_path):
    with open_reporter() as reporter:
        reporter.start()
        for step in range(1, 5):
            reporter.step(make_record(step, evaluated=step == 2))
    first, second, _, fourth = (record.metrics for record in read_records(tmp_path / "run" / "metrics.jsonl"))
    assert second["eval/step"] == 2
    assert fourth["opd/reverse_kl_first"] == first["opd/reverse_kl"]
    assert fourth["reward/raw_first"] == first["reward/raw"]
    assert fourth["time/left"] == pytest.approx(6 * 2.0)
    assert fourth["tokens/per_second"] == pytest.approx(50.0)


def test_newest_evaluation_stays_in_the_progress_document(open_reporter, make_record):
    with open_reporter() as reporter:
        reporter.start()
        reporter.step(make_record(1, evaluated=True))
        reporter.step(make_record(2))
        metrics = reporter.progress.metrics
    assert metrics["eval/pass@1"] == pytest.approx(0.45)
    assert metrics["eval/step"] == 1
    assert metrics["reward/mean"] == pytest.approx(0.2)


def test_resumed_run_continues_as_if_never_interrupted(open_reporter, make_record):
    with open_reporter() as whole:
        whole.start()
        for step in range(1, 9):
            whole.step(make_record(step, evaluated=step == 2))
        want = whole.progress.metrics, whole.progress.trend, whole.trend.values
    with open_reporter() as resumed:
        resumed.start(completed_steps=5)
        assert resumed.progress.step == 5
        for step in range(6, 9):
            resumed.step(make_record(step))
        got = resumed.progress.metrics, resumed.progress.trend, resumed.trend.values
    assert got == want


def test_failed_scores_of_earlier_attempts_count(open_reporter, make_record):
    with open_reporter() as first:
        first.start()
        for step in range(1, 4):
            first.step(make_record(step, **{"teacher/failed": 2.0}))
    with open_reporter() as resumed:
        resumed.start(completed_steps=2)
        resumed.step(make_record(3, **{"teacher/failed": 1.0}))
        (teacher,) = resumed.progress.teachers
    assert teacher.failed_scores == 5


def test_number_that_is_not_finite_stays_out_of_progress_and_trend(open_reporter, make_record, written):
    with open_reporter() as reporter:
        reporter.start()
        reporter.step(make_record(10, **{"opd/reverse_kl": float("nan"), "policy/loss": float("inf")}))
        assert reporter.trend.values == ()
    metrics = written().metrics
    assert "opd/reverse_kl" not in metrics
    assert "policy/loss" not in metrics
    assert metrics["reward/mean"] == 1.0


def test_failed_scores_add_up_over_the_steps(open_reporter, make_record):
    with open_reporter() as reporter:
        reporter.start()
        reporter.step(make_record(1, **{"teacher/failed": 2.0, "teacher/latency_p95": 0.084}))
        reporter.step(make_record(2, **{"teacher/failed": 3.0}))
        (teacher,) = reporter.progress.teachers
    assert teacher.failed_scores == 5
    assert teacher.score_latency_p95_milliseconds == pytest.approx(84.0)
    assert teacher.reverse_kl == make_record(2).metrics["opd/reverse_kl"]


@pytest.mark.parametrize(
    ("error", "want"),
    [
        pytest.param(
            UserError("is no folder", path="spec.student.model", hint="fetch it"),
            ("Failed", "User", "UserError", "spec.student.model"),
            id="the user's mistake",
        ),
        pytest.param(
            TeacherUnavailable("gives uniform log-probs", reason="UniformLogprobs"),
            ("Failed", "User", "UniformLogprobs", ""),
            id="a teacher that is none stays none",
        ),
        pytest.param(
            TeacherUnavailable("does not answer"),
            ("Failed", "Infrastructure", "TeacherUnavailable", ""),
            id="a teacher that may come back",
        ),
        pytest.param(
            SourceUnavailable("no network", path="spec.student.model"),
            ("Failed", "Infrastructure", "SourceUnavailable", "spec.student.model"),
            id="a hub that may come back",
        ),
        pytest.param(
            InvalidJob([Problem(path="spec.steps", message="is 0"), Problem(path="spec.seed", message="is -1")]),
            ("Failed", "User", "InvalidJob", "spec.steps"),
            id="the first of a document's problems",
        ),
        pytest.param(RuntimeError("x" * 9000), ("Failed", "Infrastructure", "RuntimeError", ""), id="anything else"),
    ],
)
def test_error_that_ends_the_run_is_in_the_document(open_reporter, written, error, want):
    with pytest.raises(type(error)), open_reporter():
        raise error
    progress = written()
    assert (progress.phase, progress.error.actor, progress.error.reason, progress.error.path) == want
    assert str(error).startswith(progress.error.message)


@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError])
def test_interrupted_run_is_stopped_not_failed(open_reporter, written, error):
    with pytest.raises(error), open_reporter():
        raise error
    assert (written().phase, written().error) == ("Stopped", None)


def test_console_and_tensorboard_that_break_are_said_once_and_stop_nothing(
    open_reporter, make_record, monkeypatch, caplog, tmp_path
):
    def broken(*_, **__):
        raise OSError("broken pipe")

    monkeypatch.setattr("opd_runtime.report.console.PlainConsole.step", broken)
    monkeypatch.setattr("opd_runtime.report.tensorboard.TensorBoardLog.append", broken)
    with caplog.at_level(logging.WARNING), open_reporter(tensorboard=True) as reporter:
        reporter.start()
        for step in range(1, 4):
            reporter.step(make_record(step))
    warnings = [record.getMessage() for record in caplog.records if "broken pipe" in record.getMessage()]
    assert len(warnings) == 2
    assert {warning.split()[0] for warning in warnings} == {"console", "TensorBoard"}
    assert len(read_records(tmp_path / "run" / "metrics.jsonl")) == 3


def test_metrics_that_cannot_be_written_stop_the_run(open_reporter, make_record, monkeypatch):
    with open_reporter() as reporter:
        reporter.start()

        def full_disk(*_):
            raise OSError("no space left on device")

        monkeypatch.setattr("opd_runtime.report.jsonl.MetricsLog.append", full_disk)
        with pytest.raises(OSError, match="no space left"):
            reporter.step(make_record(1))


def test_tensorboard_holds_the_scalars_by_step(open_reporter, make_record, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with open_reporter(tensorboard=True) as reporter:
        reporter.start()
        for step in range(1, 4):
            reporter.step(make_record(step, evaluated=step == 2))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    scalars = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert scalars["opd/reverse_kl"] == [1, 2, 3]
    assert scalars["eval/pass@1"] == [2]
    assert events.Tags()["tensors"] == ["what the metrics mean/text_summary"]


def test_megatron_teacher_is_counted_by_trainers(open_reporter):
    with open_reporter(mode="Megatron") as reporter:
        (teacher,) = reporter.progress.teachers
    assert (teacher.mode, teacher.replicas) == ("Megatron", 1)


@pytest.mark.parametrize(
    ("error", "free_bytes"),
    [
        pytest.param(OSError(errno.EDQUOT, "Disk quota exceeded"), 100, id="a quota"),
        pytest.param(RuntimeError("Traceback …\nOSError: [Errno 28] No space left on device"), 100, id="told by Ray"),
        pytest.param(RuntimeError("unexpected pos 64 vs 0"), 0, id="torch keeps nothing of it"),
    ],
)
def test_a_full_volume_is_told_as_what_it_is_and_where(
    open_reporter, written, tmp_path, monkeypatch, error, free_bytes
):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free_bytes))
    with pytest.raises(UserError, match=r"run: is full: No space left on device\nhint: free some"), open_reporter():
        raise error
    assert (written().phase, written().error.actor) == ("Failed", "User")
    assert written().error.path == (tmp_path / "run").as_uri()


@pytest.mark.parametrize(
    ("error", "phase"),
    [
        pytest.param(asyncio.CancelledError(), "Stopped", id="a stop"),
        pytest.param(TeacherUnavailable("away"), "Failed", id="a cause that has a name"),
    ],
)
def test_a_full_volume_is_not_blamed_for_what_else_ended_the_run(open_reporter, written, monkeypatch, error, phase):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(type(error)), open_reporter():
        raise error
    assert written().phase == phase


def test_a_run_that_cannot_write_its_first_report_tells_the_mailbox(tmp_path, make_job, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    told = []
    mailbox = SimpleNamespace(put=told.append, close=lambda: None)
    monkeypatch.setattr(progress, "replace_file", full)
    with pytest.raises(UserError, match="is full"), Reporter(tmp_path / "run", make_job(), mailbox=mailbox):
        pytest.fail("it has begun")
    assert [each.phase for each in told] == ["Starting", "Failed"]
