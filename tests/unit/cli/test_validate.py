"""`opd validate`: one line for a good job, every problem at once for a bad one."""

import json

import pytest


def test_a_good_job_is_said_in_one_line(opd, job_file):
    result = opd("validate", job_file)
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        f"{job_file}: valid: tiny, pvc://models/student learns from teacher (Megatron, pvc://models/teacher),"
        " 3 steps of 32 x 4 samples, CPU\n"
    )


def test_set_is_applied_before_the_check(opd, job_file):
    assert "7 steps of" in opd("validate", job_file, "--set", "steps=7").out


def test_all_problems_come_at_once_each_with_its_path_and_a_remedy(opd, job_file):
    result = opd("validate", job_file, "--set", "steps=0", "--set", "distillation.klCoef=-1")
    assert (result.code, result.out) == (1, "")
    assert "spec.steps: 0 must be at least 1\nhint: " in result.err
    assert "spec.distillation.klCoef: " in result.err


@pytest.mark.parametrize(
    ("text", "want"),
    [
        pytest.param("a: [", "is not YAML", id="not YAML"),
        pytest.param("", "is empty", id="empty"),
        pytest.param("- a", "holds a list, not fields and values", id="a list"),
        pytest.param("a: 1\n---\nb: 2\n", "holds 2 documents", id="two documents"),
        pytest.param("kind: Pod\napiVersion: v1\n", "kind: 'Pod' is not OPDJob", id="another kind"),
        pytest.param(b"\xff\xfe", "is not UTF-8 text", id="not text"),
    ],
)
def test_a_file_that_holds_no_job_is_refused_in_words(opd, tmp_path, text, want):
    file = tmp_path / "job.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    result = opd("validate", file)
    assert result.code == 1
    assert want in result.err and "Traceback" not in result.err


def test_models_that_fit_are_valid(opd, job_file, models):
    assert opd("validate", job_file, "--models", "--volume", f"models={models}").code == 0


def test_models_that_do_not_fit_the_job_are_refused_by_their_numbers(opd, job_file, models):
    wide = ("--models", "--volume", f"models={models}", "--set", "rollout.maxResponseTokens=100")
    result = opd("validate", job_file, *wide)
    assert result.code == 1
    assert "spec.student.model: its context of 64 tokens is shorter than prompt + response + 1 = 117" in result.err
    assert opd("validate", job_file, *wide[3:]).code == 0


def test_models_that_cannot_be_read_are_all_named_with_their_fields(opd, job_file, models):
    (models / "student/config.json").write_text("{}")
    (models / "teacher/tokenizer.json").unlink()
    result = opd("validate", job_file, "--models", "--volume", f"models={models}")
    assert result.code == 1
    assert f"spec.student.model: {models}/student/config.json says nothing of hidden_size" in result.err
    assert "spec.teachers[0].model: " in result.err and "lacks a tokenizer" in result.err


@pytest.mark.parametrize("content", ["not json", json.dumps({"version": "1.0"})])
def test_a_broken_tokenizer_is_one_line(opd, job_file, models, content):
    (models / "teacher/tokenizer.json").write_text(content)
    result = opd("validate", job_file, "--models", "--volume", f"models={models}")
    assert result.code == 1
    assert result.err.startswith(f"spec.teachers[0].model: {models}/teacher ")
    assert len(result.err.splitlines()) == 2
