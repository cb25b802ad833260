"""`opd get` and `opd plot` on folders that runs have left."""

import os
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from opd_api.documents import CheckpointReport, Progress, TeacherReport
from opd_runtime.cli.get import HEADINGS, age_text, find_runs, follow, get, row_of
from opd_runtime.cli.plot import plot
from opd_runtime.errors import UserError
from opd_runtime.report.jsonl import MetricsLog

STARTED = 1_700_000_000.0


@pytest.fixture
def make_run(tmp_path):
    def make(name, **fields):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        known = {"attempt": 1, "phase": "Starting", "step": 0, "total_steps": 300, "time": "2026-01-02T03:04:05Z"}
        (folder / "progress.json").write_text(Progress(**known | fields).model_dump_json(exclude_none=True))
        (folder / "opdjob.yaml").touch()
        os.utime(folder / "opdjob.yaml", (STARTED, STARTED))
        return folder

    return make


@pytest.fixture
def invoke():
    def invoke(verb, *arguments):
        app = typer.Typer()
        app.command()(verb)
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


TRAINING = {
    "phase": "Training",
    "step": 120,
    "metrics": {"opd/reverse_kl": 0.18249, "reward/raw": 0.6249, "eval/pass@1": 0.8149},
    "trend": "Falling",
    "teachers": (TeacherReport(name="teacher", mode="SGLang", ready=True, ready_replicas=1, replicas=1),),
    "checkpoint": CheckpointReport(step=100, uri="pvc://checkpoints/x"),
}


def test_small_numbers_and_a_teacher_in_the_trainers_read_as_in_kubectl(make_run):
    in_trainers = TeacherReport(name="teacher", mode="Megatron", ready=True, ready_replicas=8, replicas=1)
    run = make_run("big", **TRAINING | {"metrics": {"opd/reverse_kl": 4e-4}, "teachers": (in_trainers,)})
    row = dict(zip(HEADINGS, row_of(run, STARTED), strict=True))
    assert (row["KL"], row["TEACHER"], row["PASS@1"]) == ("4e-04", "Megatron", "<none>")


def test_row_has_the_columns_of_kubectl(make_run):
    row = dict(zip(HEADINGS, row_of(make_run("qwen", **TRAINING), STARTED + 192), strict=True))
    assert row == {
        "NAME": "qwen",
        "PHASE": "Training",
        "STEP": "120/300",
        "KL": "0.182",
        "REWARD": "0.62",
        "TEACHER": "SGLang 1/1",
        "AGE": "3m12s",
        "TREND": "Falling",
        "PASS@1": "0.81",
        "ATTEMPT": "1",
        "CHECKPOINT": "100",
        "RAYCLUSTER": "<none>",
    }


def test_run_that_has_measured_nothing_shows_none(make_run):
    row = row_of(make_run("young"), STARTED + 1)
    assert row == ("young", "Starting", "0/300", *["<none>"] * 3, "1s", *["<none>"] * 2, "1", "<none>", "<none>")


def test_folder_of_runs_is_a_table_in_order_of_names(make_run, invoke):
    make_run("b", **TRAINING)
    folder = make_run("a").parent
    (folder / "volumes").mkdir()
    lines = invoke(get, folder).output.splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "a", "b"]
    assert len({line.index(cell) for line, cell in zip(lines, ("PHASE", "Starting", "Training"), strict=True)}) == 1


def test_place_without_a_run_is_an_error_with_its_path(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        find_runs([tmp_path])


def test_unreadable_document_is_an_error_with_its_path(make_run):
    folder = make_run("x")
    (folder / "progress.json").write_text("{}")
    with pytest.raises(UserError, match=r"progress\.json: is no progress document"):
        row_of(folder, STARTED)


def test_watching_prints_a_run_again_when_it_moves_and_ends_when_all_have_ended(make_run, capsys):
    states = iter([TRAINING, TRAINING | {"step": 121}, TRAINING | {"step": 121}, {"phase": "Succeeded", "step": 300}])
    folder = make_run("x", **TRAINING)
    follow({folder: row_of(folder, STARTED)}, sleep=lambda _: make_run("x", **next(states)))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(line[1], line[2]) for line in lines] == [("Training", "121/300"), ("Succeeded", "300/300")]


@pytest.mark.parametrize(
    ("seconds", "want"),
    [
        (-3, "0s"),
        (119, "119s"),
        (120, "2m"),
        (192, "3m12s"),
        (2520, "42m"),
        (18420, "5h7m"),
        (100_000, "27h"),
        (3 * 86400, "3d"),
        (3 * 86400 + 4 * 3600, "3d4h"),
        (30 * 86400 + 3600, "30d"),
    ],
)
def test_age_is_written_as_kubectl_writes_it(seconds, want):
    assert age_text(seconds) == want


def test_get_answers_without_torch_ray_or_matplotlib():
    code = "import sys, opd_runtime.cli.get, opd_runtime.cli.plot; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"torch", "ray", "matplotlib", "numpy"} & set(loaded.stdout.split())


@pytest.fixture
def record_run(tmp_path, make_record):
    def record(steps, **more):
        run = tmp_path / "arithmetic"
        run.mkdir(exist_ok=True)
        log = MetricsLog(run / "metrics.jsonl")
        log.start(0)
        for step in steps:
            log.append(make_record(step, evaluated=step % 5 == 0, **more))
        log.close()
        return run

    return record


@pytest.mark.parametrize(
    ("steps", "more"),
    [
        pytest.param(range(11), {}, id="a whole run"),
        pytest.param([1], {}, id="a single step"),
        pytest.param(range(1, 4), {"opd/reverse_kl": -0.01}, id="a reverse KL below zero"),
        pytest.param(range(11), {"eval/teacher_pass@1": 0.99, "policy/entropy": 0.3}, id="with teacher and entropy"),
    ],
)
def test_plot_is_a_png_where_it_was_asked_for(record_run, invoke, tmp_path, steps, more):
    out = tmp_path / "deep" / "picture.png"
    result = invoke(plot, record_run(steps, **more), "-o", out)
    assert result.exit_code == 0, result.exception
    assert result.output.strip() == str(out)
    assert out.read_bytes().startswith(b"\x89PNG")


def test_plot_lies_in_the_run_by_default(record_run, invoke):
    run = record_run(range(3))
    assert invoke(plot, run).output.strip() == str(run / "plots" / "overview.png")
    assert (run / "plots" / "overview.png").exists()


@pytest.mark.parametrize("steps", [[], [0]], ids=["no record", "only the evaluation before training"])
def test_run_without_a_step_cannot_be_plotted(record_run, invoke, steps):
    result = invoke(plot, record_run(steps))
    assert isinstance(result.exception, UserError)
    assert "no finished step" in str(result.exception)
