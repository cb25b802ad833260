"""What an operator is told at its start, the same for every job. Read from the environment in `app`, nowhere else."""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Defaults are those of the chart."""

    namespaces: tuple[str, ...] = ()
    """Namespaces whose jobs are reconciled; empty: all of the cluster."""
    operator_namespace: str = "opd-system"
    """Where the Lease is, and whence NetworkPolicies let scrapers in."""
    lease_name: str = "opd-operator"
    """Operators of one Lease stand in for each other; those of two must not look after the same namespace."""
    runtime_image: str = "opd-runtime:0.1.0"
    """Of every pod of a job that names none."""
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    """Names of Secrets in the job's namespace."""
    ray_version: str = "2.60.0"
    gpu_memory_bytes: int = 79 * GIB
    """Of the largest GPU a job can get: what needs more is refused."""
    gpu_memory_label: str = "nvidia.com/gpu.memory"
    """Node label with the GPU's MiB, for the node affinity; empty: no affinity."""
    network_policies: bool = True
    key_seed: str = ""
    """What teachers' API keys are derived from: the same seed, the same keys after a restart."""
    stop_grace_seconds: int = 300
    """How long a stop request waits for the checkpoint before pods are deleted anyway."""
