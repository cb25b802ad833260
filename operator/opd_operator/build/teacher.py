"""An SGLang teacher in the cluster: key, Service, disruption budget, network policy and Deployment of one teacher."""

import base64
import hashlib
import hmac
from typing import Any

from opd_api import names
from opd_api.memory import MemoryEstimate
from opd_api.names import LABEL_JOB, LABEL_TEACHER, TEACHER_PORT
from opd_api.spec import OPDJob, Teacher

from ..objects import Kind, Manifest
from ..settings import GIB, Settings
from .child import child
from .digest import digest, stamped
from .environment import api_key
from .network import teacher_policy
from .places import teacher_uris
from .pods import PodKind, pod_template
from .resources import gpu_memory_affinity, server_gpu_bytes, sized, teacher_estimate
from .volumes import JOB_FILE

PROBE_PERIOD_SECONDS = 10
SERVER_MEMORY_BYTES = 4 * GIB
"""Requested for a teacher whose model's shape is unknown."""


def teacher_set(job: OPDJob, teacher: Teacher, settings: Settings, memory: MemoryEstimate) -> tuple[Manifest, ...]:
    """In the order to apply; the Deployment's digest speaks for all.

    Only for a teacher in mode SGLang without an endpoint. The digest leaves the key out: with another seed, running
    teachers and drivers keep the key they share.
    """
    deployment = _deployment(job, teacher, settings, memory)
    own_key = not teacher.sglang.api_key_secret
    others = [_service(job, teacher)]
    others += [_disruption_budget(job, teacher)] if teacher.sglang.replicas > 1 else []
    others += [teacher_policy(job, teacher)] if settings.network_policies else []
    value = digest([own_key, *others, deployment])
    secrets = [_secret(job, teacher, settings)] if own_key else []
    return (*secrets, *others, stamped(deployment, value))


def _secret(job: OPDJob, teacher: Teacher, settings: Settings) -> Manifest:
    """The key is derived and not drawn, so that it is the same after a restart of the operator."""
    owner = f"{job.metadata.uid}/{teacher.name}"
    key = hmac.new(settings.key_seed.encode(), owner.encode(), hashlib.sha256).hexdigest()
    data = {names.API_KEY_KEY: base64.b64encode(key.encode()).decode()}
    return _child(job, Kind.SECRET, teacher) | {"type": "Opaque", "data": data}


def _service(job: OPDJob, teacher: Teacher) -> Manifest:
    """Headless: the scorer finds every ready replica by itself and balances over them."""
    ports = [{"name": "http", "port": TEACHER_PORT, "targetPort": "http", "protocol": "TCP"}]
    spec = {"clusterIP": "None", "selector": _selector(job, teacher), "ports": ports}
    return _child(job, Kind.SERVICE, teacher) | {"spec": spec}


def _disruption_budget(job: OPDJob, teacher: Teacher) -> Manifest:
    """A drain takes one replica at a time and is never blocked by one that is not ready: scoring waits for the rest.
    Of a single replica it would say nothing."""
    spec = {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": _selector(job, teacher)},
    }
    return _child(job, Kind.POD_DISRUPTION_BUDGET, teacher) | {"spec": spec}


def _deployment(job: OPDJob, teacher: Teacher, settings: Settings, memory: MemoryEstimate) -> Manifest:
    """Recreate: there may be no GPU for a second replica beside the first."""
    sglang = teacher.sglang
    spec = {
        "replicas": sglang.replicas,
        "strategy": {"type": "Recreate"},
        "progressDeadlineSeconds": sglang.startup_timeout_seconds,
        "selector": {"matchLabels": _selector(job, teacher)},
        "template": pod_template(job, settings, _kind(job, teacher, settings, memory)),
    }
    return _child(job, Kind.DEPLOYMENT, teacher) | {"spec": spec}


def _kind(job: OPDJob, teacher: Teacher, settings: Settings, memory: MemoryEstimate) -> PodKind:
    sglang = teacher.sglang
    estimate = teacher_estimate(memory, teacher.name)
    host_bytes = estimate.host_bytes if estimate else SERVER_MEMORY_BYTES
    command = ["opd", "serve", JOB_FILE, "--teacher", teacher.name, "--host", "0.0.0.0", "--port", str(TEACHER_PORT)]
    return PodKind(
        role="teacher",
        uris=teacher_uris(teacher),
        resources=sized(job, sglang.resources, sglang.gpus_per_replica, host_bytes),
        gpus=sglang.gpus_per_replica if job.spec.device == "CUDA" else 0,
        pods=sglang,
        container={
            "command": command,
            "ports": [{"name": "http", "containerPort": TEACHER_PORT, "protocol": "TCP"}],
            **_probes(sglang.startup_timeout_seconds),
        },
        env=api_key(job, teacher),
        affinity=gpu_memory_affinity(settings, server_gpu_bytes(estimate)) if estimate else {},
        teacher=teacher.name,
    )


def _probes(startup_timeout_seconds: int) -> dict[str, Any]:
    """`/health` makes the server run a token and takes 1 s at least, 20 s at most; prompts as long as a teacher's keep
    it waiting, so only minutes of silence restart a server. `/ready` costs nothing. None needs the key."""
    failures = -(-startup_timeout_seconds // PROBE_PERIOD_SECONDS)
    return {
        "startupProbe": _probe("/health", timeout=25, period=PROBE_PERIOD_SECONDS, failures=failures),
        "readinessProbe": _probe("/ready", timeout=5, period=PROBE_PERIOD_SECONDS, failures=3),
        "livenessProbe": _probe("/health", timeout=30, period=30, failures=10),
    }


def _probe(path: str, *, timeout: int, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "timeoutSeconds": timeout,
        "periodSeconds": period,
        "failureThreshold": failures,
    }


def _selector(job: OPDJob, teacher: Teacher) -> dict[str, str]:
    return {LABEL_JOB: job.metadata.name, LABEL_TEACHER: teacher.name}


def _child(job: OPDJob, kind: Kind, teacher: Teacher) -> Manifest:
    name = names.teacher(job.metadata.name, teacher.name)
    return child(job, kind, name, "teacher", teacher=teacher.name)
