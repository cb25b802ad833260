"""The trainer on a GPU, with Transformer Engine where it is installed, against transformers on the CPU in FP32."""

import numpy as np
import pytest
from trainer_fixtures import SMALL_VOCABULARY

from opd_api.spec import Optimizer
from opd_runtime.config import MegatronTeacher

pytestmark = pytest.mark.gpu

BF16, FP32 = 2e-2, 2e-3
"""FP32 products may run in TF32, as Transformer Engine's do."""
LENGTHS = [(1, 40), (30, 100), (3, 7), (60, 190), (2, 0), (9, 33)]


@pytest.fixture
def batch(make_batch):
    return make_batch(LENGTHS, vocabulary=SMALL_VOCABULARY)


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize(("bf16", "tolerance"), [(True, BF16), (False, FP32)], ids=["BF16", "FP32"])
def test_logprobs_before_and_after_steps_are_those_of_transformers(
    family, bf16, tolerance, small_model, batch, hf_logprobs, start_trainer, tmp_path, record_property
):
    student = small_model(family)
    trainer = start_trainer(student, bf16=bf16, max_tokens=256, optimizer=Optimizer(lr=1e-3))
    first = hf_logprobs(student, batch)
    assert first.std() > 0.2
    before = np.abs(trainer.logprobs(batch) - first).max()
    metrics = [trainer.train_step(batch, step).metrics for step in range(3)]
    trainer.export_hf(tmp_path / "export")
    trained = hf_logprobs(tmp_path / "export", batch)
    after = np.abs(trainer.logprobs(batch) - trained).max()
    record_property("largest difference before training", float(before))
    record_property("largest difference after training", float(after))
    assert before < tolerance
    assert after < tolerance
    assert np.abs(trained - first).max() > 0.1
    assert all(np.isfinite(value) for step in metrics for value in step.values())


def test_gradients_in_bf16_are_close_to_those_in_fp32(small_model, batch, start_trainer):
    """By their norm: BF16 has 8 bits, and rounding errors are independent over many numbers."""
    student = small_model()
    half, full = (start_trainer(student, bf16=bf16).train_step(batch, 0).metrics for bf16 in (True, False))
    assert half["policy/grad_norm"] == pytest.approx(full["policy/grad_norm"], rel=2e-2)
    assert half["opd/reverse_kl"] == pytest.approx(full["opd/reverse_kl"], abs=BF16)


@pytest.mark.parametrize("changes", [{}, {"recompute": "Full"}, {"optimizer": Optimizer(lr=1e-3, offload=True)}])
def test_a_checkpoint_brings_back_the_student_and_the_next_step(changes, small_model, batch, start_trainer, tmp_path):
    """Not bitwise: kernels on a GPU may add up in another order each time."""
    student = small_model()
    trainer = start_trainer(student, run_dir=tmp_path, **changes)
    trainer.train_step(batch, 0)
    trainer.save(1, {"step": 1})
    saved, want = trainer.logprobs(batch), trainer.train_step(batch, 1).metrics
    again = start_trainer(student, run_dir=tmp_path, **changes)
    assert again.load_latest() == (1, {"step": 1})
    np.testing.assert_allclose(again.logprobs(batch), saved, atol=1e-4)
    got = again.train_step(batch, 1).metrics
    assert got["policy/grad_norm"] == pytest.approx(want["policy/grad_norm"], rel=1e-2)
    assert got["opd/reverse_kl"] == pytest.approx(want["opd/reverse_kl"], abs=1e-3)


def test_both_teacher_placements_score_as_transformers_and_stay_what_they_are(
    small_model, batch, hf_logprobs, start_trainer, record_property
):
    larger = small_model(seed=7, num_hidden_layers=6, hidden_size=384)
    want = hf_logprobs(larger, batch)
    scores = {}
    for offloaded in (False, True):
        teacher = MegatronTeacher(
            name="teacher", model_path=larger, load=None, checkpoint_step=None, offloaded=offloaded
        )
        trainer = start_trainer(small_model(), teacher=teacher, optimizer=Optimizer(lr=1e-3))
        scores[offloaded] = trainer.logprobs(batch, "teacher")
        for step in range(2):
            trainer.train_step(batch, step)
        np.testing.assert_array_equal(trainer.logprobs(batch, "teacher"), scores[offloaded])
    np.testing.assert_array_equal(scores[True], scores[False])
    record_property("largest difference", float(np.abs(scores[True] - want).max()))
    np.testing.assert_allclose(scores[True], want, atol=BF16, rtol=0)
