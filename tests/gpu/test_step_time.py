"""Where a trainer's step goes at 1.7B parameters with random weights. Records figures; judges none of them."""

import shutil
import time
from collections.abc import Callable

import pytest

from opd_runtime.config import MegatronTeacher

pytestmark = pytest.mark.gpu

SAMPLES, PROMPT, RESPONSE = 32, 256, 768
STEPS = 3
BUDGET = 8192
"""`student.maxTokensPerGPU`: with twice that, a step without recomputation needs more than 80 GB."""


@pytest.fixture
def record(record_property, capsys) -> Callable[[dict[str, object]], None]:
    """Figures into the report and onto the screen."""

    def write(figures: dict[str, object]) -> None:
        for name, value in figures.items():
            record_property(name, value)
        texts = (f"{name} {v:.3g}" if isinstance(v, float) else f"{name} {v}" for name, v in figures.items())
        with capsys.disabled():
            print("\n" + ", ".join(texts))

    return write


@pytest.mark.parametrize("recompute", ["None", "Full"])
@pytest.mark.parametrize("offloaded", [True, False], ids=["teacher Offloaded", "teacher Resident"])
def test_a_step_is_recorded_by_its_parts(offloaded, recompute, large_model, make_batch, start_trainer, record):
    import torch

    from opd_runtime.megatron.spec import uses_transformer_engine

    teacher = MegatronTeacher(
        name="teacher", model_path=large_model, load=None, checkpoint_step=None, offloaded=offloaded
    )
    trainer = start_trainer(large_model, teacher=teacher, recompute=recompute, max_tokens=BUDGET)
    batch = make_batch([(PROMPT, RESPONSE)] * SAMPLES, vocabulary=100_000, teacher_logprobs_N=None)
    for step in range(STEPS):
        result = trainer.train_step(batch, step)  # its metrics are read on the host: nothing is left running
    tokens = SAMPLES * (PROMPT + RESPONSE)
    record(
        {f"{name} s": value for name, value in result.seconds.items()}
        | {
            "logprobs s": _seconds(lambda: trainer.logprobs(batch)),  # a pass that this step, one update, does without
            "export s": _seconds(lambda: sum(tensor.nbytes for _, tensor in trainer.named_weights())),
            "update tokens/s": tokens / result.seconds["update"],
            "teacher tokens/s": tokens / result.seconds["teacher"],
            "GPU": torch.cuda.get_device_name(),
            "Transformer Engine": uses_transformer_engine(),
        }
    )
    assert all(value > 0 for value in result.seconds.values())


def test_a_checkpoint_is_recorded(large_model, start_trainer, tmp_path, record):
    trainer = start_trainer(large_model, max_tokens=BUDGET, run_dir=tmp_path)
    saved = _seconds(lambda: trainer.save(1, {"step": 1}))
    size = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    loaded = _seconds(trainer.load_latest)
    shutil.rmtree(tmp_path)  # pytest would keep its 24 GB
    record({"save s": saved, "load s": loaded, "GB": size / 1e9})
    assert size > 0


def _seconds(work: Callable[[], object]) -> float:
    import torch

    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started
