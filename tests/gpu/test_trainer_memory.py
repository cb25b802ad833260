"""What a trainer takes on the GPU against the estimate that sizes its pods (opd_api.memory), at 1.7B parameters."""

import json

import pytest

from opd_api.documents import ModelSummary
from opd_api.load import job_from_document
from opd_api.memory import CUDA_BYTES, TrainerEstimate, estimate
from opd_runtime.config import MegatronTeacher

pytestmark = pytest.mark.gpu

PROMPT, RESPONSE, BUDGET = 256, 768, 4096
SAMPLES = [(PROMPT, RESPONSE)] * 8


@pytest.fixture
def estimated(large_model):
    """TrainerEstimate for student and teacher of that model; `megatron` and `student` as in the document."""

    def make(megatron: dict, **student) -> TrainerEstimate:
        config = json.loads((large_model / "config.json").read_text())
        summary = ModelSummary(
            architecture=config["architectures"][0],
            hidden_size=config["hidden_size"],
            num_layers=config["num_hidden_layers"],
            num_heads=config["num_attention_heads"],
            num_kv_heads=config["num_key_value_heads"],
            head_dim=config["head_dim"],
            ffn_hidden_size=config["intermediate_size"],
            vocab_size=config["vocab_size"],
            max_position_embeddings=config["max_position_embeddings"],
            tie_word_embeddings=config["tie_word_embeddings"],
            dtype="bfloat16",
            parameter_count=0,
            tokenizer_fingerprint="",
        )
        document = {
            "apiVersion": "opd.dev/v1alpha1",
            "kind": "OPDJob",
            "metadata": {"name": "memory"},
            "spec": {
                "student": {"model": f"file://{large_model}", "maxTokensPerGPU": BUDGET, **student},
                "rollout": {"maxPromptTokens": PROMPT, "maxResponseTokens": RESPONSE},
                "teachers": [{"mode": "Megatron", "model": f"file://{large_model}", "megatron": megatron}],
                "data": {"prompts": [{"uri": "file:///prompts.jsonl"}]},
                "steps": 1,
            },
        }
        return estimate(job_from_document(document), {"student": summary, "teacher": summary}).trainer

    return make


@pytest.mark.parametrize("placement", ["Resident", "Offloaded"])
def test_a_teacher_takes_what_was_estimated_where_it_was_estimated(
    placement, large_model, estimated, make_batch, start_trainer, record_property
):
    import torch

    want = estimated({"placement": placement})
    alone = _trainer(start_trainer, large_model, None)
    without = torch.cuda.memory_allocated()
    del alone
    trainer = _trainer(start_trainer, large_model, placement)
    stays = torch.cuda.memory_allocated() - without
    with trainer.teacher.on_device():
        scoring = torch.cuda.memory_allocated() - without
    given_back = torch.cuda.memory_allocated() - without
    pinned = sum(tensor.nbytes for tensor in trainer.teacher._host.values()) if placement == "Offloaded" else 0
    record_property("estimated GPU bytes", want.teacher_gpu_bytes)
    record_property("GPU bytes while it scores", scoring)
    record_property("GPU bytes else", stays)
    record_property("host bytes", pinned)
    assert scoring == pytest.approx(want.teacher_gpu_bytes, rel=0.05)
    assert pinned == pytest.approx(want.teacher_host_bytes, rel=0.05)
    expected = want.teacher_gpu_bytes if placement == "Resident" else 0
    for measured in (stays, given_back):
        assert measured == pytest.approx(expected, abs=0.05 * want.teacher_gpu_bytes)


@pytest.mark.parametrize(("recompute", "tokens"), [("None", BUDGET), ("Full", BUDGET), ("Full", PROMPT + RESPONSE)])
def test_a_step_stays_within_the_estimate(
    recompute, tokens, large_model, estimated, make_batch, start_trainer, record_property
):
    """The estimate may be high by a third, never low by more than a tenth: it decides whether a job is let in.

    With few tokens the optimizer's own temporaries are the most that comes and goes.
    """
    import torch

    want = estimated({"placement": "Offloaded"}, recompute=recompute, maxTokensPerGPU=tokens)
    trainer = _trainer(start_trainer, large_model, "Offloaded", recompute=recompute, max_tokens=tokens)
    batch = make_batch(SAMPLES, vocabulary=100_000, teacher_logprobs_N=None)
    for step in range(2):
        trainer.train_step(batch, step)
    stays, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    for name, value in {
        "estimated resident bytes": want.resident_bytes,
        "resident bytes": stays,
        "estimated peak bytes": want.gpu_bytes - CUDA_BYTES,
        "peak bytes": peak,
    }.items():
        record_property(name, value)
    assert stays == pytest.approx(want.resident_bytes, rel=0.1)
    assert 0.67 * (want.gpu_bytes - CUDA_BYTES) < peak < 1.1 * (want.gpu_bytes - CUDA_BYTES)


def _trainer(start_trainer, model, placement, **changes):
    if placement is not None:
        changes["teacher"] = MegatronTeacher(
            name="teacher", model_path=model, load=None, checkpoint_step=None, offloaded=placement == "Offloaded"
        )
    return start_trainer(model, **{"max_tokens": BUDGET} | changes)
