"""The trend on curves of known shape. Real curves may mix these; which one wins then is not tested here."""

import math
import random
from collections import Counter
from collections.abc import Callable

import pytest

from opd_runtime.report.trend import WINDOW, KLTrend, classify

Curve = Callable[[int, random.Random], float]


def noisy(level: Callable[[int], float], share: float) -> Curve:
    """`level(step)` with Gaussian noise of a share of it."""
    return lambda step, rng: level(step) * (1 + share * rng.gauss(0, 1))


def trends(curve: Curve, steps: int = 100, seed: int = 0) -> list[str]:
    rng, trend = random.Random(seed), KLTrend()
    return [trend.update(curve(step, rng)) for step in range(steps)]


@pytest.mark.parametrize(
    ("curve", "want"),
    [
        pytest.param(
            noisy(lambda step: 0.03 + 1.4 * math.exp(-step / 20), 0.05), "Falling", id="a student that learns"
        ),
        pytest.param(noisy(lambda step: 1.5 - 0.01 * step, 0.03), "Falling", id="a slow straight fall"),
        pytest.param(noisy(lambda step: 0.5, 0.05), "Stable", id="a plateau"),
        pytest.param(noisy(lambda step: 0.5, 0.25), "Stable", id="a noisy plateau"),
        pytest.param(lambda step, rng: 0.5, "Stable", id="a plateau without noise"),
        pytest.param(lambda step, rng: 0.002 * rng.gauss(0, 1), "Stable", id="noise around zero, also negative"),
        pytest.param(noisy(lambda step: 0.2 * 1.01**step, 0.02), "Rising", id="a slow rise"),
        pytest.param(lambda step, rng: 0.2 + 0.01 * step, "Rising", id="a rise without noise"),
    ],
)
def test_curve_has_its_trend_nearly_always(curve, want):
    settled = Counter(trend for seed in range(20) for trend in trends(curve, seed=seed)[20:])
    assert settled[want] / settled.total() > 0.95


@pytest.mark.parametrize("share", [0.02, 0.05, 0.15])
def test_single_spike_is_seen_at_its_step_and_nowhere_else(share):
    curve = noisy(lambda step: 2.0 if step == 50 else 0.2, share)
    spikes = [[i for i, trend in enumerate(trends(curve, seed=seed)) if trend == "Spike"] for seed in range(20)]
    assert spikes == [[50]] * 20


def test_single_spike_leaves_the_trend_after_it_alone():
    for seed in range(20):
        with_spike = trends(noisy(lambda step: 2.0 if step == 50 else 0.2, 0.05), seed=seed)
        without = trends(noisy(lambda step: 0.2, 0.05), seed=seed)
        differ = [i for i, pair in enumerate(zip(with_spike, without, strict=True)) if pair[0] != pair[1]]
        assert len(differ) <= 5, (seed, differ)


def test_lasting_jump_is_a_spike_then_a_rise_then_the_new_level():
    seen = trends(noisy(lambda step: 0.2 if step < 50 else 1.0, 0.03))
    order = [trend for trend, before in zip(seen[50:], [None, *seen[50:]], strict=False) if trend != before]
    assert order[:3] == ["Spike", "Rising", "Stable"]


def test_falling_cliff_is_no_spike():
    assert "Spike" not in trends(noisy(lambda step: 2.0 if step < 50 else 0.2, 0.03))


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 0.5, 0.2]], ids=["nothing", "one value", "three values"])
def test_too_few_values_say_nothing(values):
    assert classify(values) == "Stable"


def test_trend_of_a_resumed_run_is_that_of_an_uninterrupted_one():
    rng = random.Random(3)
    values = [0.2 * rng.random() for _ in range(80)]
    whole = KLTrend()
    for value in values:
        whole.update(value)
    assert KLTrend(values).current == whole.current
    assert KLTrend(values).values == tuple(values[-WINDOW:])
