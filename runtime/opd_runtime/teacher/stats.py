"""Counters of a scorer: what the metrics `teacher/…` are made of. Knows no server."""

import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerStats:
    """Since the last `take`."""

    scored: int
    """Sequences with usable log-probs."""
    failed: int
    """Sequences without."""
    tokens: int
    """Prompt and response tokens of the requests that were answered."""
    requests: int
    retries: int
    """Requests that failed and whose sequences were sent again."""
    latency_p95_seconds: float
    """Of a request, from sending to its whole answer."""
    busy_seconds: float
    """Time with at least one request on its way."""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.busy_seconds if self.busy_seconds else 0.0


@dataclass(slots=True)
class StatsCounter:
    """Counts until `take`."""

    scored: int = 0
    failed: int = 0
    tokens: int = 0
    retries: int = 0
    latencies: list[float] = field(default_factory=list)
    _busy_seconds: float = 0.0
    _in_flight: int = 0
    _since: float = 0.0

    def sent(self) -> float:
        """A request leaves; returns now, for `answered` or `lost`."""
        now = self._tick()
        self._in_flight += 1
        return now

    def answered(self, sent_at: float, tokens: int) -> None:
        self.latencies.append(self._tick() - sent_at)
        self._in_flight -= 1
        self.tokens += tokens

    def lost(self) -> None:
        self._tick()
        self._in_flight -= 1
        self.retries += 1

    def take(self) -> ScorerStats:
        """The counts so far; they start anew, requests on their way stay on it."""
        self._tick()
        ordered = sorted(self.latencies)
        stats = ScorerStats(
            scored=self.scored,
            failed=self.failed,
            tokens=self.tokens,
            requests=len(ordered),
            retries=self.retries,
            latency_p95_seconds=ordered[int(0.95 * (len(ordered) - 1))] if ordered else 0.0,
            busy_seconds=self._busy_seconds,
        )
        self.scored = self.failed = self.tokens = self.retries = 0
        self.latencies = []
        self._busy_seconds = 0.0
        return stats

    def _tick(self) -> float:
        now = time.monotonic()
        if self._in_flight:
            self._busy_seconds += now - self._since
        self._since = now
        return now
