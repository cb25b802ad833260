"""The arithmetic example with an SGLang teacher: its driver is killed and the job resumed, then its teacher and its
engine are killed, and training goes on."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from opd_api.documents import Progress

from .conftest import ARITHMETIC, STEPS, OpdRun, StartRun

pytestmark = pytest.mark.timeout(1200)

SERVERS = ("engine", "teacher")


@pytest.fixture(scope="module")
def resumed(start_run: StartRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[OpdRun, str]:
    """`opd run`, kill -9 between two checkpoints, `opd run --resume` to the end, both servers killed on the way: the
    second run and what it printed."""
    run_dir = tmp_path_factory.mktemp("sglang") / "arithmetic"
    first = start_run(ARITHMETIC / "opdjob.yaml", run_dir, checkpoint__everySteps=10)
    first.wait_for_step(15)
    first.kill()
    second = start_run(ARITHMETIC / "opdjob.yaml", run_dir, "--resume", checkpoint__everySteps=10)
    second.wait_for_step(30)
    second.server("teacher").kill()
    second.wait_for_step(50)
    second.server("student").kill()
    second.wait_for_step(70)
    second.descendants()
    code, output = second.end()
    assert code == 0, output
    first.all_gone()
    second.all_gone()
    return second, output


@pytest.fixture(scope="module")
def summary(resumed: tuple[OpdRun, str]) -> dict[str, Any]:
    return json.loads((resumed[0].run_dir / "summary.json").read_text())


def test_the_student_closes_in_on_its_teacher(summary: dict[str, Any]) -> None:
    assert (summary["teacher_mode"], summary["steps"]) == ("SGLang", STEPS)
    assert summary["reverse_kl"]["first"] >= 5 * summary["reverse_kl"]["last"]
    scores = summary["pass_at_1"]
    assert scores["before"] <= 0.5
    assert scores["after"] >= 0.9
    assert scores["teacher"] >= scores["after"]


def test_every_step_is_recorded_once(resumed: tuple[OpdRun, str]) -> None:
    assert [record["step"] for record in resumed[0].steps()] == list(range(STEPS + 1))


def test_no_prompt_of_a_completed_step_comes_again(resumed: tuple[OpdRun, str]) -> None:
    """The cursor counts every prompt given out: skipped or repeated ones would show."""
    document = json.loads((resumed[0].run_dir / "checkpoints" / f"iter_{STEPS:07d}" / "driver_state.json").read_text())
    assert document["state"]["cursor"]["index"] == 64 * STEPS


def test_engine_and_trainer_agree_on_every_token(resumed: tuple[OpdRun, str]) -> None:
    resumed[0].assert_engine_had_the_trainers_weights()


def test_both_servers_were_started_again(resumed: tuple[OpdRun, str]) -> None:
    """An engine's log goes on where the first run's ended."""
    run, output = resumed
    starts = {name: (run.run_dir / "logs" / f"{name}-0.log").read_text().count("server_args=") for name in SERVERS}
    assert "teacher server 0 died" in output
    assert starts == dict.fromkeys(SERVERS, 3)


def test_the_last_words_say_what_changed_and_where_everything_lies(resumed: tuple[OpdRun, str]) -> None:
    run, output = resumed
    last_words = output[output.index("before") :]
    assert "pass@1 (held out)" in last_words and "reverse KL" in last_words
    for path in (run.run_dir / "plots" / "overview.png", run.run_dir / "checkpoints", run.run_dir / "export"):
        assert str(path) in last_words
        assert path.exists()


def test_progress_says_succeeded_and_where_the_student_is(resumed: tuple[OpdRun, str]) -> None:
    progress = Progress.model_validate_json((resumed[0].run_dir / "progress.json").read_bytes())
    assert (progress.phase, progress.step) == ("Succeeded", STEPS)
    assert progress.checkpoint is not None
    assert progress.checkpoint.export_uri == (resumed[0].run_dir / "export").as_uri()


def test_the_exported_student_scores_the_same_in_transformers_and_in_sglang(
    resumed: tuple[OpdRun, str], summary: dict
) -> None:
    """Side by side: a server's start is most of `opd eval`."""
    run_dir = resumed[0].run_dir
    argv = [sys.executable, "-m", "opd_runtime.cli", "eval", str(ARITHMETIC / "opdjob.yaml"), "--json"]
    places = [f"--run-dir={run_dir}", f"--volume=opd-examples={ARITHMETIC.parent}"]
    with subprocess.Popen([*argv, *places], stdout=subprocess.PIPE, text=True) as in_sglang:
        assert share_right(run_dir / "export") == pytest.approx(summary["pass_at_1"]["after"], abs=0.003)
        printed, _ = in_sglang.communicate()
    assert in_sglang.returncode == 0
    assert json.loads(printed)["pass_at_1"] == summary["pass_at_1"]["after"]


def share_right(model_folder: Path) -> float:
    """Of the held-out problems, answered greedily by transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    lines = (ARITHMETIC / "prompts" / "held-out.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    ids = torch.tensor([tokenizer.encode(record["prompt"]) for record in records])
    with torch.no_grad():
        out = model.generate(ids, max_new_tokens=5, do_sample=False, attention_mask=torch.ones_like(ids))
    answers = tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
    right = sum(answer.strip() == record["label"] for answer, record in zip(answers, records, strict=True))
    return right / len(records)


def test_nothing_is_left_in_the_folder_that_only_the_run_needed(resumed: tuple[OpdRun, str]) -> None:
    left = {path.name for path in resumed[0].run_dir.iterdir()}
    assert left - {"tensorboard"} == {
        ".opd-run",
        "checkpoints",
        "export",
        "logs",
        "metrics.jsonl",
        "opdjob.yaml",
        "plots",
        "progress.json",
        "summary.json",
    }
