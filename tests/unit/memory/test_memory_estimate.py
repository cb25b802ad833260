"""The memory estimate against numbers worked out by hand for Qwen3-8B and Qwen3-32B.

Not shown here: that a GPU takes as much. tests/gpu compares with what is really allocated.
"""

import pytest

from opd_api.documents import ModelSummary
from opd_api.load import job_from_document
from opd_api.memory import GIB, MemoryEstimate, ServerEstimate, estimate, kv_bytes_per_token, parameters


def make_model(**changes) -> ModelSummary:
    shape = dict(
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
        tokenizer_fingerprint="a",
    )
    return ModelSummary(**shape | changes)


QWEN3_8B = make_model()
QWEN3_32B = make_model(
    hidden_size=5120, num_layers=64, num_heads=64, ffn_hidden_size=25600, parameter_count=32_762_123_264
)
LLAMA = make_model(
    architecture="LlamaForCausalLM",
    hidden_size=2048,
    num_layers=16,
    num_heads=32,
    head_dim=64,
    ffn_hidden_size=8192,
    vocab_size=128256,
    tie_word_embeddings=True,
    parameter_count=1_235_814_400,
)
MODELS = {"student": QWEN3_8B, "teacher": QWEN3_32B}
NORMS_8B = 36 * (2 * 4096 + 2 * 128) + 4096
SHARE_8B_TP4 = (8_190_735_360 - NORMS_8B) // 4 + NORMS_8B


def make_estimate(spec: dict | None = None, *, teacher: dict | None = None, models=MODELS, **options) -> MemoryEstimate:
    document = {
        "apiVersion": "opd.dev/v1alpha1",
        "kind": "OPDJob",
        "metadata": {"name": "job"},
        "spec": {
            "student": {"model": "file:///student"},
            "teachers": [{"mode": "SGLang", "model": "file:///teacher"} | (teacher or {})],
            "data": {"prompts": [{"uri": "file:///prompts"}]},
            "steps": 1,
        }
        | (spec or {}),
    }
    return estimate(job_from_document(document), models, **options)


def student(**fields) -> dict:
    trainers = {"replicas": 1, "gpusPerReplica": 8}
    return {"student": {"model": "file:///student", "parallelism": {"tensor": 4}, "trainers": trainers} | fields}


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(QWEN3_8B, id="Qwen3-8B, as published"),
        pytest.param(QWEN3_32B, id="Qwen3-32B, as published"),
        pytest.param(LLAMA, id="Llama-3.2-1B, tied and without head norms"),
    ],
)
def test_parameters_are_those_of_the_published_model(model):
    assert sum(parameters(model)) == model.parameter_count


def test_trainer_rank_holds_its_share_of_weights_gradients_and_optimizer():
    trainer = make_estimate(student()).trainer
    assert trainer.student.weights_bytes == SHARE_8B_TP4 * 2
    assert trainer.gradients_bytes == SHARE_8B_TP4 * 4
    assert trainer.optimizer_bytes == SHARE_8B_TP4 * 12 // 2, "main parameters and two moments over two data ranks"
    assert trainer.resident_bytes == trainer.student.weights_bytes + trainer.gradients_bytes + trainer.optimizer_bytes


def test_eighteen_bytes_a_parameter_on_one_gpu():
    """BF16 weights 2, FP32 gradients 4, main parameters 4, Adam 8; the ZeRO paper has 16 with 16-bit gradients."""
    trainer = make_estimate().trainer
    assert trainer.resident_bytes == 18 * 8_190_735_360


def test_a_checkpoint_passes_through_host_memory():
    """Whole on every rank that loads it, twice."""
    trainer = make_estimate(student()).trainer
    assert trainer.checkpoint_bytes == SHARE_8B_TP4 * 24
    assert trainer.host_bytes == trainer.student.weights_bytes + trainer.checkpoint_bytes + 3 * GIB


def test_fp32_weights_are_their_own_main_parameters():
    trainer = make_estimate({"student": {"model": "file:///student", "precision": "FP32"}}).trainer
    assert trainer.resident_bytes == (4 + 4 + 8) * 8_190_735_360


def test_activations_of_a_layer_by_hand():
    """Qwen3-8B, 16384 tokens, BF16, 4 GPUs with sequence parallelism: what a layer keeps, number by number."""
    whole = make_estimate(student(parallelism={"tensor": 4, "sequence": True})).trainer
    hidden = 4 * 4096 // 4
    projected, normalized, rotated, output = 4096 + 2 * 1024, 4096, 4096 + 1024, 4096
    heads = (projected + normalized + rotated + output + 3 * 12288) // 4
    layer = 16384 * (2 * (hidden + heads + 4 * 128) + 32 // 4 * 4)
    assert whole.activations_bytes == 36 * layer
    recomputed = make_estimate(student(parallelism={"tensor": 4, "sequence": True}, recompute="Full")).trainer
    assert recomputed.activations_bytes == 36 * 16384 * 4096 * 2 // 4 + layer


def test_logits_by_hand():
    trainer = make_estimate(student()).trainer
    assert trainer.logits_bytes == 2 * 16384 * (151936 // 4) * 2 + 4 * 1024 * (151936 // 4) * 4


def test_adams_temporaries_count_where_they_are_the_most_that_comes_and_goes():
    """Twice the embedding's share in FP32, of Qwen3-8B on one GPU with few tokens; nothing for one in host memory."""
    few = {"maxTokensPerGPU": 512, "recompute": "Full"}
    rollout = {"maxPromptTokens": 256, "maxResponseTokens": 256}
    here = make_estimate({"student": {"model": "file:///student"} | few, "rollout": rollout}).trainer
    assert here.peak_bytes == here.update_bytes == 2 * 4 * 151936 * 4096
    moved = {"student": {"model": "file:///student"} | few, "rollout": rollout, "optimizer": {"offload": True}}
    assert make_estimate(moved).trainer.peak_bytes < here.peak_bytes
    split = make_estimate(student(parallelism={"tensor": 4})).trainer
    assert split.update_bytes == 2 * 4 * 151936 * 4096 // 4


def test_servers_hold_the_longest_answer_of_the_evaluation_too():
    evaluation = {"everySteps": 20, "maxResponseTokens": 32768, "prompts": [{"uri": "file:///held-out"}]}
    rollout = {"maxPromptTokens": 1024, "maxResponseTokens": 4096}
    assert make_estimate({"rollout": rollout}).engine.longest_tokens == 1024 + 4096
    assert make_estimate({"rollout": rollout, "evaluation": evaluation}).engine.longest_tokens == 1024 + 32768


def test_a_sample_longer_than_the_budget_counts():
    short = make_estimate({"rollout": {"maxPromptTokens": 1024, "maxResponseTokens": 31744}}).trainer
    budget = make_estimate(student(maxTokensPerGPU=32768, parallelism={"tensor": 1})).trainer
    assert short.activations_bytes == budget.activations_bytes


def test_resident_teacher_stays_on_the_gpu_and_offloaded_visits():
    models, weights = MODELS, 32_762_123_264 * 2
    resident = make_estimate(teacher={"mode": "Megatron", "megatron": {"placement": "Resident"}}, models=models).trainer
    offloaded = make_estimate(teacher={"mode": "Megatron"}, models=models).trainer
    alone = make_estimate(models={"student": QWEN3_8B}).trainer
    assert resident.resident_bytes == alone.resident_bytes + weights
    assert offloaded.resident_bytes == alone.resident_bytes
    assert (resident.teacher_gpu_bytes, resident.teacher_host_bytes) == (weights, 0)
    assert (offloaded.teacher_gpu_bytes, offloaded.teacher_host_bytes) == (weights, weights)
    assert offloaded.host_bytes == alone.host_bytes + weights
    assert offloaded.peak_bytes >= weights + 16384 * 151936 * 2, "weights and logits of the scoring pass"


def test_offloading_costs_nothing_on_the_gpu_while_training_needs_more():
    small = {"student": QWEN3_8B, "teacher": LLAMA.model_copy(update={"vocab_size": 1024})}
    offloaded = make_estimate(teacher={"mode": "Megatron"}, models=small).trainer
    assert offloaded.gpu_bytes == make_estimate(models={"student": QWEN3_8B}).trainer.gpu_bytes


def test_reference_is_the_student_again_and_lives_in_host_memory():
    trainer = make_estimate({"algorithm": {"reference": {"lossKLCoef": 0.1}}}).trainer
    assert trainer.reference.weights_bytes == 8_190_735_360 * 2
    assert trainer.reference.visits
    assert make_estimate().trainer.reference is None


def test_optimizer_offload_moves_its_bytes_to_the_host():
    on_gpu, on_host = make_estimate().trainer, make_estimate({"optimizer": {"offload": True}}).trainer
    assert on_gpu.gpu_bytes - on_host.gpu_bytes == 12 * 8_190_735_360
    assert on_host.host_bytes - on_gpu.host_bytes == 12 * 8_190_735_360


@pytest.mark.parametrize(
    ("model", "gpus", "want_bytes"),
    [
        pytest.param(QWEN3_8B, 1, 2 * 36 * 8 * 128 * 2, id="Qwen3-8B: 144 KiB a token"),
        pytest.param(QWEN3_32B, 1, 262_144, id="Qwen3-32B: 256 KiB a token"),
        pytest.param(QWEN3_32B, 8, 32_768, id="one key head a GPU"),
        pytest.param(QWEN3_32B, 16, 32_768, id="more GPUs than key heads hold copies"),
    ],
)
def test_kv_cache_of_a_token(model, gpus, want_bytes):
    assert kv_bytes_per_token(model, gpus, 2) == want_bytes


def test_engine_cache_is_what_its_share_of_the_gpu_leaves_beside_the_weights():
    engine = make_estimate(gpu_memory_bytes=80 * GIB).engine
    assert engine.gpu_bytes == 64 * GIB
    assert engine.cache_tokens == (64 * GIB - 8_190_735_360 * 2) // 147_456 == 354_939


def test_engine_on_an_unknown_gpu_needs_room_for_one_longest_sample():
    engine = make_estimate().engine
    assert engine.cache_tokens is None
    assert engine.gpu_bytes == 8_190_735_360 * 2 + (1024 + 4096) * 147_456


def test_weights_that_do_not_fit_leave_no_cache():
    teacher: ServerEstimate = make_estimate(gpu_memory_bytes=24 * GIB).teachers[0]
    assert teacher.cache_tokens == 0


def test_teachers_behind_an_endpoint_or_in_the_trainer_are_no_pods():
    assert not make_estimate(teacher={"model": "", "sglang": {"endpoint": "http://teacher:8000"}}).teachers
    assert not make_estimate(teacher={"mode": "Megatron"}).teachers
    assert [each.name for each in make_estimate().teachers] == ["teacher"]


def test_on_cpu_everything_is_host_memory_in_fp32():
    tiny = make_model(
        hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, ffn_hidden_size=128, vocab_size=16
    )
    models = {"student": tiny, "teacher": tiny}
    plan = make_estimate({"device": "CPU"}, teacher={"mode": "Megatron"}, models=models)
    assert (plan.trainer.gpu_bytes, plan.engine.gpu_bytes) == (0, 0)
    assert plan.trainer.student.weights_bytes == sum(parameters(tiny)) * 4
    assert plan.trainer.teacher_host_bytes == sum(parameters(tiny)) * 4
    assert 3 * GIB < plan.trainer.host_bytes < 4 * GIB
    assert plan.engine.cache_tokens == 2**29 // (2 * 2 * 2 * 16 * 4)
    status = plan.to_status()
    assert status.trainer.gpu_bytes is None
    assert status.engine.gpu_bytes is None


def test_status_carries_the_numbers():
    plan = make_estimate(student(), teacher={"mode": "Megatron"})
    status = plan.to_status().model_dump(mode="json")
    assert status["trainer"] == {
        "gpuBytes": plan.trainer.gpu_bytes,
        "hostBytes": plan.trainer.host_bytes,
        "teacherGPUBytes": plan.trainer.teacher_gpu_bytes,
        "teacherHostBytes": plan.trainer.teacher_host_bytes,
    }
    assert status["engine"] == {"gpuBytes": plan.engine.gpu_bytes}
