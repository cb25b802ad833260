"""`opd eval` with a real SGLang server; the right answers come from transformers, not from us."""

import json
import subprocess
from pathlib import Path

import pytest

PROMPTS = ("1+1=", "12*3=", "abc", "(7-2)=")
MAX_TOKENS = 6


@pytest.fixture(scope="module")
def model(make_model) -> Path:
    return make_model()


@pytest.fixture(scope="module")
def prompts(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four prompts: two labelled with what the model answers greedily, two with something else."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    file = tmp_path_factory.mktemp("prompts") / "test.jsonl"
    with file.open("w") as out:
        for number, prompt in enumerate(PROMPTS):
            ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False)])
            answer = network.generate(ids, max_new_tokens=MAX_TOKENS, do_sample=False)[0, ids.shape[1] :]
            label = tokenizer.decode(answer, skip_special_tokens=True) if number < 2 else "nothing like it"
            out.write(json.dumps({"prompt": prompt, "label": label}) + "\n")
    return file


@pytest.fixture(scope="module")
def broken(make_model) -> Path:
    folder = make_model()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["NoSuchModel"]}))
    return folder


@pytest.fixture(scope="module")
def job_folder(model: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """job.yaml, whose models are nowhere, and what its run has exported."""
    folder = tmp_path_factory.mktemp("job")
    job = {
        "apiVersion": "opd.dev/v1alpha1",
        "kind": "OPDJob",
        "metadata": {"name": "tiny"},
        "spec": {
            "device": "CPU",
            "student": {"model": f"file://{folder}/not-there"},
            "teachers": [{"mode": "Megatron", "model": f"file://{folder}/nor-there"}],
            "data": {"prompts": [{"uri": f"file://{prompts}"}], "applyChatTemplate": False},
            "rollout": {"maxResponseTokens": MAX_TOKENS},
            "evaluation": {"everySteps": 1, "prompts": [{"uri": f"file://{prompts}"}]},
            "steps": 1,
        },
    }
    (folder / "job.yaml").write_text(json.dumps(job))
    (folder / "runs/tiny").mkdir(parents=True)
    (folder / "runs/tiny/export").symlink_to(model)
    return folder


@pytest.fixture(scope="module")
def evaluations(start_opd, ended, model, prompts, job_folder, broken) -> dict[str, subprocess.CompletedProcess]:
    """Side by side: a server's start is most of each, and uses one core."""
    answers = ("--set", f"evaluation.maxResponseTokens={MAX_TOKENS}", "--json")
    started = {
        "folder": start_opd("eval", model, "--prompts", prompts, *answers),
        "job": start_opd("eval", "job.yaml", cwd=job_folder),
        "broken": start_opd("eval", broken, "--prompts", prompts),
    }
    return {name: ended(process) for name, process in started.items()}


def test_a_folder_is_measured_on_a_file_of_prompts(evaluations, model):
    done = evaluations["folder"]
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["pass_at_1"], result["n"], result["failed"]) == (0.5, 4, 0)
    assert result["low"] == pytest.approx(0.1500, abs=1e-3) and result["high"] == pytest.approx(0.8500, abs=1e-3)
    assert result["model"] == str(model)


def test_a_job_is_measured_on_its_own_prompts_with_the_student_its_run_has_exported(evaluations):
    done = evaluations["job"]
    assert done.returncode == 0, done.stderr
    assert done.stderr == "evaluating runs/tiny/export\n"
    assert done.stdout.startswith("runs/tiny/export: pass@1 0.500, 95 % interval 0.150 to 0.850, 4 answers of ")


def test_a_model_without_prompts_is_wrong_usage(opd, model):
    result = opd("eval", model)
    assert result.returncode == 2
    assert "add --prompts FILE" in result.stderr


def test_a_model_that_sglang_cannot_serve_is_one_error_with_its_log(evaluations, broken):
    result = evaluations["broken"]
    assert result.returncode == 1
    assert result.stderr.splitlines()[1].startswith(f"error: SGLang for {broken} ended")
    log = result.stderr.split("hint: the whole log: ")[1]
    assert "Traceback (most" not in log
    assert "NoSuchModel" in Path(log.strip()).read_text()
    Path(log.strip()).unlink()  # kept for who asks why; nobody does here
