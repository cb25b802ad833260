"""How long two kinds of work went on, each and both at once. A stopwatch; knows nothing of the work."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class WorkClock:
    """Wall seconds since it was made in which at least one piece was `generating`, one was `scoring`, or `both`."""

    def __init__(self) -> None:
        self.generating = self.scoring = self.both = 0.0
        self._generations = self._scores = 0
        self._started = self._last = time.perf_counter()

    @property
    def wall(self) -> float:
        return time.perf_counter() - self._started

    @contextmanager
    def generate(self) -> Iterator[None]:
        self._tick()
        self._generations += 1
        try:
            yield
        finally:
            self._tick()
            self._generations -= 1

    @contextmanager
    def score(self) -> Iterator[None]:
        self._tick()
        self._scores += 1
        try:
            yield
        finally:
            self._tick()
            self._scores -= 1

    def _tick(self) -> None:
        now = time.perf_counter()
        elapsed, self._last = now - self._last, now
        if self._generations:
            self.generating += elapsed
        if self._scores:
            self.scoring += elapsed
        if self._generations and self._scores:
            self.both += elapsed
