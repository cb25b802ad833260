"""Models that do not fit each other, the layout or the lengths are refused before anything is loaded."""

import pytest

from opd_api.documents import ModelSummary
from opd_api.load import job_from_document
from opd_api.rules import check_models

MEGATRON = "teachers: [{name: big, mode: Megatron, model: hf://a/b}]"
SERVER = "teachers: [{name: big, mode: SGLang, model: hf://a/b, sglang: {gpusPerReplica: 8}}]"


def make_summary(**changes: object) -> ModelSummary:
    shape = {
        "architecture": "Qwen3ForCausalLM",
        "hidden_size": 64,
        "num_layers": 4,
        "num_heads": 8,
        "num_kv_heads": 4,
        "head_dim": 8,
        "ffn_hidden_size": 128,
        "vocab_size": 1000,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
        "parameter_count": 1_000_000,
        "tokenizer_fingerprint": "same",
    }
    return ModelSummary(**{**shape, **changes})


STUDENT = {"student": make_summary()}


@pytest.mark.parametrize(
    ("changes", "models", "want_path", "want_words"),
    [
        pytest.param(
            "",
            {"student": make_summary(architecture="GPT2LMHeadModel")},
            "spec.student.model",
            "GPT2LMHeadModel is not available",
            id="student of an unknown family",
        ),
        pytest.param(
            MEGATRON,
            STUDENT | {"big": make_summary(architecture="MixtralForCausalLM")},
            "spec.teachers[0].model",
            "Qwen3ForCausalLM, LlamaForCausalLM",
            id="Megatron teacher of an unknown family",
        ),
        pytest.param(
            "",
            STUDENT | {"teacher": make_summary(tokenizer_fingerprint="other")},
            "spec.teachers[0].model",
            "its tokenizer differs",
            id="teacher with another tokenizer",
        ),
        pytest.param(
            "algorithm: {reference: {model: hf://a/b, lossKLCoef: 0.1}}",
            STUDENT | {"reference": make_summary(tokenizer_fingerprint="other")},
            "spec.algorithm.reference.model",
            "its tokenizer differs",
            id="reference with another tokenizer",
        ),
        pytest.param(
            "algorithm: {reference: {model: hf://a/b, rewardKLCoef: 0.1, updateEverySteps: 100}}",
            STUDENT | {"reference": make_summary(num_layers=8)},
            "spec.algorithm.reference.updateEverySteps",
            "num layers is 8, the student's 4",
            id="a larger reference that is to follow the student",
        ),
        pytest.param(
            "",
            STUDENT | {"teacher": make_summary(vocab_size=999)},
            "spec.teachers[0].model",
            "999 rows, the student's 1000",
            id="teacher with a smaller vocabulary",
        ),
        pytest.param(
            "",
            STUDENT | {"teacher": make_summary(max_position_embeddings=5120)},
            "spec.teachers[0].model",
            "5120 tokens is shorter than prompt + response + 1 = 5121",
            id="teacher context one token too short",
        ),
        pytest.param(
            "evaluation: {everySteps: 5, prompts: [{uri: file:///a}], maxResponseTokens: 8000}",
            STUDENT,
            "spec.student.model",
            "= 9025",
            id="student context too short for the evaluation",
        ),
        pytest.param(
            "student: {parallelism: {tensor: 3}, trainers: {replicas: 3}}",
            STUDENT,
            "spec.student.parallelism.tensor",
            "3 does not divide the 8 attention heads of student",
            id="TP that does not divide heads",
        ),
        pytest.param(
            "student: {parallelism: {tensor: 8}, trainers: {replicas: 8}}",
            STUDENT,
            "spec.student.parallelism.tensor",
            "8 does not divide the 4 key-value heads of student",
            id="TP that does not divide key-value heads",
        ),
        pytest.param(
            f"{{student: {{parallelism: {{tensor: 2}}, trainers: {{replicas: 2}}}}, {MEGATRON}}}",
            STUDENT | {"big": make_summary(num_heads=7, num_kv_heads=7)},
            "spec.student.parallelism.tensor",
            "heads of big (spec.teachers[0].model)",
            id="TP that does not divide the Megatron teacher",
        ),
        pytest.param(
            "rollout: {engines: {gpusPerReplica: 3}}",
            STUDENT,
            "spec.rollout.engines.gpusPerReplica",
            "3 does not divide the 8 attention heads",
            id="engine over three GPUs",
        ),
        pytest.param(
            SERVER,
            STUDENT | {"big": make_summary(num_heads=12)},
            "spec.teachers[0].sglang.gpusPerReplica",
            "8 does not divide the 12 attention heads",
            id="teacher server over eight GPUs",
        ),
    ],
)
def test_models_that_do_not_fit_are_refused(make_document, changes, models, want_path, want_words):
    problems = check_models(job_from_document(make_document(changes)), models)
    found = [str(problem) for problem in problems if problem.path == want_path]
    assert any(want_words in text and "hint: " in text for text in found), problems


@pytest.mark.parametrize(
    ("changes", "models"),
    [
        pytest.param("", STUDENT | {"teacher": make_summary()}, id="twins in shape"),
        pytest.param("", STUDENT, id="teacher behind an endpoint is not known"),
        pytest.param("", STUDENT | {"teacher": make_summary(vocab_size=1024)}, id="teacher with more padding rows"),
        pytest.param(
            "", STUDENT | {"teacher": make_summary(architecture="MixtralForCausalLM")}, id="server of any family"
        ),
        pytest.param(
            SERVER, STUDENT | {"big": make_summary(num_heads=16, num_kv_heads=3)}, id="server with its own layout"
        ),
        pytest.param(
            "", STUDENT | {"teacher": make_summary(max_position_embeddings=5121)}, id="context that just fits"
        ),
    ],
)
def test_models_that_fit_are_let_through(make_document, changes, models):
    assert check_models(job_from_document(make_document(changes)), models) == []


def test_layers_that_do_not_split_into_stages_are_refused(make_document):
    """Pipelines are refused by name today, so the job is built without asking that rule."""
    job = job_from_document(make_document(""))
    split = job.spec.student.parallelism.model_copy(update={"pipeline": 3})
    student = job.spec.student.model_copy(update={"parallelism": split})
    job = job.model_copy(update={"spec": job.spec.model_copy(update={"student": student})})
    assert [problem.path for problem in check_models(job, STUDENT)] == ["spec.student.parallelism.pipeline"]
