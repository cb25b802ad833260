"""What a container asks of its node: the user's words first, then the memory plan's. Plans no memory itself."""

from typing import Any

from opd_api.memory import MemoryEstimate, ServerEstimate
from opd_api.spec import OPDJob, Resources

from ..settings import GIB, Settings

GPU = "nvidia.com/gpu"
MIB = 2**20
MEMORY_STEP_MIB = 256
CPUS_PER_GPU = 4
HEAD_BYTES = 2 * GIB
"""GCS, dashboard and driver."""
MODELS_BYTES = GIB
"""Configs, tokenizers, and buffers of a download."""


def small(job: OPDJob, user: Resources, host_bytes: int) -> dict[str, Any]:
    """Of a pod without GPUs."""
    return _requirements(user, {"cpu": _small_cpu(job), "memory": memory(host_bytes)}, gpus=0)


def sized(job: OPDJob, user: Resources, gpus: int, host_bytes: int) -> dict[str, Any]:
    """Of a pod with `gpus` processes that take `host_bytes` each; on CPU there are no GPUs, the processes stay.

    Memory is requested and not limited: the plan is an estimate, and a limit below the truth kills the pod.
    """
    cuda = job.spec.device == "CUDA"
    cpu = str(CPUS_PER_GPU * gpus) if cuda else "250m"
    return _requirements(user, {"cpu": cpu, "memory": memory(gpus * host_bytes)}, gpus=gpus if cuda else 0)


def memory(size_bytes: int) -> str:
    """Rounded up to 256 MiB and written as Kubernetes writes it: KubeRay would write it anew, and we again after it."""
    mib = -(-size_bytes // (MEMORY_STEP_MIB * MIB)) * MEMORY_STEP_MIB
    return f"{mib}Mi" if mib % 1024 else f"{mib // 1024}Gi"


def _small_cpu(job: OPDJob) -> str:
    return "1" if job.spec.device == "CUDA" else "100m"


def _requirements(user: Resources, requests: dict[str, str], gpus: int) -> dict[str, Any]:
    """A key the user wrote anywhere is the user's: a limit alone is its own request in Kubernetes."""
    written = {**user.requests, **user.limits}
    wanted = {key: value for key, value in requests.items() if key not in written} | user.requests
    limits: dict[str, str | int] = dict(user.limits)
    if gpus:  # Kubernetes takes whole devices only when request and limit say the same.
        wanted[GPU] = limits[GPU] = str(written.get(GPU, gpus))
    return {"requests": wanted} | ({"limits": limits} if limits else {})


def gpu_memory_affinity(settings: Settings, gpu_bytes: int) -> dict[str, Any]:
    """Only nodes whose label says that a GPU has that much; {} where nothing is asked or no label is known."""
    if not (gpu_bytes and settings.gpu_memory_label):
        return {}
    # Gt is the only comparison that Kubernetes has.
    least = {"key": settings.gpu_memory_label, "operator": "Gt", "values": [str(-(-gpu_bytes // MIB) - 1)]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [least]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def server_gpu_bytes(server: ServerEstimate) -> int:
    """The smallest GPU of which the server's share holds the weights and the longest sample; 0 on CPU."""
    if not server.cuda:
        return 0
    return int((server.weights_bytes + server.longest_tokens * server.kv_bytes_per_token) / server.memory_fraction)


def teacher_estimate(memory: MemoryEstimate, name: str) -> ServerEstimate | None:
    """None while its model is unknown."""
    return next((each for each in memory.teachers if each.name == name), None)
