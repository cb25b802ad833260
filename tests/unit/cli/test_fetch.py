"""`opd fetch`: where a job's models and data lie, or that they cannot be had. The hub itself is tested with `uris`."""

import json

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from opd_api.documents import ModelSummary


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
