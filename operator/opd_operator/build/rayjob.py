"""The RayJob of one attempt: a head for the driver, a worker group for trainers and one for engines.

KubeRay makes the cluster from it and submits the driver over the head's dashboard; it takes the `ray start` command,
probes, ports and the cluster's token from itself. Edits of `rayClusterSpec` later on are ignored by it: a change needs
a new attempt.
"""

from typing import Any

from opd_api import names
from opd_api.memory import MemoryEstimate
from opd_api.names import LABEL_JOB, LABEL_ROLE
from opd_api.spec import OPDJob

from ..objects import Kind, Manifest
from ..settings import Settings
from .child import child
from .digest import of_document, stamped
from .environment import api_key, ray
from .places import engine_uris, head_uris, trainer_uris
from .pods import PodKind, pod_template
from .resources import HEAD_BYTES, gpu_memory_affinity, server_gpu_bytes, sized, small
from .volumes import JOB_FILE

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
GRACE_SECONDS = 120
"""From a pod's deletion to SIGKILL: long enough for a checkpoint."""
POD = {"terminationGracePeriodSeconds": GRACE_SECONDS, "shareProcessNamespace": True}
"""KubeRay's init container and a `ray start` that still boots know no SIGTERM: as first processes of a namespace they
would sit the grace out, and keep their GPUs from the next attempt."""
DRAIN = {"lifecycle": {"preStop": {"exec": {"command": ["opd", "drain", "--timeout", f"{GRACE_SECONDS - 20}"]}}}}
"""An evicted head asks its driver to save; trainers and engines stay until it has."""

COMMON_PARAMETERS = {"num-cpus": "0", "include-log-monitor": "no"}
"""Actors ask for no CPUs, no task may run beside them, and for each CPU Ray would start a worker that idles. The log
monitor serves drivers that print their workers' output; ours does not, and the dashboard shows the files ("no" because
KubeRay leaves out what is "false")."""


def rayjob(job: OPDJob, attempt: int, settings: Settings, memory: MemoryEstimate) -> Manifest:
    """KubeRay never retries it: an attempt is replaced as a whole, by the operator."""
    name = names.rayjob(job.metadata.name, attempt)
    manifest = child(job, Kind.RAY_JOB, name, "ray", attempt=attempt)
    if queue := job.spec.scheduling.queue_name:
        manifest["metadata"]["labels"][QUEUE_LABEL] = queue
    spec = {
        "entrypoint": f"opd train {JOB_FILE} --attempt {attempt}",
        "submissionMode": "HTTPMode",
        "jobId": name,
        "backoffLimit": 0,
        "shutdownAfterJobFinishes": True,
        "rayClusterSpec": {
            "rayVersion": settings.ray_version,
            "authOptions": {"mode": "token"},
            "headGroupSpec": {
                "rayStartParams": {**COMMON_PARAMETERS, "dashboard-host": "0.0.0.0"},
                "template": pod_template(job, settings, _head(job, attempt)),
            },
            "workerGroupSpecs": [
                _group(job, settings, _trainer(job, attempt, settings, memory), job.spec.student.trainers.replicas),
                _group(job, settings, _engine(job, attempt, settings, memory), job.spec.rollout.engines.replicas),
            ],
        },
    }
    return stamped(of_document(manifest | {"spec": spec}, job))


def _group(job: OPDJob, settings: Settings, kind: PodKind, replicas: int) -> dict[str, Any]:
    """Ray offers the resource `opd-trainer` or `opd-engine` once a pod: actors find their place by it."""
    return {
        "groupName": kind.role,
        "replicas": replicas,
        "minReplicas": replicas,
        "maxReplicas": replicas,
        # KubeRay pastes parameters into a shell's command line.
        "rayStartParams": {**COMMON_PARAMETERS, "resources": f"""'{{"opd-{kind.role}": 1}}'"""},
        "template": pod_template(job, settings, kind),
    }


def _head(job: OPDJob, attempt: int) -> PodKind:
    keys = [each for teacher in job.spec.teachers for each in api_key(job, teacher)]
    return PodKind(
        role="head",
        uris=head_uris(job),
        resources=small(job, job.spec.head.resources, HEAD_BYTES),
        pods=job.spec.head,
        env=ray(job, attempt) + keys[:1],
        container=DRAIN,
        attempt=attempt,
        api_access=True,
        spec=POD,
    )


def _trainer(job: OPDJob, attempt: int, settings: Settings, memory: MemoryEstimate) -> PodKind:
    trainers = job.spec.student.trainers
    cuda = job.spec.device == "CUDA"
    affinity = gpu_memory_affinity(settings, memory.trainer.gpu_bytes)
    return PodKind(
        role="trainer",
        uris=trainer_uris(job),
        resources=sized(job, trainers.resources, trainers.gpus_per_replica, memory.trainer.host_bytes),
        gpus=trainers.gpus_per_replica if cuda else 0,
        pods=trainers,
        env=ray(job, attempt),
        affinity=affinity | (_apart(job) if cuda else {}),
        container=DRAIN,
        attempt=attempt,
        spec=POD,
    )


def _engine(job: OPDJob, attempt: int, settings: Settings, memory: MemoryEstimate) -> PodKind:
    engines = job.spec.rollout.engines
    return PodKind(
        role="engine",
        uris=engine_uris(job),
        resources=sized(job, engines.resources, engines.gpus_per_replica, memory.engine.host_bytes),
        gpus=engines.gpus_per_replica if job.spec.device == "CUDA" else 0,
        pods=engines,
        env=ray(job, attempt),
        affinity=gpu_memory_affinity(settings, server_gpu_bytes(memory.engine)),
        container=DRAIN,
        attempt=attempt,
        spec=POD,
    )


def _apart(job: OPDJob) -> dict[str, Any]:
    """Trainers of a job rather on nodes of their own: each has its node's network and host memory to itself."""
    trainers = {"matchLabels": {LABEL_JOB: job.metadata.name, LABEL_ROLE: "trainer"}}
    term = {"labelSelector": trainers, "topologyKey": "kubernetes.io/hostname"}
    return {
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]
        }
    }
