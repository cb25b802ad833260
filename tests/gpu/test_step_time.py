"""Where a trainer's step goes at 1.7B parameters with random weights. Records figures; judges none of them."""

import time

import pytest

from opd_runtime.config import MegatronTeacher

pytestmark = pytest.mark.gpu

SAMPLES, PROMPT, RESPONSE = 32, 256, 768
STEPS = 3


@pytest.mark.parametrize("recompute", ["None", "Full"])
@pytest.mark.parametrize("offloaded", [True, False], ids=["teacher Offloaded", "teacher Resident"])
def test_a_step_is_recorded_by_its_parts(
    offloaded, recompute, large_model, make_batch, start_trainer, record_property, capsys, tmp_path
):
    import torch

    from opd_runtime.megatron.spec import uses_transformer_engine

    teacher = MegatronTeacher(
        name="teacher", model_path=large_model, load=None, checkpoint_step=None, offloaded=offloaded
    )
    trainer = start_trainer(large_model, teacher=teacher, recompute=recompute, max_tokens=16384, run_dir=tmp_path)
    batch = make_batch([(PROMPT, RESPONSE)] * SAMPLES, vocabulary=100_000, teacher_logprobs_N=None)
    seconds: dict[str, float] = {}
    for step in range(STEPS):
        result = trainer.train_step(batch, step)  # its metrics are read on the host: nothing is left running
        seconds = result.seconds
    for name, work in {
        "export": lambda: sum(tensor.nbytes for _, tensor in trainer.named_weights()),
        "save": lambda: trainer.save(STEPS, {}),
    }.items():
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds[name] = time.perf_counter() - started
    tokens = SAMPLES * (PROMPT + RESPONSE)
    figures = {f"{name} s": value for name, value in seconds.items()} | {
        "update tokens/s": tokens / seconds["update"],
        "teacher tokens/s": tokens / seconds["teacher"],
        "GPU": torch.cuda.get_device_name(),
        "Transformer Engine": uses_transformer_engine(),
    }
    for name, value in figures.items():
        record_property(name, value)
    with capsys.disabled():
        print(
            "\n"
            + ", ".join(
                f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in figures.items()
            )
        )
    assert all(value > 0 for value in seconds.values())
