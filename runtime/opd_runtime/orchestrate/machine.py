"""Whether a job fits the machine it is to run on as a whole. In a cluster that is the scheduler's question."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from opd_api.documents import ModelSummary
from opd_api.errors import Problem
from opd_api.memory import estimate
from opd_api.spec import OPDJob

GIB = 2**30
CONTROL_GROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What there is."""

    gpus: int
    gpu_bytes: int
    """Of the smallest GPU; 0 without one."""
    host_bytes: int
    """Memory that could be had without swapping."""


def this_machine() -> Machine:
    import torch

    gpus = torch.cuda.device_count()
    return Machine(
        gpus=gpus,
        gpu_bytes=min((torch.cuda.get_device_properties(i).total_memory for i in range(gpus)), default=0),
        host_bytes=_available_bytes(),
    )


def machine_problems(job: OPDJob, models: Mapping[str, ModelSummary], machine: Machine) -> Iterator[Problem]:
    """Pure. What the job needs and the machine lacks, in numbers; `models` by role as for `estimate`."""
    spec = job.spec
    trainers = spec.student.trainers.replicas * spec.student.trainers.gpus_per_replica
    engines = spec.rollout.engines.replicas
    served = [teacher for teacher in spec.teachers if teacher.mode == "SGLang" and not teacher.sglang.endpoint]
    if spec.device == "CUDA":
        gpus = trainers + engines * spec.rollout.engines.gpus_per_replica
        gpus += sum(teacher.sglang.replicas * teacher.sglang.gpus_per_replica for teacher in served)
        if gpus > machine.gpus:
            yield Problem(
                path="spec.device",
                message=f"CUDA: trainers, engines and teacher want {gpus} GPUs, PyTorch sees {machine.gpus} here.",
                hint="lower replicas and gpusPerReplica, use a running teacher's sglang.endpoint, or device: CPU",
            )
            return
    plan = estimate(job, models, gpu_memory_bytes=machine.gpu_bytes or None)
    if plan.trainer.gpu_bytes > machine.gpu_bytes and spec.device == "CUDA":
        yield Problem(
            path="spec.student",
            message=f"a trainer needs {_gib(plan.trainer.gpu_bytes)} of GPU memory, "
            f"the GPU has {_gib(machine.gpu_bytes)}.",
            hint="raise parallelism.tensor, lower maxTokensPerGPU, set recompute: Full or (with BF16) "
            "optimizer.offload: true, or place a Megatron teacher Offloaded",
        )
    host = trainers * plan.trainer.host_bytes + engines * plan.engine.host_bytes
    host += sum(server.host_bytes * spec.teachers[0].sglang.replicas for server in plan.teachers)
    if host > machine.host_bytes:
        yield Problem(
            path="spec",
            message=f"trainers, engines and teacher need {_gib(host)} of memory, {_gib(machine.host_bytes)} are free.",
            hint="`opd render --models` shows what takes it; lower replicas, maxTokensPerGPU or the models' size",
        )


def _available_bytes() -> int:
    """MemAvailable, or the control group's limit where that is lower (containers)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    kib = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), None)
    available = kib * 1024 if kib is not None else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit, used = (int((CONTROL_GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (CONTROL_GROUP / "memory.stat").read_text().splitlines())
        return min(available, limit - used + int(stat["inactive_file"]))  # pages of files that can go at once
    except (OSError, ValueError, KeyError):  # no control group, or no limit ("max")
        return available


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
