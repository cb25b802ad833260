"""The memory plan: the examples fit their GPUs, and what does not fit is refused with numbers and a way out.

Not shown: that a GPU takes as much as the estimate says; tests/gpu compares that.
"""

import re
from pathlib import Path

import pytest
import yaml
from child_jobs import QWEN3_8B, QWEN3_32B, make_job, make_settings
from operator_makers import (
    condition,
    decide,
    make_config,
    make_observed,
    make_status,
    settled,
    stored_models,
)

from opd_api.documents import ModelsReport
from opd_api.load import load_job_file
from opd_api.spec import OPDJob
from opd_operator.plan.memory import estimate_of, refusal
from opd_operator.plan.quantity import bytes_of
from opd_operator.settings import GIB

ROOT = Path(__file__).parents[4]
EXAMPLES = sorted((ROOT / "examples" / "on_policy_distillation").glob("opdjob*.yaml"))
MODELS = {"student": QWEN3_8B, "teacher": QWEN3_32B}
SETTINGS = make_settings(gpu_memory_bytes=79 * GIB)
"""What an 80 GB H100 or A100 offers."""

each_example = pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)


def example(mode: str, **changes) -> OPDJob:
    """One of the two, with `a__b=value` at `spec.a.b`."""
    file = next(file for file in EXAMPLES if mode in file.stem)
    document = yaml.safe_load(file.read_text())
    for place, value in changes.items():
        *parents, last = place.split("__")
        node = document["spec"]
        for name in parents:
            node = node[int(name)] if name.isdigit() else node.setdefault(name, {})
        node[last] = value
    return make_job(document)


@each_example
def test_the_examples_fit_80_gb_gpus(file, record_property):
    job = load_job_file(file)
    memory = estimate_of(job, MODELS, SETTINGS)
    assert refusal(job, MODELS, SETTINGS) is None
    assert memory.trainer.gpu_bytes < 0.7 * SETTINGS.gpu_memory_bytes, "room for what an estimate does not know"
    assert memory.engine.cache_tokens > 20 * memory.engine.longest_tokens, "an engine holds a batch, not one sample"
    record_property("trainer_gpu_gib", round(memory.trainer.gpu_bytes / GIB, 1))
    record_property("trainer_host_gib", round(memory.trainer.host_bytes / GIB, 1))


@each_example
def test_the_examples_readme_has_the_plans_numbers(file):
    job = load_job_file(file)
    memory = estimate_of(job, MODELS, SETTINGS)
    readme = (file.parent / "README.md").read_text()
    row = next(line for line in readme.splitlines() if file.name in line and "GiB" in line)
    pods = job.spec.student.trainers
    for size in (memory.trainer.gpu_bytes, memory.trainer.host_bytes * pods.gpus_per_replica):
        assert f"{size / GIB:.1f} GiB" in row


@each_example
def test_the_examples_head_counts_their_gpus(file):
    spec = load_job_file(file).spec
    trainers, engines, (teacher,) = spec.student.trainers, spec.rollout.engines, spec.teachers
    gpus = trainers.replicas * trainers.gpus_per_replica + engines.replicas * engines.gpus_per_replica
    gpus += teacher.sglang.replicas * teacher.sglang.gpus_per_replica if teacher.mode == "SGLang" else 0
    assert int(re.search(r"^# (\d+) GPUs of 80 GB", file.read_text(), re.MULTILINE)[1]) == gpus


@pytest.mark.parametrize(
    ("job", "want_reason", "want_words"),
    [
        pytest.param(
            example("sglang", student__parallelism={"tensor": 1}),
            "InsufficientGPUMemory",
            ["a trainer needs 151.3 GiB", "57.2 GiB of weights, gradients and optimizer", "a GPU has 79.0 GiB"],
            id="a student that is not split",
        ),
        pytest.param(
            example("sglang", student__parallelism={"tensor": 2, "sequence": True}),
            "InsufficientGPUMemory",
            ["82.7 GiB", "student.recompute: Full (45.5 GiB)", "student.maxTokensPerGPU: 10240 (65.7 GiB)"],
            id="activations that are kept",
        ),
        pytest.param(
            example("sglang", student__trainers={"gpusPerReplica": 1}, student__parallelism={"tensor": 1}),
            "InsufficientGPUMemory",
            [
                "231.4 GiB",
                "student.trainers.gpusPerReplica: 8 with parallelism.tensor: 8 and sequence: true (31.2 GiB)",
            ],
            id="one GPU for a training that needs a node",
        ),
        pytest.param(
            example(
                "megatron",
                student__maxTokensPerGPU=28672,
                teachers__0__megatron={"placement": "Resident"},
            ),
            "InsufficientTeacherMemory",
            ["with teacher teacher (Resident) a trainer needs", "without it", "megatron.placement: Offloaded ("],
            id="a resident teacher too many",
        ),
        pytest.param(
            example("megatron", student__trainers={"gpusPerReplica": 8, "resources": {"limits": {"memory": "100Gi"}}}),
            "InsufficientTeacherMemory",
            ["limits.memory: 100.0 GiB cannot hold the teacher's weights", "8 ranks with 15.3 GiB each", "542.8 GiB"],
            id="a memory limit below an offloaded teacher",
        ),
        pytest.param(
            example("sglang", rollout__engines={"replicas": 6, "memoryFraction": 0.2}),
            "InsufficientGPUMemory",
            [
                "spec.rollout.engines:",
                "15.3 GiB of weights",
                "10240 tokens of the longest sample",
                "memoryFraction: 0.9",
            ],
            id="an engine with too small a share",
        ),
        pytest.param(
            example("sglang", teachers__0__sglang={"gpusPerReplica": 1}, rollout__maxResponseTokens=25000),
            "InsufficientTeacherMemory",
            ["spec.teachers[0].sglang:", "61.0 GiB of weights", "0.85 of a GPU's 79.0 GiB", "set gpusPerReplica: 2"],
            id="a teacher server on one GPU with long samples",
        ),
        pytest.param(
            example("sglang", teachers__0__sglang={"gpusPerReplica": 2, "memoryFraction": 0.1}),
            "InsufficientTeacherMemory",
            ["30.5 GiB of weights", "set memoryFraction: 0.9, or take a smaller model or shorter responses"],
            id="a teacher server that no node would hold",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_numbers(job, want_reason, want_words):
    found = refusal(job, MODELS, SETTINGS)
    assert found is not None and found.reason == want_reason, found
    assert [word for word in want_words if word not in found.message] == [], found.message


def test_the_docs_show_a_refusal_as_it_is():
    page = (ROOT / "docs" / "memory-plan.md").read_text()
    job = example("sglang", student__parallelism={"tensor": 2, "sequence": True})
    assert refusal(job, MODELS, make_settings(gpu_memory_bytes=80 * GIB)).message in " ".join(page.split())


def test_every_remedy_helps():
    """The numbers in brackets are calculated, and the change is accepted by the rules."""
    found = refusal(example("sglang", student__parallelism={"tensor": 1}), MODELS, SETTINGS)
    assert "student.parallelism.tensor: 4 with sequence: true (48.3 GiB)" in found.message
    assert refusal(example("sglang", student__parallelism={"tensor": 4, "sequence": True}), MODELS, SETTINGS) is None


def test_no_remedy_is_offered_that_the_rules_refuse():
    """An optimizer of FP32 weights cannot move; BF16 is the change that helps."""
    job = example("sglang", student__precision="FP32", student__maxTokensPerGPU=28672)
    found = refusal(job, MODELS, SETTINGS)
    assert "student.precision: BF16 (" in found.message and "optimizer.offload" not in found.message, found.message


def test_a_refusal_ends_the_job_before_anything_is_made():
    job = example("sglang", student__parallelism={"tensor": 1})
    config = make_config(job, models=stored_models(job, ModelsReport(models=MODELS)))
    decision = decide(settled(make_observed(job, name=job.metadata.name, status=make_status(), config=config)))
    assert condition(decision, "Accepted").reason == "InsufficientGPUMemory"
    assert (condition(decision, "Failed").reason, decision.status.attempt) == ("UserError", None)
    assert decision.status.memory_plan.trainer.gpu_bytes > 80 * GIB
    assert decision.status.message == condition(decision, "Accepted").message


def test_the_plan_is_in_the_status():
    job = example("megatron")
    config = make_config(job, models=stored_models(job, ModelsReport(models=MODELS)))
    plan = decide(
        settled(make_observed(job, name=job.metadata.name, status=make_status(), config=config))
    ).status.memory_plan
    assert round(plan.trainer.gpu_bytes / GIB, 1) == 48.3
    assert round(plan.trainer.teacher_host_bytes / GIB, 1) == 15.3
    assert plan.engine.gpu_bytes == int(0.8 * 80 * GIB)


@pytest.mark.parametrize(
    ("quantity", "want"),
    [
        pytest.param("16Gi", 16 * GIB, id="binary"),
        pytest.param("1.5G", 1_500_000_000, id="decimal"),
        pytest.param(1024, 1024, id="a number"),
        pytest.param("500m", 0, id="thousandths"),
        pytest.param(None, None, id="none"),
        pytest.param("much", None, id="no quantity"),
    ],
)
def test_quantities(quantity, want):
    assert bytes_of(quantity) == want
