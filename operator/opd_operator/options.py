"""Environment -> Settings. The one place that knows the variables' names; the chart sets them."""

from collections.abc import Mapping

from opd_api.errors import OPDError

from .plan.quantity import bytes_of
from .settings import Settings


class BadOption(OPDError):
    """A variable that cannot be read: which, why, and what to write."""


def settings_from(environment: Mapping[str, str]) -> Settings:
    """What is unset keeps its default. Raises BadOption."""
    default = Settings()
    return Settings(
        namespaces=_words(environment, "OPD_NAMESPACES"),
        operator_namespace=environment.get("OPD_OPERATOR_NAMESPACE") or default.operator_namespace,
        lease_name=environment.get("OPD_LEASE_NAME") or default.lease_name,
        runtime_image=environment.get("OPD_RUNTIME_IMAGE") or default.runtime_image,
        image_pull_policy=_pull_policy(environment, default.image_pull_policy),
        image_pull_secrets=_words(environment, "OPD_IMAGE_PULL_SECRETS"),
        ray_version=environment.get("OPD_RAY_VERSION") or default.ray_version,
        gpu_memory_bytes=_bytes(environment, "OPD_GPU_MEMORY", default.gpu_memory_bytes),
        gpu_memory_label=environment.get("OPD_GPU_MEMORY_LABEL", default.gpu_memory_label),
        network_policies=_switch(environment, "OPD_NETWORK_POLICIES", default.network_policies),
        key_seed=environment.get("OPD_KEY_SEED", ""),
        stop_grace_seconds=_seconds(environment, "OPD_STOP_GRACE_SECONDS", default.stop_grace_seconds),
    )


def _words(environment: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in environment.get(name, "").split(",") if word.strip())


def _pull_policy(environment: Mapping[str, str], default: str) -> str:
    given = environment.get("OPD_IMAGE_PULL_POLICY") or default
    if given not in ("Always", "IfNotPresent", "Never"):
        raise BadOption(f"OPD_IMAGE_PULL_POLICY: {given!r} is no pull policy; write Always, IfNotPresent or Never")
    return given


def _bytes(environment: Mapping[str, str], name: str, default: int) -> int:
    given = environment.get(name)
    found = bytes_of(given) if given else default
    if not found:
        raise BadOption(f"{name}: {given!r} is no Kubernetes quantity; write 80Gi")
    return found


def _switch(environment: Mapping[str, str], name: str, default: bool) -> bool:
    given = environment.get(name)
    if given and given not in ("true", "false"):
        raise BadOption(f"{name}: {given!r} is neither true nor false")
    return given == "true" if given else default


def _seconds(environment: Mapping[str, str], name: str, default: int) -> int:
    given = environment.get(name)
    if given and not given.isdecimal():
        raise BadOption(f"{name}: {given!r} is no number of seconds; write 300")
    return int(given) if given else default
