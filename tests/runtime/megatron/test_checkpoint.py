"""Checkpoints: going on after one is going on, and half of one is none."""

import os
import shutil
import signal
import traceback
from pathlib import Path

import numpy as np
import pytest

from opd_api.spec import Algorithm, Checkpoint, Optimizer, Reference
from opd_runtime.errors import UserError

LENGTHS = [(1, 9), (4, 13), (3, 7), (2, 5), (3, 11)]
OPTIMIZER = Optimizer(lr=1e-3, schedule="Linear", warmup_steps=1)


@pytest.fixture(scope="session")
def batches(make_batch):
    return [make_batch(LENGTHS, seed=seed) for seed in range(4)]


@pytest.mark.parametrize(
    ("family", "layout"),
    [
        pytest.param("qwen3", {}, id="Qwen3, tied, one process"),
        pytest.param("llama", {"tensor": 2, "sequence_parallel": True}, id="Llama, untied, TP2"),
        pytest.param("qwen3", {"data": 2}, id="Qwen3, tied, DP2"),
        pytest.param("qwen3", {"bf16": True, "data": 2}, id="BF16, DP2", marks=pytest.mark.full),
    ],
)
def test_going_on_from_a_checkpoint_gives_the_bits_of_never_having_stopped(
    family, layout, tiny_model, make_config, batches, ranks
):
    """Metrics of every step and the log-probs at the end: weights, optimizer, learning rate and sample order."""
    cfg = make_config(
        tiny_model(family), optimizer=OPTIMIZER, steps=4, algorithm=Algorithm(updates_per_step=2), **layout
    )
    want = ranks.train(train_and_save_half_way, cfg, batches)
    step, state, metrics, logprobs = ranks.train(resume_and_train, cfg, batches)
    assert (step, state) == (2, {"cursor": [1, 2], "text": "é"})
    assert metrics == want[0]
    np.testing.assert_array_equal(logprobs, want[1])


@pytest.mark.parametrize(
    ("saved", "resumed"),
    [
        pytest.param({}, {"data": 2}, id="one process to DP2"),
        pytest.param({}, {"tensor": 2}, id="one process to TP2"),
        pytest.param({"data": 2}, {"tensor": 2, "sequence_parallel": True}, id="DP2 to TP2"),
        pytest.param({"tensor": 2}, {}, id="TP2 to one process", marks=pytest.mark.full),
        pytest.param({"data": 2}, {}, id="DP2 to one process", marks=pytest.mark.full),
    ],
)
def test_a_checkpoint_goes_on_under_another_layout(saved, resumed, tiny_model, make_config, batches, ranks):
    """Not bitwise: sums have another order (see test_layouts)."""
    student = tiny_model()
    cfg = make_config(student, optimizer=OPTIMIZER, steps=4, **saved)
    want_metrics, want_logprobs = ranks.train(train_and_save_half_way, cfg, batches)
    other = make_config(student, optimizer=OPTIMIZER, steps=4, run_dir=cfg.run_dir, **resumed)
    _, _, metrics, logprobs = ranks.train(resume_and_train, other, batches)
    for want, got in zip(want_metrics, metrics, strict=True):
        assert got == pytest.approx(want, rel=1e-3, abs=1e-5)
    np.testing.assert_allclose(logprobs, want_logprobs, atol=1e-3, rtol=0)


@pytest.mark.parametrize("layout", [{}, {"data": 2}, {"bf16": True, "data": 2}], ids=["one rank", "DP2", "BF16, DP2"])
def test_the_optimizer_s_state_is_gathered_as_megatron_gathers_it(layout, tiny_model, make_config, batches, ranks):
    assert ranks.train(differences_from_megatron, make_config(tiny_model(), **layout), batches[0]) == (3 * 18, [])


@pytest.fixture(scope="session")
def two_checkpoints(tiny_model, make_config, batches, ranks) -> tuple[Path, Path]:
    """Student and run folder with complete checkpoints of steps 1 and 2."""
    cfg = make_config(tiny_model())
    ranks.train(save_each_step, cfg, batches[:2])
    return cfg.student_path, cfg.run_dir


def _no_driver_state(newest: Path) -> None:
    (newest / "driver_state.json").unlink()


def _half_a_driver_state(newest: Path) -> None:
    text = (newest / "driver_state.json").read_text()
    (newest / "driver_state.json").write_text(text[: len(text) // 2])


def _no_weights(newest: Path) -> None:
    next(newest.glob("*.distcp")).unlink()


def _weights_cut_short(newest: Path) -> None:
    file = next(newest.glob("*.distcp"))
    os.truncate(file, file.stat().st_size - 1)


def _no_metadata(newest: Path) -> None:
    (newest / ".metadata").unlink()


def _tracker_of_a_step_that_is_not_there(newest: Path) -> None:
    shutil.rmtree(newest)


@pytest.mark.parametrize(
    "damage",
    [
        _no_driver_state,
        _half_a_driver_state,
        _no_weights,
        _weights_cut_short,
        _no_metadata,
        _tracker_of_a_step_that_is_not_there,
    ],
)
def test_half_a_checkpoint_is_passed_over_for_the_one_before(damage, two_checkpoints, make_config, ranks, tmp_path):
    student, run_dir = two_checkpoints
    shutil.copytree(run_dir, tmp_path / "run")
    cfg = make_config(student, run_dir=tmp_path / "run")
    assert ranks.train(load_latest, cfg) == (2, {"step": 2})
    damage(cfg.checkpoint_dir / "iter_0000002")
    assert ranks.train(load_latest, cfg) == (1, {"step": 1})


def test_files_that_are_no_checkpoint_are_passed_over(two_checkpoints, make_config, ranks, tmp_path):
    student, run_dir = two_checkpoints
    shutil.copytree(run_dir, tmp_path / "run")
    cfg = make_config(student, run_dir=tmp_path / "run")
    (cfg.checkpoint_dir / "iter_0000009.part").mkdir()
    (cfg.checkpoint_dir / "iter_9").mkdir()
    assert ranks.train(load_latest, cfg) == (2, {"step": 2})


def test_without_a_checkpoint_there_is_nothing_to_go_on_from(tiny_model, make_config, ranks):
    assert ranks.train(load_latest, make_config(tiny_model(), data=2)) is None


@pytest.mark.parametrize("layout", [{}, {"data": 2}], ids=["one process", "DP2"])
def test_another_jobs_checkpoints_are_refused(layout, two_checkpoints, make_config, ranks):
    student, run_dir = two_checkpoints
    cfg = make_config(student, run_dir=run_dir, uid="other/1", **layout)
    with pytest.raises(UserError, match=r"another job \(test/0, this is other/1\)"):
        ranks.train(load_latest, cfg)


def test_the_newest_checkpoints_are_kept_and_the_tracker_names_the_last(tiny_model, make_config, batches, ranks):
    cfg = make_config(tiny_model(), checkpoint=Checkpoint(keep=2))
    ranks.train(save_each_step, cfg, batches)
    assert _folders(cfg) == ["iter_0000003", "iter_0000004"]
    assert (cfg.checkpoint_dir / "latest_checkpointed_iteration.txt").read_text() == "4"


def test_saving_removes_incomplete_checkpoints_and_nothing_else(tiny_model, make_config, batches, ranks):
    """Older and newer ones; `release` and names that no save gives stay."""
    cfg = make_config(tiny_model(), checkpoint=Checkpoint(keep=2))
    for name in ("iter_0000001", "iter_0000009", "iter_9", "iter_0000009.part", "release"):
        (cfg.checkpoint_dir / name).mkdir(parents=True)
        (cfg.checkpoint_dir / name / "__0_0.distcp").touch()
    assert ranks.train(train_and_save, cfg, batches[:1], 2)
    assert _folders(cfg) == ["iter_0000002", "iter_0000009.part", "iter_9"]
    assert (cfg.checkpoint_dir / "release").is_dir()


@pytest.mark.parametrize(
    ("saved", "resumed"),
    [
        pytest.param({}, {}, id="one process"),
        pytest.param({"data": 2}, {"tensor": 2}, id="DP2 to TP2", marks=pytest.mark.full),
    ],
)
def test_a_reference_that_follows_the_student_is_part_of_a_checkpoint(
    saved, resumed, tiny_model, make_config, batches, ranks
):
    """It last moved after step 2: neither the first student, nor the one saved."""
    student = tiny_model()
    algorithm = Algorithm(reference=Reference(loss_kl_coef=0.1, update_every_steps=2))
    cfg = make_config(student, algorithm=algorithm, reference_path=student, **saved)
    before, want = ranks.train(reference_around_saving, cfg, batches)
    other = make_config(student, algorithm=algorithm, reference_path=student, run_dir=cfg.run_dir, **resumed)
    got = ranks.train(reference_once_resumed, other, batches)
    assert np.abs(want - before).max() > 0.01
    np.testing.assert_allclose(got, want, atol=0 if saved == resumed else 1e-4, rtol=0)


def test_a_reference_may_begin_to_follow_when_a_run_goes_on(two_checkpoints, make_config, batches, ranks, tmp_path):
    student, run_dir = two_checkpoints
    shutil.copytree(run_dir, tmp_path / "run")
    algorithm = Algorithm(reference=Reference(loss_kl_coef=0.1, update_every_steps=2))
    cfg = make_config(student, run_dir=tmp_path / "run", algorithm=algorithm, reference_path=student)
    assert ranks.train(load_latest, cfg) == (2, {"step": 2})


def test_a_checkpoint_without_extra_states_loads_where_layers_have_them(two_checkpoints, make_config, ranks, tmp_path):
    """As Transformer Engine's norms and attention do, and the portable ones that wrote it do not."""
    student, run_dir = two_checkpoints
    shutil.copytree(run_dir, tmp_path / "run")
    cfg = make_config(student, run_dir=tmp_path / "run")
    assert ranks.run(load_with_extra_states, cfg) == [(2, ["decoder.final_layernorm._extra_state"])]


def test_a_run_that_has_not_made_an_optimizer_step_can_be_saved(tiny_model, make_config, make_batch, ranks):
    """Its first step had no response at all."""
    cfg = make_config(tiny_model())
    ranks.train(save_each_step, cfg, [make_batch([(prompt, 0) for prompt, _ in LENGTHS])])
    assert ranks.train(load_latest, cfg) == (1, {"step": 1})


def test_saving_starts_no_process(tiny_model, make_config, batches, ranks):
    """Megatron's writer would: one that imports everything again, and outlives a trainer that is killed."""
    assert ranks.train(children_after_saving, make_config(tiny_model()), batches[:1]) == []


POINTS = {
    "before anything is written": ([1], 1),
    "with some files of weights written": ([1], 1),
    "with all but the driver's state written": ([1], 1),
    "before the tracker names it": ([1, 2], 2),
    "while the older one is removed": ([2], 2),
}
MOST_TELLING = ("with all but the driver's state written", "while the older one is removed")


@pytest.mark.parametrize(
    "point", [pytest.param(p, marks=() if p in MOST_TELLING else pytest.mark.full) for p in POINTS]
)
def test_killed_while_saving_the_newest_complete_checkpoint_loads(point, tiny_model, make_config, batches, ranks):
    """kill -9 by the process itself, at a point of its second save; then the run goes on and saves that step again."""
    complete, newest = POINTS[point]
    cfg = make_config(tiny_model(), checkpoint=Checkpoint(keep=1 if point == "while the older one is removed" else 2))
    assert ranks.run(die_while_saving, cfg, batches[:2], point)[0] == signal.SIGKILL
    assert ranks.run(complete_steps, cfg.checkpoint_dir)[0] == complete
    assert ranks.train(load_latest, cfg) == (newest, {"step": newest})
    ranks.train(save_each_step, cfg, batches[:2])
    assert ranks.train(load_latest, cfg) == (2, {"step": 2})


def _folders(cfg) -> list[str]:
    return sorted(path.name for path in cfg.checkpoint_dir.glob("iter_*"))


def train_and_save_half_way(trainer, batches):
    metrics = []
    for step, batch in enumerate(batches):
        metrics.append(trainer.train_step(batch, step).metrics)
        if step == 1:
            trainer.save(2, {"cursor": [1, 2], "text": "é"})
    return metrics[2:], trainer.logprobs(batches[0])


def resume_and_train(trainer, batches):
    step, state = trainer.load_latest()
    metrics = [trainer.train_step(batches[later], later).metrics for later in range(step, len(batches))]
    return step, state, metrics, trainer.logprobs(batches[0])


def save_each_step(trainer, batches):
    for step, batch in enumerate(batches):
        trainer.train_step(batch, step)
        trainer.save(step + 1, {"step": step + 1})


def load_latest(trainer):
    return trainer.load_latest()


def train_and_save(trainer, batches, step):
    for index, batch in enumerate(batches):
        trainer.train_step(batch, index)
    return trainer.save(step, {})


def reference_around_saving(trainer, batches):
    before = trainer.logprobs(batches[0], "reference")
    train_and_save(trainer, batches[:3], 3)
    return before, trainer.logprobs(batches[0], "reference")


def reference_once_resumed(trainer, batches):
    trainer.load_latest()
    return trainer.logprobs(batches[0], "reference")


def load_with_extra_states(cfg):
    """The step that loads, and some extra states that the model has."""
    import torch

    from opd_runtime.megatron.spec import PortableRMSNorm
    from opd_runtime.megatron.trainer import Trainer

    PortableRMSNorm.get_extra_state = lambda self: torch.zeros(1)
    PortableRMSNorm.set_extra_state = lambda self, state: None
    trainer = Trainer(cfg)
    step, _ = trainer.load_latest()
    return step, [name for name in trainer.model.sharded_state_dict() if name.endswith("final_layernorm._extra_state")]


def complete_steps(root):
    from opd_runtime.megatron.checkpoint import complete_checkpoints

    return [step for step, _ in complete_checkpoints(root)]


def children_after_saving(trainer, batches):
    import psutil

    before = set(psutil.Process().children(recursive=True))
    save_each_step(trainer, batches)
    return [child.name() for child in psutil.Process().children(recursive=True) if child not in before]


def die_while_saving(cfg, batches, point):
    """The signal that ended a copy of this process, which saved one checkpoint and died in the second."""
    child = os.fork()
    if not child:
        try:
            _save_until(cfg, batches, point)
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def _save_until(cfg, batches, point):
    from megatron.core import dist_checkpointing

    from opd_runtime.megatron import checkpoint
    from opd_runtime.megatron.trainer import Trainer

    trainer = Trainer(cfg)
    save_each_step(trainer, batches[:1])

    def die_at(owner, name, condition=lambda *arguments: True):
        original = getattr(owner, name)

        def deadly(*arguments, **options):
            if condition(*arguments):
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        setattr(owner, name, deadly)

    match point:
        case "before anything is written":
            die_at(dist_checkpointing, "save")
        case "with some files of weights written":
            die_at(os, "fsync")
        case "with all but the driver's state written":
            die_at(checkpoint, "_replace", lambda path, text: path.name == checkpoint.DRIVER_STATE)
        case "before the tracker names it":
            die_at(checkpoint, "_replace", lambda path, text: path.name == checkpoint.TRACKER)
        case "while the older one is removed":
            die_at(shutil, "rmtree", lambda path: path.name == "iter_0000001")
    trainer.train_step(batches[1], 1)
    trainer.save(2, {"step": 2})


def differences_from_megatron(trainer, batch):
    """How many parts are compared (three states of each parameter), and which differ."""
    from opd_runtime.megatron.gathered_state import gathered_state, megatrons_own

    trainer.train_step(batch, 0)
    compared, different = 0, []
    for optimizer in trainer.adam.chained_optimizers:
        ours, theirs = gathered_state(optimizer), megatrons_own(optimizer)
        if theirs is None:
            assert ours is None
            continue
        assert ours.keys() == theirs.keys()
        for buffer in ours.keys() - {"buckets_coalesced"}:
            ((dtype, states),) = ours[buffer].items()
            assert states.keys() == theirs[buffer][dtype].keys()
            for key in states.keys() - {"numel_unpadded"}:
                for place, part in states[key].items():
                    compared += 1
                    if not part.equal(theirs[buffer][dtype][key][place]) or not part.any():
                        different.append((buffer, key, place))
    return compared, different
