"""The coefficient of each step, as distillation.klCoefSchedule says."""

from types import SimpleNamespace
from typing import Any

import pytest

from opd_api.spec import Distillation, KLCoefSchedule
from opd_runtime.orchestrate.loop import kl_coef
from opd_runtime.orchestrate.record import RunState


def config(**schedule: Any) -> Any:
    distillation = Distillation(kl_coef=2.0, kl_coef_schedule=KLCoefSchedule(**schedule))
    return SimpleNamespace(distillation=distillation, steps=10)


def test_constant_by_default() -> None:
    assert [kl_coef(config(), RunState(kl_coef=9.0), step) for step in (0, 9)] == [2.0, 2.0]


@pytest.mark.parametrize("kind", ["Linear", "Cosine"])
def test_a_schedule_ends_at_its_final_value(kind: str) -> None:
    cfg = config(type=kind, final=1.0, steps=4)
    values = [kl_coef(cfg, RunState(kl_coef=2.0), step) for step in range(6)]
    assert values[0] == 2.0
    assert values[4:] == [1.0, 1.0]
    assert values == sorted(values, reverse=True)


def test_target_kl_starts_at_kl_coef_and_then_follows_the_last_reverse_kl() -> None:
    cfg = config(type="TargetKL", target_kl=0.1)
    assert kl_coef(cfg, RunState(kl_coef=2.0), 0) == 2.0
    assert kl_coef(cfg, RunState(kl_coef=3.0, last_reverse_kls=[0.2]), 1) > 3.0
    assert kl_coef(cfg, RunState(kl_coef=3.0, last_reverse_kls=[0.05]), 1) < 3.0
