"""Watches an OPDJob and the facts beside it, and finds what was told and not true for longer than a reaction takes."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any

import httpx
from cluster_job import ClusterJob
from helm import NAMESPACE

from opd_api import names

PERIOD_SECONDS = 0.5
REACTION_SECONDS = 15.0
"""From a fact to the status that tells it, with both cores busy: a kubelet's probe, a watch, a write."""

LEADERLESS_SECONDS = 5.0
"""A leading operator renews its Lease every 2 s. One that was killed tells nothing, and another leads 15 s later."""

type Object = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the job said, and what was so, in the same half second."""

    seconds: float
    phase: str
    message: str
    attempt: int
    step: int
    conditions: dict[str, str]
    """Status by type."""
    ready: dict[str, int]
    """Ready pods by role."""
    reported: int | None
    """Step in the mailbox, of an attempt that trains; None when there is none."""
    driver: bool
    """Whether this attempt's driver has said anything."""
    pods: int
    """Of Ray and teachers, however they are."""
    renewed: str
    """When an operator last renewed its Lease."""

    def claims(self) -> dict[str, bool]:
        """Whether each thing it tells is so."""
        cluster = all(self.ready.get(role, 0) >= 1 for role in ("head", "trainer", "engine"))
        teacher = self.ready.get("teacher", 0) >= 1
        return {
            "phase Training": self.phase != "Training" or self.ready.get("head", 0) >= 1,
            "ClusterReady True": self.conditions.get("ClusterReady") != "True" or cluster,
            "ClusterReady False": self.conditions.get("ClusterReady") != "False" or not cluster,
            "TeacherReady True": self.conditions.get("TeacherReady") != "True" or teacher,
            "phase Suspended": self.phase != "Suspended" or self.pods == 0,
            f"step {self.step}": self.reported is None or self.reported == self.step,
        }


@dataclass(slots=True)
class Witness:
    """Samples in the order of time."""

    job: ClusterJob
    with_teacher_pods: bool
    samples: list[Sample] = field(default_factory=list)

    def lies(self) -> list[str]:
        """Claims that stayed untrue while an operator led. A claim that changes its words starts anew."""
        found, since, renewed = [], dict[str, float](), ("", 0.0)
        for sample in self.samples:
            if sample.renewed != renewed[0]:
                renewed = (sample.renewed, sample.seconds)
            led = sample.seconds - renewed[1] < LEADERLESS_SECONDS
            untrue = {claim for claim, holds in sample.claims().items() if led and not holds and self._concerns(claim)}
            since = {claim: since.get(claim, sample.seconds) for claim in untrue}
            found += [claim for claim in untrue if sample.seconds - since[claim] > REACTION_SECONDS]
        return sorted(set(found))

    def restarts(self) -> list[tuple[int, int]]:
        """For each attempt after the first: the last step known of the one before, and the first one of its own."""
        steps: dict[int, list[int]] = {}
        for sample in self.samples:
            if sample.reported:
                steps.setdefault(sample.attempt, []).append(sample.reported)
        return [(old[-1], new[0]) for old, new in pairwise(steps.values())]

    def phases(self) -> list[str]:
        """Each once, in the order they were told."""
        return [phase for phase, _ in groupby(sample.phase for sample in self.samples)]

    def story(self) -> str:
        """What was told, at each change of phase or attempt."""
        begin = self.samples[0].seconds
        chapters = groupby(self.samples, key=lambda sample: (sample.phase, sample.attempt))
        first = [(phase, attempt, next(samples)) for (phase, attempt), samples in chapters]
        lines = [f"{each.seconds - begin:6.1f} s  {phase} {attempt}: {each.message}" for phase, attempt, each in first]
        return "\n".join(lines)

    def start(self) -> dict[str, float]:
        """Seconds from the first look, right after apply, to each thing that a start consists of."""
        reached: dict[str, Callable[[Sample], bool]] = {
            "models read": lambda sample: sample.conditions.get("ModelsReady") == "True",
            "pods made": lambda sample: sample.pods > 0,
            "head ready": lambda sample: sample.ready.get("head", 0) > 0,
            "teacher server ready": lambda sample: sample.ready.get("teacher", 0) > 0,
            "trainer and engine pods ready": lambda sample: sample.conditions.get("ClusterReady") == "True",
            "driver reports": lambda sample: sample.driver,
            "first step": lambda sample: sample.step > 0,
        }
        first = {
            what: next((each.seconds for each in self.samples if holds(each)), None) for what, holds in reached.items()
        }
        begin = self.samples[0].seconds
        return {what: round(moment - begin, 1) for what, moment in first.items() if moment is not None}

    def record_start(self, record: Callable[[str, object], None]) -> None:
        """No limit: the figures go into the report."""
        start = self.start()
        assert list(start)[-1] == "first step"
        for what, seconds in start.items():
            record(f"apply to {what}, seconds", seconds)

    def look(self) -> None:
        """One sample; none while the API server cannot be asked."""
        try:
            sample = self._sample()
        except (httpx.HTTPError, KeyError):
            return
        self.samples.append(sample)

    def _concerns(self, claim: str) -> bool:
        return self.with_teacher_pods or not claim.startswith("TeacherReady")

    def _get(self, path: str, **query: str) -> Object:
        answer = self.job.cluster.http.get(path, params=query)
        answer.raise_for_status()
        return dict(answer.json())

    def _sample(self) -> Sample:
        core, name = f"/api/v1/namespaces/{self.job.namespace.name}", self.job.name
        own = f"/apis/{names.API_VERSION}/namespaces/{self.job.namespace.name}/opdjobs/{name}"
        status: Object = self._get(own).get("status") or {}
        pods = self._get(f"{core}/pods", labelSelector=f"{names.LABEL_JOB}={name}")["items"]
        pods = [pod for pod in pods if pod["metadata"]["labels"][names.LABEL_ROLE] != "models"]
        ready: dict[str, int] = {}
        for pod in pods:
            role = pod["metadata"]["labels"][names.LABEL_ROLE]
            ready[role] = ready.get(role, 0) + _is_ready(pod)
        progress = self._progress(core, status)
        lease = self._get(f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/opd-operator")
        return Sample(
            seconds=time.monotonic(),
            phase=status.get("phase", ""),
            message=status.get("message", ""),
            attempt=int(status.get("attempt", 0)),
            step=int(status.get("progress", {}).get("step", 0)),
            conditions={each["type"]: each["status"] for each in status.get("conditions", ())},
            ready=ready,
            reported=int(progress["step"]) if progress and progress["phase"] == "Training" else None,
            driver=bool(progress),
            pods=len(pods),
            renewed=lease["spec"].get("renewTime", ""),
        )

    def _progress(self, core: str, status: Object) -> Object:
        """What the driver of this attempt has said last; empty when it has not."""
        data = self._get(f"{core}/configmaps/{names.mailbox(self.job.name)}").get("data") or {}
        progress: Object = json.loads(data.get(names.PROGRESS_KEY, "{}"))
        return progress if progress.get("attempt") == status.get("attempt", 0) else {}


@contextmanager
def watched(job: ClusterJob, *, with_teacher_pods: bool) -> Iterator[Witness]:
    """Looks twice a second inside."""
    witness, enough = Witness(job, with_teacher_pods), threading.Event()

    def look() -> None:
        while not enough.wait(PERIOD_SECONDS):
            witness.look()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield witness
    finally:
        enough.set()
        thread.join()
        witness.look()


def _is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    going = "deletionTimestamp" in pod["metadata"]
    return not going and any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
