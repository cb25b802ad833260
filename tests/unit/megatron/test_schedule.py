"""The learning rate, step by step."""

import pytest

from opd_api.spec import Optimizer
from opd_runtime.megatron.schedule import learning_rate


@pytest.mark.parametrize(
    ("optimizer", "want"),
    [
        pytest.param({}, [1, 1, 1, 1, 1, 1], id="constant"),
        pytest.param(
            {"schedule": "Linear"}, [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6], id="linear, never zero before the end"
        ),
        pytest.param({"schedule": "Cosine"}, [1, 0.9330127, 0.75, 0.5, 0.25, 0.0669873], id="half a cosine"),
        pytest.param({"warmup_steps": 2}, [0.5, 1, 1, 1, 1, 1], id="warm-up, never zero"),
        pytest.param(
            {"schedule": "Linear", "warmup_steps": 2}, [0.5, 1, 1, 0.75, 0.5, 0.25], id="warm-up, then linear"
        ),
        pytest.param({"schedule": "Cosine", "warmup_steps": 6}, [n / 6 for n in range(1, 7)], id="all warm-up"),
    ],
)
def test_rate_of_each_step(optimizer, want):
    rates = [learning_rate(Optimizer(lr=2e-3, **optimizer), step, 6) for step in range(6)]
    assert rates == pytest.approx([2e-3 * share for share in want])


@pytest.mark.parametrize("schedule", ["Linear", "Cosine"])
def test_past_the_last_step_the_rate_stays_zero(schedule):
    assert learning_rate(Optimizer(lr=1.0, schedule=schedule), 8, 6) == 0
