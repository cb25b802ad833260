"""Which way the reverse KL goes: Falling, Stable, Rising or Spike. Pure; the last values are its whole state."""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median

from opd_api.status import Trend

WINDOW = 32
"""Steps that are looked at."""
SMOOTHING = 0.25
"""Weight of the newest value in the moving average: about seven steps of memory."""
BAND_SIGMAS = 3.0
"""A move of the average within so many of its own standard deviations is noise."""
BAND_SHARE = 0.03
"""So is a move of less than this share of the level, however quiet the curve is."""
SPIKE_SIGMAS = 8.0
"""A single value so far above the average is a spike,"""
SPIKE_SHARE = 0.75
"""if it is also at least this share of the level above it."""
MIN_VALUES = 4
"""Fewer say nothing yet."""
MIN_VALUES_FOR_SPIKE = 8

_MAD_TO_SIGMA = 1.4826
_AVERAGE_TO_VALUE_SIGMA = (SMOOTHING / (2 - SMOOTHING)) ** 0.5
"""Standard deviation of the moving average of independent values, in theirs."""


class KLTrend:
    """The trend after each step. A resumed run feeds it the steps of `metrics.jsonl` again."""

    def __init__(self, values: Iterable[float] = ()) -> None:
        self._values: deque[float] = deque(values, maxlen=WINDOW)

    def update(self, reverse_kl: float) -> Trend:
        """Takes the mean reverse KL of one more step (nats a token)."""
        self._values.append(reverse_kl)
        return self.current

    @property
    def current(self) -> Trend:
        return classify(list(self._values))

    @property
    def values(self) -> tuple[float, ...]:
        """The last values, oldest first."""
        return tuple(self._values)


def classify(values: Sequence[float]) -> Trend:
    """The trend at the end of `values`, oldest first.

    An exponential moving average is compared with itself half a window ago. The band around it comes from the median
    absolute deviation of the differences between neighbours, which neither a slope nor a single odd step moves.
    """
    if len(values) < MIN_VALUES:
        return "Stable"
    sigma = _noise(values[:-1])
    averages = _bounded_averages(values, sigma)
    level = averages[-2]
    if len(values) >= MIN_VALUES_FOR_SPIKE and values[-1] - level > _spike_bound(level, sigma):
        return "Spike"
    earlier = averages[-1 - min(WINDOW // 2, len(values) // 2)]
    band = max(BAND_SIGMAS * 2**0.5 * _AVERAGE_TO_VALUE_SIGMA * sigma, BAND_SHARE * abs(earlier))
    move = averages[-1] - earlier
    if abs(move) <= band:
        return "Stable"
    return "Falling" if move < 0 else "Rising"


def _noise(values: Sequence[float]) -> float:
    """Standard deviation of one value around a smooth curve, robustly."""
    steps = [after - before for before, after in pairwise(values)]
    centre = median(steps)
    return _MAD_TO_SIGMA * median(abs(step - centre) for step in steps) / 2**0.5


def _spike_bound(level: float, sigma: float) -> float:
    return max(SPIKE_SIGMAS * sigma, SPIKE_SHARE * abs(level))


def _bounded_averages(values: Sequence[float], sigma: float) -> list[float]:
    """Moving average from the median of the first values on. It ignores a lone spike and moves by a bound at most."""
    average = median(values[:3])
    averages, was_far = [], False
    for value in values:
        bound = _spike_bound(average, sigma)
        is_far = abs(value - average) > bound
        if not is_far or was_far:
            average += SMOOTHING * max(-bound, min(bound, value - average))
        was_far = is_far
        averages.append(average)
    return averages
