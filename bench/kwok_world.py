"""A cluster in which OPDJobs start and nothing trains, and a record of when what happened in it. Measures no operator.

kwok makes every pod Ready at once; the models Job's pod ends with the shapes of two tiny models as its last words.
"""

import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
sys.path[:0] = [str(REPOSITORY / "tests" / part) for part in ("testbed", "support")]

from cluster import Cluster  # noqa: E402
from played_job import MODELS, small_job  # noqa: E402

NAMESPACE = "bench"
HUB_TEACHER = {"mode": "SGLang", "model": "hf://bench/teacher"}
HUB = {
    "student": {"model": "hf://bench/student"},
    "data": {"prompts": [{"uri": "hf://datasets/bench/prompts"}]},
    "checkpoint": {"claimName": "runs"},
}
VOLUME = {
    "capacity": {"storage": "1Gi"},
    "accessModes": ["ReadWriteMany"],
    "hostPath": {"path": "/nowhere"},
    "storageClassName": "none",
    "claimRef": {"namespace": NAMESPACE, "name": "runs"},
}
CLAIM = {
    "storageClassName": "none",
    "accessModes": ["ReadWriteMany"],
    "resources": {"requests": {"storage": "1Gi"}},
    "volumeName": "runs",
}
"""All jobs' checkpoints are on one."""
OPDJOBS = f"/apis/opd.dev/v1alpha1/namespaces/{NAMESPACE}/opdjobs"
RAYJOBS = f"/apis/ray.io/v1/namespaces/{NAMESPACE}/rayjobs"
CLIENTS = 8
"""Connections that apply jobs side by side."""

type Happened = Callable[[Mapping[str, Any]], Iterator[tuple[str, str]]]
"""An object -> what it says has happened, and to which job."""

type Moments = dict[str, float]
"""Name -> seconds of a monotonic clock."""

STAGE = """
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: models-read}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchLabels: {opd.dev/role: models}
    matchExpressions:
      - {key: .metadata.deletionTimestamp, operator: DoesNotExist}
      - {key: .status.phase, operator: In, values: [Running]}
  weight: 1000
  next:
    statusTemplate: |
      phase: Succeeded
      containerStatuses:
        - name: models
          image: none
          imageID: none
          ready: false
          restartCount: 0
          state: {terminated: {exitCode: 0, reason: Completed, message: '@MESSAGE@'}}
"""


@contextmanager
def world() -> Iterator["World"]:
    stage = STAGE.replace("@MESSAGE@", json.dumps(MODELS, separators=(",", ":")))
    with Cluster("kwok", crds=[REPOSITORY / "crds" / "opdjobs.opd.dev.yaml"], stages=[stage]) as cluster:
        cluster.kubectl("create", "namespace", NAMESPACE)
        for kind, namespace, spec in (("PersistentVolume", "", VOLUME), ("PersistentVolumeClaim", NAMESPACE, CLAIM)):
            metadata = {"name": "runs", "namespace": namespace}
            manifest = json.dumps({"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec})
            cluster.kubectl("apply", "-f", "-", stdin=manifest)
        yield World(cluster)


class World:
    """`moments[what]` fills while watches run."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.moments: dict[str, Moments] = defaultdict(dict)
        watch = self._watch
        watch("opd.dev/v1alpha1", "opdjobs", _job_events)
        watch("ray.io/v1", "rayjobs", _rayjob_events)
        watch("ray.io/v1", "rayclusters", _raycluster_events)
        watch("batch/v1", "jobs", _models_events)

    def apply(self, count: int) -> None:
        """As fast as the API server takes them."""
        self._post(OPDJOBS, [small_job(HUB_TEACHER, f"job-{index:04d}", **HUB) for index in range(count)])

    def rayjobs(self) -> list[dict[str, Any]]:
        """As the operator has made them, to be applied where there is no operator: nobody owns them, and the account
        that would come with the job is left out."""
        found = self.cluster.http.get(RAYJOBS).raise_for_status().json()["items"]
        return [_alone(each) for each in found]

    def apply_rayjobs(self, manifests: Sequence[dict[str, Any]]) -> None:
        """All at once, as fast as the API server takes them."""
        self._post(RAYJOBS, manifests)

    def _post(self, path: str, documents: Sequence[dict[str, Any]]) -> None:
        def post(document: dict[str, Any]) -> None:
            metadata = document["metadata"]
            job = metadata.get("labels", {}).get("opd.dev/job", metadata["name"])
            self.moments["applied"][job] = time.monotonic()
            self.cluster.http.post(path, json=document, timeout=120).raise_for_status()

        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(post, documents))

    def wait(self, what: str, count: int, seconds: float) -> None:
        end = time.monotonic() + seconds
        while len(self.moments[what]) < count:
            if time.monotonic() > end:
                raise TimeoutError(f"{len(self.moments[what])} of {count} jobs are {what} after {seconds:.0f} s")
            time.sleep(0.2)

    def between(self, start: str, end: str) -> list[float]:
        """Seconds, of every job that has both."""
        return sorted(
            moment - self.moments[start][name]
            for name, moment in self.moments[end].items()
            if name in self.moments[start]
        )

    def report(self, name: str, **progress: Any) -> None:
        """What a driver would say of its attempt 1."""
        path = f"/api/v1/namespaces/{NAMESPACE}/configmaps/{name}-mailbox"
        said = {"attempt": 1, "totalSteps": 100, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **progress}
        headers = {"content-type": "application/merge-patch+json"}
        body = json.dumps({"data": {"progress.json": json.dumps(said)}})
        self.cluster.http.patch(path, content=body, headers=headers).raise_for_status()

    def _watch(self, version: str, plural: str, happened: Happened) -> None:
        def follow() -> None:
            with self.cluster.http.stream("GET", f"/apis/{version}/{plural}?watch=1", timeout=None) as answer:
                for line in answer.iter_lines():
                    now = time.monotonic()
                    for what, job in happened(json.loads(line)["object"]):
                        self.moments[what].setdefault(job, now)

        def forever() -> None:
            while True:
                try:
                    follow()
                except Exception:  # the cluster has ended, or the API server cut the watch
                    time.sleep(0.5)

        threading.Thread(target=forever, daemon=True).start()


def _alone(rayjob: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {key: rayjob["metadata"][key] for key in ("name", "namespace", "labels")}
    cluster = rayjob["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        group["template"]["spec"].pop("serviceAccountName", None)
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": rayjob["spec"]}


def _job_events(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    name, status = body["metadata"]["name"], body.get("status", {})
    conditions = {each["type"]: each["status"] for each in status.get("conditions", ())}
    if status.get("rayJobName"):
        yield "told", name
    if conditions.get("ClusterReady") == "True":
        yield "told ready", name
    if status.get("phase") == "Training":
        yield "training", name
    if status.get("phase") == "Succeeded":
        yield "succeeded", name


def _rayjob_events(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    job = body["metadata"]["labels"]["opd.dev/job"]
    yield "RayJob made", job
    if body.get("status", {}).get("jobDeploymentStatus") == "Running":
        yield "RayJob running", job


def _raycluster_events(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    job = body["metadata"]["labels"]["opd.dev/job"]
    yield "RayCluster made", job
    if body.get("status", {}).get("state") == "ready":
        yield "RayCluster ready", job


def _models_events(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    job = body["metadata"]["labels"]["opd.dev/job"]
    yield "models Job made", job
    if any(each["type"] == "Complete" and each["status"] == "True" for each in body["status"].get("conditions", ())):
        yield "models Job complete", job
