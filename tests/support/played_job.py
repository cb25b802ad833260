"""Plays what a cluster without nodes cannot do itself: kubelet, KubeRay and the runtime of one OPDJob.

It speaks to the real API server as they would: pod status, RayJob status, a patch of the mailbox. What it does not play
is the operator, the Job controller and the garbage collector: those are real.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kubernetes import client, config, dynamic
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError
from waiting import wait_until

from opd_api import names
from opd_operator.objects import Kind

type Object = dict[str, Any]

DEADLINE_SECONDS = 30.0
MODEL = {
    "architecture": "Qwen3ForCausalLM",
    "hiddenSize": 64,
    "numLayers": 2,
    "numHeads": 4,
    "numKvHeads": 2,
    "headDim": 16,
    "ffnHiddenSize": 128,
    "vocabSize": 32,
    "maxPositionEmbeddings": 64,
    "tieWordEmbeddings": True,
    "dtype": "float32",
    "parameterCount": 75_000,
    "tokenizerFingerprint": "f" * 32,
    "eosTokenIds": [1],
}
MODELS = {"models": {"student": MODEL, "teacher": MODEL | {"numLayers": 3}}, "problems": []}
CHILDREN = tuple(kind for kind in Kind if kind is not Kind.OPD_JOB)
SGLANG = {"mode": "SGLang", "model": "pvc://models/teacher"}


def small_job(teacher: Mapping[str, Any] = SGLANG, name: str = "life", **spec: Any) -> Object:
    """A document for CPUs; `spec` replaces parts of it."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name},
        "spec": {
            "device": "CPU",
            "student": {"model": "pvc://models/student"},
            "teachers": [dict(teacher)],
            "data": {"prompts": [{"uri": "pvc://models/prompts.jsonl"}]},
            "rollout": {"maxPromptTokens": 8, "maxResponseTokens": 8, "batchSize": 4},
            "checkpoint": {"claimName": "checkpoints"},
            "steps": 100,
            **spec,
        },
    }


def until[T](check: Callable[[], T], what: str | Callable[[], str], seconds: float = DEADLINE_SECONDS) -> T:
    """The first true answer of `check`; AssertionError with `what` when the deadline passes."""
    try:
        return wait_until(check, seconds, what)
    except TimeoutError as error:
        raise AssertionError(str(error)) from None


def read_models(kubeconfig: Path, namespace: str, job: str) -> None:
    """The models Job of an OPDJob that is there finds what it looks for."""
    with config.new_client_from_config(str(kubeconfig)) as api:
        PlayedJob(api, namespace, {"metadata": {"name": job}}).models_pod_says()


class PlayedJob:
    """One OPDJob in a namespace of its own, seen through the API of an administrator."""

    def __init__(self, api: client.ApiClient, namespace: str, document: Mapping[str, Any]) -> None:
        self.kinds = dynamic.DynamicClient(api).resources
        self.namespace, self.document = namespace, dict(document)
        self.name: str = document["metadata"]["name"]

    # ------------------------------------------------------------ the user
    def create(self) -> None:
        self._of("OPDJob", names.API_VERSION).create(body=self.document, namespace=self.namespace)

    def edit(self, **spec: Any) -> None:
        kind = self._of("OPDJob", names.API_VERSION)
        kind.patch(
            name=self.name, namespace=self.namespace, body={"spec": spec}, content_type="application/merge-patch+json"
        )

    def delete(self) -> None:
        self._of("OPDJob", names.API_VERSION).delete(name=self.name, namespace=self.namespace)

    def status(self) -> Object:
        found = self.get("OPDJob", self.name, names.API_VERSION)
        return (found or {}).get("status") or {}

    def condition(self, kind: str) -> Object:
        return next((each for each in self.status().get("conditions", []) if each["type"] == kind), {})

    def wait_phase(self, phase: str, seconds: float = DEADLINE_SECONDS) -> Object:
        until(lambda: self.status().get("phase") == phase, lambda: f"{self.name} {phase}: {self.status()}", seconds)
        return self.status()

    def wait_condition(self, kind: str, status: str = "True", reason: str = "", seconds: float = 30.0) -> Object:
        def holds() -> Object | None:
            found = self.condition(kind)
            return found if found.get("status") == status and reason in ("", found["reason"]) else None

        return until(holds, f"{self.name}: {kind} {status} {reason}", seconds)

    def events(self, reason: str) -> list[Object]:
        found = self._of("Event", "v1").get(namespace=self.namespace).to_dict()["items"]
        return [each for each in found if each["reason"] == reason and each["involvedObject"]["name"] == self.name]

    # ------------------------------------------------------------ the cluster
    def get(self, kind: str, name: str, api_version: str = "v1") -> Object | None:
        try:
            return self._of(kind, api_version).get(name=name, namespace=self.namespace).to_dict()
        except NotFoundError:
            return None

    def children(self, kind: str, api_version: str = "v1", **labels: str) -> list[Object]:
        selector = ",".join(f"opd.dev/{name}={value}" for name, value in {"job": self.name, **labels}.items())
        return self._of(kind, api_version).get(namespace=self.namespace, label_selector=selector).to_dict()["items"]

    def owned(self, kinds: Iterable[Kind] = CHILDREN) -> dict[str, Object]:
        """By kind and name, its children that nobody has deleted."""
        found = [each for kind in kinds for each in self.children(kind.kind, kind.api_version)]
        return {
            f"{each['kind']} {each['metadata']['name']}": each
            for each in found
            if "deletionTimestamp" not in each["metadata"]
        }

    def rayjobs(self) -> list[Object]:
        return self.children("RayJob", "ray.io/v1")

    def wait_rayjob(self, attempt: int, seconds: float = DEADLINE_SECONDS) -> Object:
        name = names.rayjob(self.name, attempt)
        return until(lambda: self.get("RayJob", name, "ray.io/v1"), lambda: f"RayJob {name}: {self.status()}", seconds)

    def wait_no_rayjob(self, seconds: float = DEADLINE_SECONDS) -> None:
        until(lambda: not self.rayjobs(), f"no RayJob of {self.name}", seconds)

    def rayjob_says(self, attempt: int, **status: Any) -> None:
        self._status("RayJob", names.rayjob(self.name, attempt), status, "ray.io/v1")

    def driver_ends(self, attempt: int, *, failed: bool = False) -> None:
        """KubeRay sees the driver's end, unless the last report already had the operator remove the RayJob."""
        succeeded = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
        fails = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed"}
        with contextlib.suppress(NotFoundError):
            self.rayjob_says(attempt, **(fails if failed else succeeded))

    def models_pod_says(
        self, report: Mapping[str, Any] = MODELS, *, exit_code: int = 0, seconds: float = DEADLINE_SECONDS
    ) -> None:
        """The newest pod that the Job controller made ends with this termination message."""

        def waiting() -> Object | None:
            pods = self.children("Pod", role="models")
            return next((pod for pod in pods if pod["status"]["phase"] == "Pending"), None)

        pod = until(waiting, f"models pod of {self.name}", seconds)
        self.pod_says(
            pod["metadata"]["name"],
            "Succeeded" if exit_code == 0 else "Failed",
            state={"terminated": {"exitCode": exit_code, "message": json.dumps(report), "reason": "Completed"}},
        )

    def make_pod(self, role: str, attempt: int, **metadata: Any) -> str:
        """A Ray pod as KubeRay would make it, of this attempt's RayJob."""
        rayjob = self.wait_rayjob(attempt)
        owner = {"apiVersion": "ray.io/v1", "kind": "RayJob", "uid": rayjob["metadata"]["uid"]}
        name = f"{names.rayjob(self.name, attempt)}-{role}"
        body = {
            "metadata": {
                "name": name,
                "labels": names.labels(self.name, role, attempt=attempt),
                "ownerReferences": [owner | {"name": rayjob["metadata"]["name"]}],
                **metadata,
            },
            "spec": {"containers": [{"name": "ray", "image": "none:0"}], "terminationGracePeriodSeconds": 0},
        }
        self._of("Pod", "v1").create(body=body, namespace=self.namespace)
        return name

    def release(self, pod: str) -> None:
        """Takes the pod's finalizers away."""
        body = {"metadata": {"finalizers": None}}
        self._of("Pod", "v1").patch(
            name=pod, namespace=self.namespace, body=body, content_type="application/merge-patch+json"
        )

    def pod_says(self, pod: str, phase: str, *, state: Object | None = None, restarts: int = 0, **more: Any) -> None:
        found = self.get("Pod", pod)
        assert found is not None, pod
        container = {
            "name": found["spec"]["containers"][0]["name"],
            "image": found["spec"]["containers"][0]["image"],
            "imageID": "",
            "ready": phase == "Running",
            "restartCount": restarts,
            "state": state or {"running": {"startedAt": now()}},
            **more.pop("container", {}),
        }
        ready = {"type": "Ready", "status": "True" if phase == "Running" else "False"}
        self._status("Pod", pod, {"phase": phase, "containerStatuses": [container], "conditions": [ready], **more})

    # ------------------------------------------------------------ the runtime
    def mailbox(self) -> Object:
        return self.get("ConfigMap", names.mailbox(self.name)) or {}

    def request(self) -> Object:
        return json.loads((self.mailbox().get("data") or {}).get(names.REQUEST_KEY) or "{}")

    def report(self, attempt: int, phase: str, step: int = 0, **fields: Any) -> None:
        """A progress document, as the driver sends it."""
        self.report_raw(
            json.dumps(
                {
                    "attempt": attempt,
                    "phase": phase,
                    "step": step,
                    "totalSteps": self.document["spec"]["steps"],
                    "time": now(),
                    **fields,
                }
            )
        )

    def report_raw(self, text: str) -> None:
        self.patch_mailbox(data={names.PROGRESS_KEY: text})

    def patch_mailbox(self, **parts: Any) -> None:
        self._of("ConfigMap", "v1").patch(
            name=names.mailbox(self.name),
            namespace=self.namespace,
            body=parts,
            content_type="application/merge-patch+json",
        )

    # ------------------------------------------------------------ helpers
    def _of(self, kind: str, api_version: str) -> Any:
        return self.kinds.get(api_version=api_version, kind=kind)

    def _status(self, kind: str, name: str, status: Mapping[str, Any], api_version: str = "v1") -> None:
        resource = self._of(kind, api_version)
        for _ in range(5):  # another writer may come between
            try:
                resource.status.patch(
                    name=name,
                    namespace=self.namespace,
                    body={"status": dict(status)},
                    content_type="application/merge-patch+json",
                )
                return
            except ConflictError:
                continue
        raise AssertionError(f"status of {kind} {name}: conflicts only")


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
