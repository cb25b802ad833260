"""Prometheus metrics: what the operator does, and how its jobs are. Counts; judges nothing."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE"]

registry = CollectorRegistry()
reconcile_seconds = Histogram(
    "opd_operator_reconcile_seconds",
    "How long one look at a job took, its writes included",
    registry=registry,
    buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 60),
)
reconcile_errors = Counter(
    "opd_operator_reconcile_errors", "Looks at a job that failed and are repeated", registry=registry
)
writes = Counter("opd_operator_api_writes", "Writes to the API server", ["verb", "kind"], registry=registry)
ignored_reports = Counter(
    "opd_operator_ignored_reports", "Reports in a mailbox that could not be used, told once each", registry=registry
)
leader = Gauge("opd_operator_leader", "1: this one reconciles; 0: it stands by", registry=registry)
queue_depth = Gauge("opd_operator_queue_depth", "Jobs that are due or being looked at", registry=registry)
queue_age = Gauge("opd_operator_queue_oldest_seconds", "How long the oldest of them has waited", registry=registry)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobNumbers:
    """What is told of one job; None: not known yet."""

    namespace: str
    name: str
    phase: str
    step: float | None
    total_steps: float | None
    reverse_kl: float | None
    reward: float | None
    spike: bool
    failed_scores: float
    last_report: float | None
    """Unix time."""


class Jobs(Collector):
    """Reads its numbers only when asked."""

    def __init__(self) -> None:
        self.source: Iterable[JobNumbers] = ()
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        numbers = list(self.source)
        phases = GaugeMetricFamily("opd_jobs", "OPDJobs by phase", labels=["phase"])
        for phase in sorted({each.phase for each in numbers}):
            phases.add_metric([phase], sum(each.phase == phase for each in numbers))
        yield phases
        for field, text in _PER_JOB.items():
            family = GaugeMetricFamily(f"opd_job_{field}", text, labels=["namespace", "opdjob"])
            for each in numbers:
                value = _value(each, field)
                if value is not None:
                    family.add_metric([each.namespace, each.name], value)
            yield family


_PER_JOB = {
    "training": "1 while the job trains",
    "step": "Finished steps",
    "total_steps": "Steps in all",
    "reverse_kl": "Mean reverse KL of the newest step, nats per token",
    "reward": "Mean task reward of the newest step",
    "kl_spike": "1 while the trend of reverse KL is Spike",
    "failed_scores": "Samples that no teacher could score, since the start",
    "last_report_timestamp_seconds": "When the runtime last reported",
}


def _value(each: JobNumbers, field: str) -> float | None:
    match field:
        case "training":
            return float(each.phase == "Training")
        case "kl_spike":
            return float(each.spike)
        case "last_report_timestamp_seconds":
            return each.last_report
    value: float | None = getattr(each, field)
    return value


jobs = Jobs()


def exposition() -> bytes:
    """In Prometheus' text format."""
    return generate_latest(registry)
