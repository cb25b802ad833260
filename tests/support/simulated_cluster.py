"""A model of what the operator works against: API server, garbage collector, Job controller, KubeRay, Kueue, runtime.

It holds objects as facts, applies what plans say, and lets everybody else act in random order. `simulated_faults`
breaks it, `simulated_operator` works on it. Not modelled: what manifests hold beyond names, digests, attempts, steps.
"""

import random
import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from operator_makers import MODELS, NOW, UID, document

from opd_api import names
from opd_api.documents import DocumentError, ModelsReport, Progress, Request, parse_request
from opd_api.load import job_from_document
from opd_api.spec import OPDJob
from opd_api.status import Status
from opd_operator.objects import DOCUMENT_DIGEST, MANIFEST_DIGEST, Kind, Manifest, ObjectRef
from opd_operator.observed import (
    ConfigFacts,
    DeploymentFacts,
    MailboxFacts,
    ModelsJobFacts,
    PodFacts,
    RayClusterFacts,
    RayJobFacts,
)
from opd_operator.plan.times import stamp

JOB = "job"
FORMER_UID = "the uid of an earlier job"
RAY_ROLES = ("head", "trainer", "engine")
CHECKPOINT_STEPS = 20


@dataclass
class Driver:
    """The runtime's driver of one attempt; it lives on the head pod."""

    attempt: int
    total: int
    step: int = 0
    phase: str = "Starting"
    hangs: bool = False


@dataclass
class Cluster:
    """Everything there is, and who acts next is drawn."""

    rng: random.Random
    queue: bool = False
    teacher_mode: str = "SGLang"
    now: datetime = NOW
    kuberay: bool = True
    steps: int = 60
    seed: int = 42
    """Of the document: what no living attempt takes over."""
    suspend: bool = False
    readable: bool = True
    """Whether the operator's version understands the document."""
    exists: bool = True
    deleting: bool = False
    generation: int = 1
    version: int = 1
    status: Status = field(default_factory=Status)
    config: ConfigFacts | None = None
    config_steps: int = 0
    mailbox: MailboxFacts | None = None
    models_job: ModelsJobFacts | None = None
    deployments: dict[str, DeploymentFacts] = field(default_factory=dict)
    rayjobs: dict[int, RayJobFacts] = field(default_factory=dict)
    clusters: dict[int, RayClusterFacts] = field(default_factory=dict)
    pods: dict[str, PodFacts] = field(default_factory=dict)
    drivers: dict[int, Driver] = field(default_factory=dict)
    stuck: set[str] = field(default_factory=set)
    """Pods on a node that does not answer: they neither start nor go."""
    saved_step: int = 0
    """Of the newest checkpoint on the claim."""
    serial: int = 0
    writes: int = 0

    def __post_init__(self) -> None:
        spec: dict[str, Any] = {"runPolicy": {"backoffLimit": 3, "startupDeadlineSeconds": 3600}}
        spec["scheduling"] = {"queueName": "research"} if self.queue else {}
        self._first = job_from_document(document(spec, mode=self.teacher_mode))

    @property
    def job(self) -> OPDJob:
        spec = self._first.spec.model_copy(update={"steps": self.steps, "suspend": self.suspend, "seed": self.seed})
        return self._first.model_copy(update={"spec": spec})

    def leave_behind(self) -> None:
        """A job of the same name was here before: its children are still on their way out."""
        self.config = ConfigFacts(owner_uid=FORMER_UID)
        self.models_job = ModelsJobFacts(owner_uid=FORMER_UID, created=self.now)
        for role in (*RAY_ROLES, "models"):
            self.make_pod(role, attempt=1 if role != "models" else None)
        for name, pod in self.pods.items():
            report = ModelsReport(models=MODELS.models).model_dump_json() if pod.role == "models" else ""
            self.pods[name] = replace(pod, phase="Running", deleting=True, termination_message=report)

    def edited(self) -> None:
        """The user changed the spec."""
        self.generation += 1
        self.version += 1

    # ------------------------------------------------------------ what the API server does for the operator
    def write_status(self, status: Status) -> None:
        before = {each.type: each for each in self.status.conditions}
        for kind in ("Complete", "Failed"):
            if kind in before and before[kind].status == "True":
                assert before[kind] in status.conditions, f"terminal {kind} was lost or changed"
        self.status = status
        self.version += 1
        self.writes += 1

    def apply(self, manifest: Manifest) -> None:
        self.writes += 1
        kind, metadata = manifest["kind"], manifest["metadata"]
        digest = metadata.get("annotations", {}).get(MANIFEST_DIGEST, "")
        source = metadata.get("annotations", {}).get(DOCUMENT_DIGEST, "")
        match kind:
            case "ConfigMap" if metadata["name"] == names.config(JOB):
                self._apply_config(manifest["data"], digest)
            case "ConfigMap":
                self._apply_mailbox(manifest.get("data", {}))
            case "Job":
                assert self.models_job is None or self.models_job.owner_uid == UID, "applied over a stranger"
                made = ModelsJobFacts(owner_uid=UID, created=self.now, document=source, suspended=self.queue)
                self.models_job = self.models_job or made
            case "Deployment":
                known = self.deployments.get(metadata["name"])
                replicas = manifest["spec"]["replicas"]
                facts = known or DeploymentFacts(name=metadata["name"], owner_uid=UID, teacher="teacher")
                self.deployments[facts.name] = replace(facts, digest=digest, replicas=replicas)
            case "RayJob":
                self._apply_rayjob(int(metadata["labels"]["opd.dev/attempt"]), source)

    def _apply_config(self, data: dict[str, str], digest: str) -> None:
        models = ModelsReport.model_validate_json(data[names.MODELS_KEY]) if names.MODELS_KEY in data else None
        assert self.config is None or self.config.owner_uid == UID, "applied over a stranger"
        self.config = ConfigFacts(owner_uid=UID, digest=digest, models=models)
        found = re.search(r"^  steps: (\d+)$", data[names.JOB_KEY], re.MULTILINE)
        assert found
        self.config_steps = int(found[1])

    def _apply_mailbox(self, data: dict[str, str]) -> None:
        text = data.get(names.REQUEST_KEY)
        request = parse_request(text.encode()) if text else None
        progress = self.mailbox.progress if self.mailbox else None
        self._set_mailbox(progress, request)

    def _set_mailbox(self, progress: Progress | DocumentError | None, request: Request | DocumentError | None) -> None:
        self.serial += 1
        version = str(self.serial)
        self.mailbox = MailboxFacts(owner_uid=UID, resource_version=version, progress=progress, request=request)

    def _apply_rayjob(self, attempt: int, source: str) -> None:
        """The property that matters most: whoever makes an attempt makes it alone."""
        if attempt in self.rayjobs:
            return
        assert self.kuberay, "a RayJob was applied though nobody knows RayJobs"
        others = [*self.rayjobs, *(pod.name for pod in self.pods.values() if pod.role in RAY_ROLES)]
        assert not others, f"attempt {attempt} was made beside {others}"
        assert attempt == self.status.attempt, f"attempt {attempt} was made, {self.status.attempt} is written down"
        ended = [each.type for each in self.status.conditions if each.status == "True"]
        assert not {"Complete", "Failed", "Suspended"} & set(ended), (
            f"attempt {attempt} was made of a job that is {ended}"
        )
        self.rayjobs[attempt] = RayJobFacts(
            name=names.rayjob(JOB, attempt), owner_uid=UID, attempt=attempt, document=source, suspended=self.queue
        )

    def delete(self, ref: ObjectRef) -> None:
        """Background propagation: the object goes now, what it owns later."""
        self.writes += 1
        match ref.kind:
            case Kind.RAY_JOB:
                self.remove_rayjob(next((n for n, each in self.rayjobs.items() if each.name == ref.name), 0))
            case Kind.DEPLOYMENT:
                self.deployments.pop(ref.name, None)
            case Kind.JOB:
                self.models_job = None
                self._doom(role="models")
            case _:
                pass

    def remove_rayjob(self, attempt: int) -> None:
        if self.rayjobs.pop(attempt, None):
            self._doom(attempt=attempt)

    def delete_job(self) -> None:
        self.exists = False

    def _doom(self, *, role: str = "", attempt: int | None = None) -> None:
        for name, pod in list(self.pods.items()):
            if (role and pod.role == role) or (
                attempt is not None and pod.attempt == attempt and pod.role in RAY_ROLES
            ):
                self.pods[name] = replace(pod, deleting=True)

    # ------------------------------------------------------------ everybody else
    def act(self) -> None:
        """One round: everybody may do a little."""
        for turn in self.rng.sample(
            (self._pods_go, self._models, self._teachers, self._kuberay, self._start_pods, self._drive), 6
        ):
            turn()

    def _pods_go(self) -> None:
        for name, pod in list(self.pods.items()):
            if pod.deleting and name not in self.stuck and self.rng.random() < 0.6:
                del self.pods[name]
                if pod.role == "head" and pod.attempt is not None:
                    self.drivers.pop(pod.attempt, None)
        if self.rng.random() < 0.3:
            self.config = None if self.config and self.config.owner_uid == FORMER_UID else self.config
            gone = self.models_job and self.models_job.owner_uid == FORMER_UID
            self.models_job = None if gone else self.models_job
        for attempt in list(self.clusters):
            if attempt not in self.rayjobs and not any(pod.attempt == attempt for pod in self.pods.values()):
                del self.clusters[attempt]

    def make_pod(self, role: str, attempt: int | None = None) -> None:
        self.serial += 1
        name = f"{JOB}-{role}-{self.serial}"
        self.pods[name] = PodFacts(name=name, role=role, attempt=attempt, teacher="", created=self.now)

    def _start_pods(self) -> None:
        for name, pod in list(self.pods.items()):
            if pod.phase == "Pending" and name not in self.stuck and not pod.deleting and self.rng.random() < 0.8:
                self.pods[name] = replace(
                    pod, phase="Running", ready=True, scheduled=True, node="node-1", waiting_reason=""
                )

    def _models(self) -> None:
        found = [pod for pod in self.pods.values() if pod.role == "models" and not pod.deleting]
        if self.models_job is None or self.models_job.owner_uid != UID:
            return
        if self.models_job.suspended:
            if self.rng.random() < 0.5:
                self.models_job = replace(self.models_job, suspended=False, resumed=self.now)
        elif not found:
            if not self.models_job.succeeded and not self.models_job.failed:
                self.make_pod("models")
        elif found[0].phase == "Running":
            self.pods[found[0].name] = replace(
                found[0], phase="Succeeded", ready=False, termination_message=MODELS.model_dump_json()
            )
        elif found[0].phase == "Succeeded":
            self.models_job = replace(self.models_job, succeeded=True)

    def _teachers(self) -> None:
        for name, facts in list(self.deployments.items()):
            if facts.ready_replicas != facts.replicas and self.rng.random() < 0.5:
                self.deployments[name] = replace(facts, ready_replicas=facts.replicas)

    def _kuberay(self) -> None:
        if not self.kuberay:
            return
        for attempt, rayjob in list(self.rayjobs.items()):
            if rayjob.suspended:
                if self.rng.random() < 0.5:
                    self.rayjobs[attempt] = replace(rayjob, suspended=False)
                continue
            if attempt not in self.clusters and rayjob.deployment_status == "":
                cluster = f"{rayjob.name}-x7k2p"
                self.clusters[attempt] = RayClusterFacts(name=cluster, attempt=attempt, desired_workers=2)
                self.rayjobs[attempt] = replace(rayjob, deployment_status="Initializing", cluster_name=cluster)
                for role in RAY_ROLES:
                    self.make_pod(role, attempt)
            elif attempt in self.clusters:
                self._watch_cluster(attempt, rayjob)

    def _watch_cluster(self, attempt: int, rayjob: RayJobFacts) -> None:
        alive = {pod.role for pod in self.pods.values() if pod.attempt == attempt and pod.ready and not pod.deleting}
        ready = len(alive & {"trainer", "engine"})
        self.clusters[attempt] = replace(self.clusters[attempt], head_ready="head" in alive, ready_workers=ready)
        if rayjob.deployment_status == "Initializing" and len(alive) == 3:
            self.rayjobs[attempt] = replace(rayjob, deployment_status="Running", job_status="RUNNING")
            self.drivers[attempt] = Driver(attempt=attempt, total=self.config_steps)

    # ------------------------------------------------------------ the runtime
    def _drive(self) -> None:
        for driver in list(self.drivers.values()):
            if not driver.hangs and self.rng.random() < 0.9:
                self._step(driver)

    def _step(self, driver: Driver) -> None:
        request = self.mailbox.request if self.mailbox else None
        if isinstance(request, Request) and request.attempt == driver.attempt and request.stop:
            self.saved_step = max(self.saved_step, driver.step)
            self.finish(driver, "Stopped", "SUCCEEDED")
        elif driver.phase == "Starting":
            self.report(driver)
            driver.phase, driver.step = "Training", min(self.saved_step, driver.total)
        elif driver.step < driver.total:
            driver.step = min(driver.step + self.rng.randint(1, 15), driver.total)
            self.saved_step = max(self.saved_step, driver.step // CHECKPOINT_STEPS * CHECKPOINT_STEPS)
            self.report(driver)
        else:
            self.saved_step = max(self.saved_step, driver.total)
            self.finish(driver, "Succeeded", "SUCCEEDED")

    def report(self, driver: Driver, **fields: Any) -> None:
        """A report of a ConfigMap that is not there is lost."""
        known = {
            "attempt": driver.attempt,
            "phase": driver.phase,
            "step": driver.step,
            "total_steps": driver.total,
            "time": stamp(self.now),
            "checkpoint": {"step": self.saved_step, "uri": "pvc://checkpoints/job"},
        }
        if self.mailbox is not None:
            self._set_mailbox(Progress.model_validate(known | fields), self.mailbox.request)

    def forge(self, progress: Progress | DocumentError | None, request: Request | DocumentError | None) -> None:
        if self.mailbox is not None:
            self._set_mailbox(progress, request)

    def finish(self, driver: Driver, phase: str, job_status: str, **fields: Any) -> None:
        """The driver's last report ("" for none), and what KubeRay makes of its end: the cluster goes."""
        if phase:
            driver.phase = phase
            self.report(driver, **fields)
        self.drivers.pop(driver.attempt, None)
        rayjob = self.rayjobs.get(driver.attempt)
        if rayjob is not None:
            ended = "Complete" if job_status == "SUCCEEDED" else "Failed"
            self.rayjobs[driver.attempt] = replace(rayjob, job_status=job_status, deployment_status=ended)
            self._doom(attempt=driver.attempt)

    def preempt(self, attempt: int) -> None:
        """Kueue takes the quota back: KubeRay deletes the cluster and starts it again when it may."""
        self.drivers.pop(attempt, None)
        self._doom(attempt=attempt)
        self.clusters.pop(attempt, None)
        self.rayjobs[attempt] = replace(self.rayjobs[attempt], suspended=True, job_status="", deployment_status="")

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
