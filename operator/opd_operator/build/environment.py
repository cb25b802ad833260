"""Environment of a job's containers. Secrets come by reference, never by value."""

from typing import Any

from opd_api import names
from opd_api.spec import OPDJob, Teacher

from .places import is_hub_dataset, is_remote
from .volumes import HOME_DIR, VOLUMES_DIR, cache_dir, run_dir

type Env = list[dict[str, Any]]

API_KEY_VARIABLE = "OPD_TEACHER_API_KEY"


def common(job: OPDJob, *, gpus: bool) -> Env:
    """Of every pod. A pod without GPUs would see all of its node's, were they not made void; torch's compiler names its
    cache after its user, who has no name where a pod template says another `runAsUser`."""
    cpu = job.spec.device == "CPU"
    return _plain(
        {
            "OPD_NAMESPACE": job.metadata.namespace or "",
            "OPD_JOB": job.metadata.name,
            "OPD_VOLUMES": VOLUMES_DIR,
            "OPD_CACHE": cache_dir(job),
            "HOME": HOME_DIR,
            "USER": "opd",
            "TMPDIR": "/tmp",
        }
        | ({"OMP_NUM_THREADS": "1"} if cpu else {})
        | ({"NVIDIA_VISIBLE_DEVICES": "void"} if not (cpu or gpus) else {})
    )


def ray(job: OPDJob, attempt: int) -> Env:
    """Of Ray pods. Ray's memory monitor would kill actors before Kubernetes' limit says so; its default niceness of 15
    lets any neighbour starve trainers; and it would hide GPUs from actors that ask for none."""
    return _plain(
        {
            "OPD_ATTEMPT": str(attempt),
            "OPD_RUN_DIR": run_dir(job),
            "RAY_memory_monitor_refresh_ms": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }
    )


def hub(job: OPDJob, *, online: bool) -> Env:
    """A pod that has everything at hand never asks the hub; data sets go into the model cache beside the models."""
    if not online:
        return _plain({"HF_HUB_OFFLINE": "1"})
    return _plain({"HF_HOME": f"{cache_dir(job)}/huggingface"}) if job.spec.model_cache.claim_name else []


def fetches(job: OPDJob, role: str, uris: list[str]) -> bool:
    """With a model cache the models Job fetches for all; the hub's data sets are looked up by who reads them, too."""
    cached = role != "models" and job.spec.model_cache.claim_name != ""
    return any(is_hub_dataset(uri) or (is_remote(uri) and not cached) for uri in uris)


def api_key(job: OPDJob, teacher: Teacher) -> Env:
    """None for a teacher without a key: an endpoint that asks for none, or one in the trainers."""
    secret = key_secret(job, teacher)
    if not secret:
        return []
    reference = {"secretKeyRef": {"name": secret, "key": names.API_KEY_KEY}}
    return [{"name": API_KEY_VARIABLE, "valueFrom": reference}]


def key_secret(job: OPDJob, teacher: Teacher) -> str:
    """The user's Secret, else the one made for a teacher that is deployed."""
    if teacher.mode != "SGLang":
        return ""
    ours = "" if teacher.sglang.endpoint else names.teacher(job.metadata.name, teacher.name)
    return teacher.sglang.api_key_secret or ours


def credentials(job: OPDJob) -> list[dict[str, Any]]:
    """`envFrom` of pods that fetch; a Secret that is not there keeps the pod waiting, and the message says its name."""
    name = job.spec.credentials.secret_name
    return [{"secretRef": {"name": name, "optional": False}}] if name else []


def _plain(variables: dict[str, str]) -> Env:
    return [{"name": name, "value": value} for name, value in variables.items()]
