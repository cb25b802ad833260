"""One OPDJob in a cluster with a node, as its user sees it: kubectl, its pods, its volumes. Decides nothing."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cluster import Cluster
from cluster_namespace import Namespace
from waiting import wait_until

from opd_api import names

type Object = dict[str, Any]

START_SECONDS = 600.0
"""From apply to the first step: two minutes on two idle cores."""
STEP_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class ClusterJob:
    """`name` in `namespace`."""

    namespace: Namespace
    name: str

    @property
    def cluster(self) -> Cluster:
        return self.namespace.cluster

    def status(self) -> Object:
        """Empty while there is none."""
        return dict(self.namespace.get("opdjob", self.name).get("status") or {})

    def condition(self, kind: str) -> Object:
        return next((each for each in self.status().get("conditions", ()) if each["type"] == kind), {})

    def step(self) -> int:
        """That `kubectl get` shows; 0 before the first."""
        return int(self.status().get("progress", {}).get("step", 0))

    def wait(self, check: Callable[[Object], bool], what: str, seconds: float = STEP_SECONDS) -> Object:
        """The first status that passes. A job that has failed meanwhile ends the wait."""

        def passing() -> Object:
            status = self.status()
            passes = check(status)
            assert passes or status.get("phase") != "Failed", f"failed while waited for: {what}: {status['message']}"
            return status if passes else {}

        return wait_until(passing, seconds, lambda: f"{what}: {self.status()}")

    def wait_for_step(self, step: int, seconds: float = STEP_SECONDS) -> Object:
        return self.wait(
            lambda status: status.get("phase") == "Training" and status["progress"]["step"] >= step,
            f"step {step}",
            seconds,
        )

    def wait_for_phase(self, phase: str, seconds: float = STEP_SECONDS) -> Object:
        return self.wait(lambda status: status.get("phase") == phase, phase, seconds)

    def edit(self, **spec: Any) -> None:
        """A merge patch, as `kubectl edit` sends it."""
        self.namespace.kubectl("patch", "opdjob", self.name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def pods(self, role: str) -> list[Object]:
        """Of that role, those that are being deleted not counted."""
        selector = f"{names.LABEL_JOB}={self.name},{names.LABEL_ROLE}={role}"
        found = self.namespace.get("pods", "-l", selector)["items"]
        return [each for each in found if "deletionTimestamp" not in each["metadata"]]

    def pod(self, role: str) -> str:
        """Name of the only one."""
        (found,) = self.pods(role)
        return str(found["metadata"]["name"])

    def kill_pod(self, role: str) -> None:
        """Without warning."""
        self.namespace.kubectl("delete", "pod", self.pod(role), "--grace-period=0", "--force", "--wait=false")

    def execute(self, role: str, *command: str) -> str:
        """In the role's only pod, in its main container."""
        return self.namespace.kubectl("exec", self.pod(role), "--container", role, "--", *command)

    def run_dir(self) -> Path:
        """On this machine: checkpoints, metrics, export."""
        job = self.namespace.get("opdjob", self.name)
        folder = f"{self.name}-{job['metadata']['uid'][:8]}"
        return claim_folder(self.namespace, job["spec"]["checkpoint"]["claimName"]) / folder

    def records(self) -> list[Object]:
        """Of metrics.jsonl; a half-written last line is not there yet."""
        text = (self.run_dir() / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def apply(namespace: Namespace, file: Path, spec: Mapping[str, Any] | None = None) -> ClusterJob:
    """`kubectl apply -f file`; with `spec`, parts of it replaced first."""
    document = yaml.safe_load(file.read_text())
    if spec is None:
        namespace.kubectl("apply", "-f", str(file))
    else:
        document["spec"] |= spec
        namespace.apply(document)
    return ClusterJob(namespace, document["metadata"]["name"])


def claim_folder(namespace: Namespace, claim: str) -> Path:
    """Where the claim's volume lies on this machine."""
    volume = namespace.get("persistentvolumeclaim", claim)["spec"]["volumeName"]
    return Path(namespace.cluster.get("persistentvolume", volume)["spec"]["local"]["path"])


def evaluate(job_file: Path, model: Path, volumes: Mapping[str, Path]) -> float:
    """pass@1 of a student as `opd eval` finds it on this machine."""
    places = [f"--volume={claim}={folder}" for claim, folder in volumes.items()]
    opd = [sys.executable, "-m", "opd_runtime.cli"]
    command = [*opd, "eval", str(job_file), "--model", str(model), "--json", *places]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return float(json.loads(done.stdout)["pass_at_1"])
