"""Does the job fit this machine? In numbers, before anything starts."""

from pathlib import Path
from typing import Any

import pytest

from opd_api.documents import ModelSummary
from opd_api.load import job_from_document, set_path
from opd_runtime.orchestrate import machine
from opd_runtime.orchestrate.machine import GIB, Machine, machine_problems, this_machine

LARGE = ModelSummary(
    architecture="Qwen3ForCausalLM",
    hidden_size=4096,
    num_layers=36,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    ffn_hidden_size=12288,
    vocab_size=151936,
    max_position_embeddings=40960,
    tie_word_embeddings=False,
    dtype="bfloat16",
    parameter_count=8_190_735_360,
    tokenizer_fingerprint="x",
)


def problems(machine: Machine, *sets: str) -> list[str]:
    document: dict[str, Any] = {
        "apiVersion": "opd.dev/v1alpha1",
        "kind": "OPDJob",
        "metadata": {"name": "job"},
        "spec": {
            "student": {"model": "hf://a/student"},
            "teachers": [{"mode": "SGLang", "model": "hf://a/teacher"}],
            "data": {"prompts": [{"uri": "hf://datasets/a/b"}]},
            "steps": 1,
        },
    }
    for assignment in sets:
        set_path(document, assignment)
    job = job_from_document(document)
    return [str(problem) for problem in machine_problems(job, {"student": LARGE, "teacher": LARGE}, machine)]


BIG = Machine(gpus=8, gpu_bytes=141 * GIB, host_bytes=2000 * GIB)


def test_a_job_that_fits_has_no_problem() -> None:
    assert problems(BIG, "student.parallelism.tensor=4", "student.trainers.gpusPerReplica=4") == []


def test_too_few_gpus_are_counted_for_trainers_engines_and_teacher() -> None:
    [problem] = problems(Machine(gpus=2, gpu_bytes=141 * GIB, host_bytes=2000 * GIB))
    assert "want 3 GPUs, PyTorch sees 2" in problem and "sglang.endpoint" in problem


def test_a_machine_without_a_gpu_is_told_so() -> None:
    [problem] = problems(Machine(gpus=0, gpu_bytes=0, host_bytes=2000 * GIB))
    assert "PyTorch sees 0" in problem and "device: CPU" in problem


def test_a_trainer_larger_than_its_gpu_is_refused_in_numbers() -> None:
    [problem] = problems(Machine(gpus=8, gpu_bytes=24 * GIB, host_bytes=2000 * GIB))
    assert "spec.student" in problem and "the GPU has 24.0 GiB" in problem and "parallelism.tensor" in problem


@pytest.mark.parametrize("host_gib", [1, 30])
def test_too_little_memory_on_a_cpu_machine_is_refused_in_numbers(host_gib: int) -> None:
    machine = Machine(gpus=0, gpu_bytes=0, host_bytes=host_gib * GIB)
    [problem] = problems(machine, "device=CPU")
    assert f"{host_gib}.0 GiB are free" in problem and "opd render --models" in problem


def test_a_containers_file_cache_counts_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a download left in the page cache goes as soon as somebody wants its room."""
    for name, text in {
        "memory.max": "4096",
        "memory.current": "4000",
        "memory.stat": "anon 1000\ninactive_file 2900\n",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "CONTROL_GROUP", tmp_path)
    assert this_machine().host_bytes == 4096 - 4000 + 2900
    (tmp_path / "memory.max").write_text("max")
    assert this_machine().host_bytes > 4096


def test_this_machine_has_memory() -> None:
    assert this_machine().host_bytes > GIB // 4
