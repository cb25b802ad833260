"""`opd fetch`: where a job's models and data lie, or that they cannot be had. The hub itself is tested with `uris`."""

import json

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from opd_api.documents import ModelsReport, ModelSummary, parse_models
from opd_api.errors import InvalidJob, Problem
from opd_runtime.cli.fetch import REPORT_LIMIT_BYTES, problems_report


def test_every_place_of_a_job_is_printed_with_its_folder(opd, job_file, models):
    result = opd("fetch", job_file, "--volume", f"models={models}")
    assert result.code == 0
    assert result.out.splitlines() == [
        f"spec.student.model: pvc://models/student -> {models}/student",
        f"spec.teachers[0].model: pvc://models/teacher -> {models}/teacher",
        f"spec.data.prompts[0].uri: pvc://models/prompts.jsonl -> {models}/prompts.jsonl",
    ]


def test_summary_is_one_line_of_json_by_role_that_the_contract_reads(opd, job_file, models):
    result = opd("fetch", job_file, "--summary", "--volume", f"models={models}")
    shapes = {role: ModelSummary.model_validate_json(json.dumps(each)) for role, each in json.loads(result.out).items()}
    assert list(shapes) == ["student", "teacher"]
    assert (shapes["student"].vocab_size, shapes["student"].parameter_count) == (16, 2)
    assert len(result.out.splitlines()) == 1


def test_places_that_are_missing_are_all_named(opd, job_file, tmp_path):
    result = opd("fetch", job_file, "--volume", f"models={tmp_path}/gone")
    assert result.code == 1
    for field in ("spec.student.model", "spec.teachers[0].model", "spec.data.prompts[0].uri"):
        assert f"{field}: pvc://models/" in result.err
    assert "--volume models=DIR" in result.err


def test_uris_are_fetched_without_a_job(opd, models, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(models / "teacher"))
    result = opd("fetch", "hf://org/teacher", "pvc://models/prompts.jsonl", "--volume", f"models={models}")
    assert result.code == 0
    assert result.out.splitlines() == [
        f"hf://org/teacher -> {models}/teacher",
        f"pvc://models/prompts.jsonl -> {models}/prompts.jsonl",
    ]


def test_a_hub_out_of_reach_is_one_line_that_names_the_uri_once(opd, monkeypatch):
    def unreachable(*_, **__):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    result = opd("fetch", "hf://org/model")
    assert result.code == 1
    assert result.err.startswith("error: hf://org/model: could not be fetched from the hub (no connection)\nhint: ")


@pytest.mark.parametrize("uri", ["hf://only-one", "ftp://host/x", "file://relative"])
def test_a_uri_of_no_known_form_is_refused(opd, uri):
    result = opd("fetch", uri)
    assert result.code == 1
    assert "hint: " in result.err


def test_several_jobs_are_wrong_usage(opd, job_file):
    assert opd("fetch", job_file, job_file).code == 2


def test_a_report_holds_the_shapes_of_every_model(opd, job_file, models, tmp_path):
    file = tmp_path / "report"
    assert opd("fetch", job_file, "--report", file, "--volume", f"models={models}").code == 0
    report = parse_models(file.read_bytes())
    assert list(report.models) == ["student", "teacher"] and report.problems == ()
    assert report.models["student"].vocab_size == 16


def test_a_report_names_every_field_the_user_must_change(opd, job_file, tmp_path):
    file = tmp_path / "report"
    assert opd("fetch", job_file, "--report", file, "--volume", f"models={tmp_path}/gone").code == 1
    problems = parse_models(file.read_bytes()).problems
    assert [problem.path for problem in problems] == [
        "spec.student.model",
        "spec.teachers[0].model",
        "spec.data.prompts[0].uri",
    ]
    assert all("does not exist" in problem.message and problem.hint for problem in problems)


def test_a_hub_out_of_reach_leaves_no_report_so_that_it_is_tried_again(opd, tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    file = tmp_path / "report"
    assert opd("fetch", "hf://org/model", "--report", file).code == 1
    assert not file.exists()


def test_what_the_user_must_change_is_reported_although_a_hub_is_out_of_reach(opd, tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    file = tmp_path / "report"
    assert opd("fetch", "hf://org/model", f"file://{tmp_path}/gone", "--report", file).code == 1
    assert [problem.path for problem in parse_models(file.read_bytes()).problems] == [f"file://{tmp_path}/gone"]


@pytest.mark.parametrize("characters", [10, 900, 4000])
@pytest.mark.parametrize("count", [1, 32, 100])
def test_problems_of_any_number_and_length_fit_into_a_termination_message(count, characters):
    problem = Problem(path="spec.student.model", message="é" * characters, hint="x" * characters)
    document = problems_report(InvalidJob([problem] * count))
    assert len(document) <= REPORT_LIMIT_BYTES
    kept = parse_models(document).problems
    assert kept and len(kept) <= min(count, 32)
    if count == 1 and characters <= 900:
        assert kept[0].message == problem.message


def test_shapes_of_the_most_models_a_job_can_name_fit_into_a_termination_message():
    """Eight teachers, student and reference, with the longest names and large numbers."""
    shape = ModelSummary(
        architecture="Qwen3MoeForCausalLM",
        hidden_size=12288,
        num_layers=128,
        num_heads=128,
        num_kv_heads=128,
        head_dim=128,
        ffn_hidden_size=53248,
        vocab_size=262144,
        max_position_embeddings=1048576,
        tie_word_embeddings=False,
        dtype="bfloat16",
        parameter_count=10**12,
        tokenizer_fingerprint="f" * 32,
        eos_token_ids=(151643, 151644, 151645),
    )
    names = [f"{number:020d}" for number in range(8)]
    report = ModelsReport(models=dict.fromkeys([*names, "student", "reference"], shape))
    assert len(report.model_dump_json()) <= REPORT_LIMIT_BYTES
