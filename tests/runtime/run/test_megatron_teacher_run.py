"""The arithmetic example with the teacher in the trainer; its engine is killed in the middle, and the step goes on."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from .conftest import ARITHMETIC, STEPS, OpdRun, StartRun, wait_until

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def finished(start_run: StartRun, tmp_path_factory: pytest.TempPathFactory) -> OpdRun:
    run_dir = tmp_path_factory.mktemp("megatron") / "arithmetic"
    run = start_run(ARITHMETIC / "opdjob-megatron-teacher.yaml", run_dir)
    run.wait_for_step(20)
    run.server("student").kill()
    run.wait_for_step(40)
    run.descendants()
    code, output = run.end()
    assert code == 0, output
    run.all_gone()
    return run


@pytest.fixture(scope="module")
def summary(finished: OpdRun) -> dict[str, Any]:
    return json.loads((finished.run_dir / "summary.json").read_text())


def test_the_student_closes_in_on_its_teacher(summary: dict[str, Any]) -> None:
    assert (summary["teacher_mode"], summary["steps"]) == ("Megatron", STEPS)
    assert summary["reverse_kl"]["first"] >= 5 * summary["reverse_kl"]["last"]
    scores = summary["pass_at_1"]
    assert scores["before"] <= 0.5
    assert scores["after"] >= 0.9
    assert scores["teacher"] >= scores["after"]


def test_the_engine_came_back_with_the_current_weights(finished: OpdRun) -> None:
    assert [record["step"] for record in finished.steps()] == list(range(STEPS + 1))
    finished.assert_engine_had_the_trainers_weights()
    starts = (finished.run_dir / "logs" / "engine-0.log").read_text().count("server_args=")
    assert starts == 2


def test_no_teacher_server_was_started(finished: OpdRun) -> None:
    assert not list((finished.run_dir / "logs").glob("teacher*"))


def test_ctrl_c_saves_stops_and_resumes(start_run: StartRun, tmp_path: Path) -> None:
    """With generation one step ahead: what was generated and not trained on is not lost from the prompts."""
    options = {"rollout__maxStalenessSteps": 1, "rollout__batchSize": 16, "evaluation__everySteps": 0}
    job = ARITHMETIC / "opdjob-megatron-teacher.yaml"
    run = start_run(job, tmp_path / "run", steps=100000, **options)
    run.wait_for_step(3)
    run.signal(signal.SIGINT)
    code, output = run.end()
    run.all_gone()
    assert code == 130, output
    assert "Traceback" not in output
    progress, stopped_at = run.progress(), run.steps()[-1]["step"]
    assert (progress["phase"], progress["checkpoint"]["step"]) == ("Stopped", stopped_at)
    gaps = [record["logprob/engine_vs_trainer_abs_mean"] for record in run.steps() if record["step"] > 1]
    assert all(gap > 1e-6 for gap in gaps), "samples are one step older than the weights that train on them"

    again = start_run(job, tmp_path / "run", "--resume", steps=stopped_at + 2, **options)
    code, output = again.end()
    assert code == 0, output
    assert [record["step"] for record in again.steps()] == list(range(1, stopped_at + 3))
    state = json.loads(
        next((tmp_path / "run" / "checkpoints").glob(f"*{stopped_at + 2}/driver_state.json")).read_text()
    )
    assert state["state"]["cursor"]["index"] == 16 * (stopped_at + 2)


def test_ctrl_c_before_training_ends_at_once_and_leaves_nothing(start_run: StartRun, tmp_path: Path) -> None:
    run = start_run(ARITHMETIC / "opdjob-megatron-teacher.yaml", tmp_path / "run")
    wait_until(lambda: (run.run_dir / "logs" / "engine-0.log").exists(), "the engine to start", run)
    run.signal(signal.SIGINT)
    code, output = run.end()
    run.all_gone()
    assert code == 130, output
    assert "Traceback" not in output
    assert run.progress()["phase"] == "Stopped"


@pytest.mark.full
def test_a_killed_trainer_ends_the_attempt_by_name_and_resume_goes_on(start_run: StartRun, tmp_path: Path) -> None:
    job, options = ARITHMETIC / "opdjob-megatron-teacher.yaml", {"checkpoint__everySteps": 20}
    run = start_run(job, tmp_path / "run", **options)
    run.wait_for_step(30)
    run.find("ray::TrainerActor").kill()
    code, output = run.end()
    run.all_gone()
    assert code == 1
    assert "trainer process died" in output and "--resume" in output
    assert run.progress()["error"]["actor"] == "Infrastructure"
    again = start_run(job, tmp_path / "run", "--resume", **options)
    code, output = again.end()
    assert code == 0, output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["reverse_kl"]["first"] >= 5 * summary["reverse_kl"]["last"]
    assert summary["pass_at_1"]["after"] >= 0.9


@pytest.mark.full
def test_a_driver_killed_while_it_saves_leaves_a_checkpoint_to_go_on_from(start_run: StartRun, tmp_path: Path) -> None:
    job, options = ARITHMETIC / "opdjob-megatron-teacher.yaml", {"checkpoint__everySteps": 1, "steps": 12}
    run = start_run(job, tmp_path / "run", **options)
    run.wait_for_step(3)
    checkpoints = run.run_dir / "checkpoints"

    def saving() -> bool:
        folders = list(checkpoints.glob("iter_*"))
        return any(not (folder / "driver_state.json").exists() for folder in folders)

    wait_until(saving, "a save to be under way", run)
    run.kill()
    run.all_gone()
    again = start_run(job, tmp_path / "run", "--resume", **options)
    code, output = again.end()
    assert code == 0, output
    assert [record["step"] for record in again.steps()] == list(range(13))


@pytest.mark.full
def test_a_run_killed_while_it_starts_leaves_nothing(start_run: StartRun, tmp_path: Path) -> None:
    job = ARITHMETIC / "opdjob-megatron-teacher.yaml"
    run = start_run(job, tmp_path / "run", steps=2)
    wait_until(lambda: (run.run_dir / "logs" / "engine-0.log").exists(), "the engine to start", run)
    run.kill()
    run.all_gone()
    again = start_run(job, tmp_path / "run", "--resume", steps=2)
    code, output = again.end()
    assert code == 0, output
