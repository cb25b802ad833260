"""The arithmetic example with the teacher in the trainer, one step ahead: stopped by Ctrl-C, and resumed."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from .conftest import ARITHMETIC, OpdRun, StartRun, wait_until

pytestmark = pytest.mark.timeout(1200)

JOB = ARITHMETIC / "opdjob-megatron-teacher.yaml"
STEPS = 80
"""Two thirds of the example's are enough; test_examples_train has them all, for three seeds."""
AHEAD = {"rollout__maxStalenessSteps": 1, "steps": STEPS}


@pytest.fixture(scope="module")
def stopped(start_run: StartRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[OpdRun, str]:
    """The run, which has ended, and what it printed."""
    run = start_run(JOB, tmp_path_factory.mktemp("megatron") / "arithmetic", **AHEAD)
    run.wait_for_step(20)
    run.signal(signal.SIGINT)
    code, output = run.end()
    assert code == 130, output
    run.all_gone()
    return run, output


@pytest.fixture(scope="module")
def stopped_at(stopped: tuple[OpdRun, str]) -> int:
    """The step; read before anything goes on from there."""
    run, _ = stopped
    progress, step = run.progress(), run.steps()[-1]["step"]
    assert (progress["phase"], progress["checkpoint"]["step"]) == ("Stopped", step)
    return step


@pytest.fixture(scope="module")
def finished(start_run: StartRun, stopped: tuple[OpdRun, str], stopped_at: int) -> OpdRun:
    again = start_run(JOB, stopped[0].run_dir, "--resume", **AHEAD)
    again.wait_for_step(stopped_at + 1)
    again.descendants()
    code, output = again.end()
    assert code == 0, output
    again.all_gone()
    return again


def test_ctrl_c_saves_and_stops(stopped: tuple[OpdRun, str], stopped_at: int) -> None:
    assert "Traceback" not in stopped[1]
    assert 20 <= stopped_at < STEPS


def test_samples_are_one_step_older_than_the_weights_that_train_on_them(finished: OpdRun, stopped_at: int) -> None:
    """But where nobody could generate ahead."""
    trained = [record for record in finished.steps() if record["step"] > 0]
    fresh = [record["step"] for record in trained if record["logprob/engine_vs_trainer_abs_mean"] <= 1e-6]
    assert fresh == [1, stopped_at + 1]


def test_what_was_generated_ahead_and_not_trained_on_is_not_lost_from_the_prompts(finished: OpdRun) -> None:
    assert [record["step"] for record in finished.steps()] == list(range(STEPS + 1))
    state = json.loads((finished.run_dir / "checkpoints" / f"iter_{STEPS:07d}" / "driver_state.json").read_text())
    assert state["state"]["cursor"]["index"] == 64 * STEPS


def test_the_student_closes_in_on_its_teacher(finished: OpdRun) -> None:
    summary: dict[str, Any] = json.loads((finished.run_dir / "summary.json").read_text())
    assert (summary["teacher_mode"], summary["steps"]) == ("Megatron", STEPS)
    assert summary["reverse_kl"]["first"] >= 5 * summary["reverse_kl"]["last"]
    scores = summary["pass_at_1"]
    assert scores["before"] <= 0.5
    assert scores["after"] >= 0.9
    assert scores["teacher"] >= scores["after"]


def test_no_teacher_server_was_started(finished: OpdRun) -> None:
    assert not list((finished.run_dir / "logs").glob("teacher*"))


@pytest.mark.full
def test_a_killed_trainer_ends_the_attempt_by_name_and_resume_goes_on(start_run: StartRun, tmp_path: Path) -> None:
    options = {"checkpoint__everySteps": 20}
    run = start_run(JOB, tmp_path / "run", **options)
    run.wait_for_step(30)
    run.find("ray::TrainerActor").kill()
    code, output = run.end()
    run.all_gone()
    assert code == 1
    assert "trainer process died" in output and "--resume" in output
    assert run.progress()["error"]["actor"] == "Infrastructure"
    again = start_run(JOB, tmp_path / "run", "--resume", **options)
    code, output = again.end()
    assert code == 0, output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["reverse_kl"]["first"] >= 5 * summary["reverse_kl"]["last"]
    assert summary["pass_at_1"]["after"] >= 0.9


@pytest.mark.full
def test_a_driver_killed_while_it_saves_leaves_a_checkpoint_to_go_on_from(start_run: StartRun, tmp_path: Path) -> None:
    options = {"checkpoint__everySteps": 1, "steps": 12}
    run = start_run(JOB, tmp_path / "run", **options)
    run.wait_for_step(3)
    checkpoints = run.run_dir / "checkpoints"

    def saving() -> bool:
        folders = list(checkpoints.glob("iter_*"))
        return any(not (folder / "driver_state.json").exists() for folder in folders)

    wait_until(saving, "a save to be under way", run)
    run.kill()
    run.all_gone()
    again = start_run(JOB, tmp_path / "run", "--resume", **options)
    code, output = again.end()
    assert code == 0, output
    assert [record["step"] for record in again.steps()] == list(range(13))


@pytest.mark.full
def test_a_run_killed_while_it_starts_leaves_nothing(start_run: StartRun, tmp_path: Path) -> None:
    run = start_run(JOB, tmp_path / "run", steps=2)
    wait_until(lambda: (run.run_dir / "logs" / "engine-0.log").exists(), "the engine to start", run)
    run.kill()
    run.all_gone()
    again = start_run(JOB, tmp_path / "run", "--resume", steps=2)
    code, output = again.end()
    assert code == 0, output
