"""The teacher in the trainer's process: a model of its own, larger than the student, that nothing changes."""

import dataclasses

import numpy as np
import pytest

from opd_api.spec import Algorithm, Optimizer, Reference
from opd_runtime.config import MegatronTeacher
from opd_runtime.errors import UserError

LENGTHS = [(1, 9), (4, 13), (3, 7), (2, 5)]
LARGER = {"num_hidden_layers": 3, "hidden_size": 96, "intermediate_size": 160, "tie_word_embeddings": False}


@pytest.fixture(scope="session")
def student(tiny_model):
    return tiny_model()


@pytest.fixture(scope="session")
def teacher(tiny_model):
    return tiny_model("qwen3", seed=7, **LARGER)


@pytest.fixture
def with_teacher(make_config, student, teacher):
    """A configuration with the larger teacher in the trainer."""

    def make(*, offloaded=True, load=None, checkpoint_step=None, model=teacher, **changes):
        megatron = MegatronTeacher(
            name="teacher", model_path=model, load=load, checkpoint_step=checkpoint_step, offloaded=offloaded
        )
        return make_config(student, teacher=megatron, **changes)

    return make


@pytest.mark.parametrize("offloaded", [True, False], ids=["Offloaded", "Resident"])
@pytest.mark.parametrize(
    "layout",
    [
        pytest.param({}, id="one process"),
        pytest.param({"tensor": 2, "sequence_parallel": True}, id="TP2 with sequence parallelism"),
        pytest.param({"data": 2}, id="DP2", marks=pytest.mark.full),
    ],
)
def test_logprobs_are_those_of_transformers(
    offloaded, layout, with_teacher, teacher, make_batch, hf_logprobs, logprobs_of
):
    """On the CPU both placements are one code path; what differs on a GPU is tested there."""
    batch = make_batch(LENGTHS)
    got = logprobs_of(with_teacher(offloaded=offloaded, **layout), batch, "teacher")
    np.testing.assert_allclose(got, hf_logprobs(teacher, batch), atol=1e-5, rtol=0)


def test_steps_move_the_student_and_never_the_teacher(with_teacher, make_batch, ranks):
    batch = make_batch(LENGTHS, teacher_logprobs_N=None)
    before, after = ranks.train(scores_around_steps, with_teacher(optimizer=Optimizer(lr=1e-2)), batch)
    np.testing.assert_array_equal(before["teacher"], after["teacher"])
    assert np.abs(before["student"] - after["student"]).max() > 0.1


def test_a_step_is_that_of_the_same_scores_from_a_server(with_teacher, make_config, student, make_batch, ranks):
    batch = make_batch(LENGTHS, teacher_logprobs_N=None)
    here, scores = ranks.train(step_and_teacher_scores, with_teacher(), batch)
    served = dataclasses.replace(batch, teacher_logprobs_N=np.where(batch.mask_N, scores, np.nan).astype(np.float32))
    there, _ = ranks.train(step_and_teacher_scores, make_config(student), served)
    assert there == here


def test_weights_come_from_a_checkpoint(
    with_teacher, make_config, teacher, make_batch, hf_logprobs, ranks, logprobs_of
):
    """A run's own checkpoint serves too: the teacher of the next job. `model` says the shape alone."""
    batch = make_batch(LENGTHS)
    cfg = make_config(teacher, optimizer=Optimizer(lr=1e-2))
    saved = ranks.train(train_and_save_twice, cfg, batch)
    newest = logprobs_of(with_teacher(load=cfg.checkpoint_dir), batch, "teacher")
    older = logprobs_of(with_teacher(load=cfg.checkpoint_dir, checkpoint_step=1, tensor=2), batch, "teacher")
    np.testing.assert_array_equal(newest, saved[1])
    np.testing.assert_allclose(older, saved[0], atol=1e-5, rtol=0)
    assert np.abs(newest - hf_logprobs(teacher, batch)).max() > 0.1


def test_weights_come_from_a_hugging_face_folder(with_teacher, tiny_model, make_batch, hf_logprobs, logprobs_of):
    """`model` says the shape alone here too, and both must be of one: a deeper folder would be cut to it."""
    other, batch = tiny_model("qwen3", seed=8, **LARGER), make_batch(LENGTHS)
    got = logprobs_of(with_teacher(load=other), batch, "teacher")
    np.testing.assert_allclose(got, hf_logprobs(other, batch), atol=1e-5, rtol=0)
    deeper = tiny_model("qwen3", seed=8, **LARGER | {"num_hidden_layers": 4})
    with pytest.raises(UserError, match="is of another model: num_hidden_layers is 4, not 3"):
        logprobs_of(with_teacher(load=deeper), batch, "teacher")


def test_weights_come_from_a_release_checkpoint(
    with_teacher, teacher, make_batch, hf_logprobs, ranks, logprobs_of, tmp_path
):
    ranks.run(convert, teacher, tmp_path / "converted")
    batch = make_batch(LENGTHS)
    got = logprobs_of(with_teacher(load=tmp_path / "converted"), batch, "teacher")
    np.testing.assert_allclose(got, hf_logprobs(teacher, batch), atol=1e-5, rtol=0)


def test_weights_come_from_the_older_torch_format(
    with_teacher, make_config, teacher, make_batch, hf_logprobs, ranks, logprobs_of, tmp_path
):
    ranks.train(save_as_torch, make_config(teacher), tmp_path)
    batch = make_batch(LENGTHS)
    got = logprobs_of(with_teacher(load=tmp_path), batch, "teacher")
    np.testing.assert_allclose(got, hf_logprobs(teacher, batch), atol=1e-5, rtol=0)


def test_a_file_that_holds_more_than_weights_is_not_unpickled(
    with_teacher, make_config, teacher, make_batch, ranks, logprobs_of, tmp_path
):
    ranks.train(save_as_torch, make_config(teacher), tmp_path, True)
    with pytest.raises(UserError, match="ckpt-convert-format"):
        logprobs_of(with_teacher(load=tmp_path), make_batch(LENGTHS), "teacher")


@pytest.mark.parametrize(
    ("tracker", "step", "want"),
    [
        pytest.param("1", 5, "has no iter_0000005; it has iter_0000001", id="a step that is not there"),
        pytest.param("2", None, "has no iter_0000002", id="a tracker that names a missing step"),
        pytest.param(None, None, "has no latest_checkpointed_iteration.txt", id="no tracker"),
        pytest.param("newest", None, "says 'newest', not a step", id="a tracker that names nothing"),
        pytest.param("1", None, "neither a torch_dist nor a torch checkpoint", id="an empty folder"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tracker, step, want, with_teacher, make_batch, logprobs_of, tmp_path):
    (tmp_path / "iter_0000001").mkdir()
    if tracker is not None:
        (tmp_path / "latest_checkpointed_iteration.txt").write_text(tracker)
    with pytest.raises(UserError, match=want):
        logprobs_of(with_teacher(load=tmp_path, checkpoint_step=step), make_batch(LENGTHS), "teacher")


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        pytest.param(LARGER, "do not fit the model", id="another shape"),
        pytest.param({"vocab_size": 64}, "vocabulary has 64 rows", id="a smaller vocabulary"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(
    changes, want, with_teacher, make_config, tiny_model, make_batch, ranks, logprobs_of
):
    other, mine = tiny_model(**changes), tiny_model()
    cfg = make_config(other)
    ranks.train(save_once, cfg)
    with pytest.raises(UserError, match=want):
        logprobs_of(with_teacher(load=cfg.checkpoint_dir, model=mine), make_batch(LENGTHS), "teacher")


def test_pinned_memory_is_not_rounded_up(with_teacher, ranks):
    """As torch has read its settings; that it then does not round is shown on a GPU only."""
    assert ranks.train(allocator_settings, with_teacher()) == "pinned_max_round_threshold_mb:1"


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param({}, id="one process"),
        pytest.param({"tensor": 2, "sequence_parallel": True}, id="TP2 with sequence parallelism"),
    ],
)
def test_greedy_answers_are_those_of_transformers(layout, with_teacher, teacher, ranks):
    """The end token is one that the greedy answers do reach, so that some end early."""
    prompts = [[5, 9, 3], [7, 2, 40], [11], [90, 2], [8, 8, 8]]
    free = [greedy_by_transformers(teacher, prompt, 12) for prompt in prompts]
    end = free[0][4]
    want = [ids[: ids.index(end)] if end in ids else ids for ids in free]
    assert ranks.train(greedy, with_teacher(**layout), prompts, 12, [end, 999]) == want
    assert min(map(len, want)) < 12


def test_the_reference_is_what_the_student_begins_as(make_config, student, make_batch, ranks, tmp_path):
    """With `student.load` that is the checkpoint, not the folder that has its shape."""
    batch = make_batch(LENGTHS)
    ranks.train(train_and_save, make_config(student, run_dir=tmp_path, optimizer=Optimizer(lr=1e-2)), batch)
    cfg = make_config(student, student_load=tmp_path / "checkpoints", reference_path=student)
    loaded, reference = ranks.train(student_and_reference, cfg, batch)
    np.testing.assert_array_equal(reference, loaded)
    named = dataclasses.replace(cfg, algorithm=Algorithm(reference=Reference(model=f"file://{student}")))
    _, reference = ranks.train(student_and_reference, named, batch)
    assert np.abs(reference - loaded).max() > 0.01


def test_the_reference_follows_the_student_every_so_many_steps(make_config, student, make_batch, ranks):
    algorithm = Algorithm(reference=Reference(loss_kl_coef=0.1, update_every_steps=2))
    cfg = make_config(student, algorithm=algorithm, reference_path=student, optimizer=Optimizer(lr=1e-2))
    first, second = ranks.train(students_and_references, cfg, make_batch(LENGTHS))
    np.testing.assert_array_equal(first["reference before"], first["reference"])
    np.testing.assert_array_equal(second["student"], second["reference"])


def scores_around_steps(trainer, batch):
    before = {model: trainer.logprobs(batch, model) for model in ("student", "teacher")}
    for step in range(3):
        trainer.train_step(batch, step)
    return before, {model: trainer.logprobs(batch, model) for model in ("student", "teacher")}


def step_and_teacher_scores(trainer, batch):
    scores = trainer.logprobs(batch, "teacher") if trainer.teacher else None
    return trainer.train_step(batch, 0).metrics, scores


def train_and_save_twice(trainer, batch):
    scores = []
    for step in range(2):
        trainer.train_step(batch, step)
        trainer.save(step + 1, {})
        scores.append(trainer.logprobs(batch))
    return scores


def save_once(trainer):
    trainer.save(1, {})


def convert(source, destination):
    from opd_runtime.megatron.offline import hf_to_megatron

    hf_to_megatron(source, destination)


def save_as_torch(trainer, root, with_objects=False):
    """As Megatron-LM's `--ckpt-format torch` at TP1, its command line included."""
    import argparse
    from pathlib import PurePosixPath

    import torch

    folder = root / "iter_0000003" / "mp_rank_00"
    folder.mkdir(parents=True)
    args = argparse.Namespace(lr=1.0, save=PurePosixPath("/x") if with_objects else "/x")
    torch.save({"model": trainer.model.state_dict(), "args": args}, folder / "model_optim_rng.pt")
    (root / "latest_checkpointed_iteration.txt").write_text("3")


def greedy(trainer, prompts, max_new_tokens, eos_ids):
    return trainer.teacher_greedy(prompts, max_new_tokens, eos_ids)


def greedy_by_transformers(folder, prompt, count):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = torch.tensor([prompt])
    answer = model.generate(
        tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=count, eos_token_id=None
    )
    return answer[0, len(prompt) :].tolist()


def students_and_references(trainer, batch):
    seen = []
    for step in range(2):
        before = trainer.logprobs(batch, "reference")
        trainer.train_step(batch, step)
        scores = {model: trainer.logprobs(batch, model) for model in ("student", "reference")}
        seen.append({"reference before": before, **scores})
    return seen


def train_and_save(trainer, batch):
    trainer.train_step(batch, 0)
    trainer.save(1, {})


def student_and_reference(trainer, batch):
    return trainer.logprobs(batch), trainer.logprobs(batch, "reference")


def allocator_settings(trainer):
    import torch

    return torch._C._accelerator_getAllocatorSettings()
