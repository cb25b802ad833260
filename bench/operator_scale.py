"""How the operator does with 100, 300 and 1,000 OPDJobs applied at once: latency, memory, idle CPU, API writes.

    python bench/operator_scale.py [100] [300] [1000]

Real API server, controller-manager and KubeRay; pods are kwok's. The peer is KubeRay on the
RayJobs of the same run: as the operator makes them, and all at once in a fresh cluster with nothing beside it.
"""

import argparse
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kwok_world import NAMESPACE, World, world
from operator_process import OperatorProcess
from results import Row, compared, report

SIZES = (100, 300, 1000)
LATENCY_GOAL, RSS_GOAL, IDLE_GOAL, WRITES_GOAL = 0.5, 150.0, 0.5, 25.0
IDLE_SECONDS = 60
WHOLE_LIVES = 100
"""Jobs that are played to their end."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=list(SIZES))
    rows: list[Row] = []
    for size in parser.parse_args().sizes:
        rows += measure(size)
        report("operator_scale", rows, peer="KubeRay")  # what is known, should a larger size not come to its end


def measure(size: int) -> list[Row]:
    deadline = 120 + size * 2.0
    with (
        tempfile.TemporaryDirectory(prefix="opd-bench-") as folder,
        world() as cluster,
        OperatorProcess(
            cluster.cluster.kubeconfig,
            Path(folder) / "operator.log",
            operator_namespace=NAMESPACE,
            namespaces=[NAMESPACE],
        ) as operator,
    ):
        cluster.apply(size)
        for what in ("told", "RayJob running", "told ready"):
            cluster.wait(what, size, deadline)
        parts, rayjobs = latency_parts(size, cluster), cluster.rayjobs()
        ours, paced = cluster.between("applied", "told"), cluster.between("RayJob made", "RayJob running")
        rest(operator)
        idle = cpu_seconds(operator.pid)
        time.sleep(IDLE_SECONDS)
        idle = (cpu_seconds(operator.pid) - idle) / IDLE_SECONDS * 100
        memory = resident_mib(operator.pid)
        rows = [
            goal(f"{size} jobs: resident memory, all at rest", memory["VmRSS"], RSS_GOAL, "MiB"),
            goal(f"{size} jobs: resident memory, highest", memory["VmHWM"], RSS_GOAL, "MiB"),
            goal(f"{size} jobs: CPU over an idle minute", idle, IDLE_GOAL, "% of a core"),
            Row(what=f"{size} jobs: API writes a job until it trains", ours=writes(operator) / size, unit="writes"),
        ]
        if size <= WHOLE_LIVES:
            rows.append(whole_lives(size, cluster, operator))
    peers = {"one by one, as we make them": paced, "all at once, nothing beside it": kuberay_alone(rayjobs, deadline)}
    return [*latencies(size, ours, peers), *parts, *rows]


def kuberay_alone(rayjobs: Sequence[dict[str, Any]], deadline: float) -> list[float]:
    """Seconds from apply to running when KubeRay gets the same RayJobs as we get the OPDJobs, in a fresh cluster."""
    with world() as cluster:
        cluster.apply_rayjobs(rayjobs)
        cluster.wait("RayJob running", len(rayjobs), deadline)
        return cluster.between("applied", "RayJob running")


def latencies(size: int, ours: Sequence[float], peers: Mapping[str, Sequence[float]]) -> list[Row]:
    """Medians and 99th percentiles."""
    return [
        compared(
            f"{size} jobs: apply to RayJob made and told in status, {name}; KubeRay: RayJob to running, {how}",
            at(ours, share),
            at(running, share),
            unit="s",
            goal=LATENCY_GOAL,
        )
        for how, running in peers.items()
        for share, name in ((0.5, "median"), (0.99, "p99"))
    ]


def latency_parts(size: int, cluster: World) -> list[Row]:
    """Where ours goes. The models Job is Kubernetes' and kwok's time within it."""
    rows = []
    parts = {
        "of this the models Job (Job controller, scheduler, kwok)": ("models Job made", "models Job complete"),
        "apply to models Job made": ("applied", "models Job made"),
        "models Job complete to RayJob made": ("models Job complete", "RayJob made"),
        "RayCluster ready to told in status": ("RayCluster ready", "told ready"),
    }
    for what, (start, end) in parts.items():
        rows.append(Row(what=f"{size} jobs: {what}, median", ours=at(cluster.between(start, end), 0.5), unit="s"))
    return rows


def whole_lives(size: int, cluster: World, operator: OperatorProcess) -> Row:
    """A first step, an end: what a short life costs in all."""
    names = list(cluster.moments["applied"])
    for phase, step, what in (("Training", 1, "training"), ("Succeeded", 100, "succeeded")):
        for name in names:
            cluster.report(name, phase=phase, step=step)
        cluster.wait(what, size, 300)
    rest(operator)
    return goal(f"{size} jobs: API writes a job's whole life", writes(operator) / size, WRITES_GOAL, "writes")


def rest(operator: OperatorProcess) -> None:
    """Until it has looked at no job for ten seconds: all has settled, the last child is deleted."""
    before = -1.0
    while before != (now := metric(operator, "opd_operator_reconcile_seconds_count")):
        before = now
        time.sleep(10)


def goal(what: str, ours: float, wanted: float, unit: str) -> Row:
    """Against a fixed number instead of a peer."""
    return Row(what=what, ours=ours, peer=wanted, ratio=ours / wanted, goal=1.0, unit=unit)


def at(values: Sequence[float], share: float) -> float:
    return values[min(int(share * len(values)), len(values) - 1)]


def writes(operator: OperatorProcess) -> float:
    return metric(operator, "opd_operator_api_writes_total")


def metric(operator: OperatorProcess, name: str) -> float:
    """Over all its labels."""
    lines = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", operator.get("/metrics")[1], re.MULTILINE)
    return sum(map(float, lines))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> dict[str, float]:
    status = Path(f"/proc/{pid}/status").read_text()
    return {name: int(kib) / 1024 for name, kib in re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status, re.MULTILINE)}


if __name__ == "__main__":
    main()
