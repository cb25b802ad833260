"""Does the job fit its GPUs? Refuses with numbers and with changes that were calculated to help. Estimates nothing
itself: the formulae are `opd_api.memory`'s.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from opd_api.conditions import Reason
from opd_api.documents import ModelSummary
from opd_api.memory import GIB, TRAINER_HOST_BYTES, MemoryEstimate, ServerEstimate, estimate
from opd_api.rules import check_models, check_static
from opd_api.spec import OPDJob, Spec, Student, Teacher

from ..settings import Settings
from .quantity import bytes_of
from .verdict import Verdict

LARGEST_TENSOR = 8
"""GPUs of one node: no remedy goes beyond."""
SERVER_SIZES = (2, 4, LARGEST_TENSOR)
COMBINE = "combine a larger parallelism.tensor, recompute: Full and, with precision: BF16, optimizer.offload: true"
"""Where no single change helps."""


def estimate_of(job: OPDJob, models: Mapping[str, ModelSummary], settings: Settings) -> MemoryEstimate:
    """`models` holds the student at least."""
    return estimate(job, models, gpu_memory_bytes=settings.gpu_memory_bytes)


def refusal(job: OPDJob, models: Mapping[str, ModelSummary], settings: Settings) -> Verdict | None:
    """The first thing that cannot fit, or None."""
    checks = (_trainer_gpu, _teacher_on_host, _engine_gpu, _teachers_gpu)
    plan = _Fit(job=job, models=models, settings=settings)
    return next((found for check in checks if (found := check(plan))), None)


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """One job against one size of GPU."""

    job: OPDJob
    models: Mapping[str, ModelSummary]
    settings: Settings

    @cached_property
    def memory(self) -> MemoryEstimate:
        return estimate_of(self.job, self.models, self.settings)

    @property
    def gpu_bytes(self) -> int:
        return self.settings.gpu_memory_bytes

    def with_spec(self, change: Callable[[Spec], Spec]) -> "_Fit":
        changed = self.job.model_copy(update={"spec": change(self.job.spec)})
        return _Fit(job=changed, models=self.models, settings=self.settings)


# ---------------------------------------------------------------- trainers
def _trainer_gpu(plan: _Fit) -> Verdict | None:
    memory = plan.memory
    needed = memory.trainer.gpu_bytes
    if needed <= plan.gpu_bytes:
        return None
    teacher = _megatron_teacher(plan.job)
    alone = needed
    if teacher is not None and teacher.name in plan.models:
        others = {role: model for role, model in plan.models.items() if role != teacher.name}
        alone = _Fit(job=plan.job, models=others, settings=plan.settings).memory.trainer.gpu_bytes
    by_teacher = alone <= plan.gpu_bytes < needed
    parts = f"{_gib(memory.trainer.resident_bytes)} of weights, gradients and optimizer that stay, "
    parts += f"{_gib(memory.trainer.peak_bytes)} of activations and logits that come and go"
    if by_teacher and teacher is not None:
        what = (
            f"with teacher {teacher.name} ({teacher.megatron.placement}) a trainer needs {_gib(needed)} of GPU memory"
        )
        what += f", {_gib(alone)} without it"
    else:
        what = f"a trainer needs {_gib(needed)} of GPU memory ({parts})"
    found = [f"{words} ({_gib(size)})" for words, size in _trainer_remedies(plan) if size <= plan.gpu_bytes]
    if by_teacher and not found:
        found = ["serve the teacher with mode: SGLang on GPUs of its own"]
    remedy = f"set {' or '.join(found[:3])}" if found else COMBINE
    reason = Reason.INSUFFICIENT_TEACHER_MEMORY if by_teacher else Reason.INSUFFICIENT_GPU_MEMORY
    return Verdict(reason=reason, message=f"spec.student: {what}, a GPU has {_gib(plan.gpu_bytes)}; {remedy}")


def _trainer_remedies(plan: _Fit) -> Iterator[tuple[str, int]]:
    """Single changes, cheapest first, with what a trainer would need then; only those the rules would accept."""
    for words, change in _trainer_changes(plan.job):
        changed = plan.with_spec(change)
        if not check_static(changed.job) and not check_models(changed.job, plan.models):
            yield words, changed.memory.trainer.gpu_bytes


def _trainer_changes(job: OPDJob) -> Iterator[tuple[str, Callable[[Spec], Spec]]]:
    student = job.spec.student
    teacher = _megatron_teacher(job)
    if teacher is not None and teacher.megatron.placement == "Resident":
        yield f"teacher {teacher.name}'s megatron.placement: Offloaded", _offloaded_teacher
    if student.recompute != "Full":
        yield "student.recompute: Full", lambda spec: _student(spec, recompute="Full")
    if student.precision == "FP32":
        yield "student.precision: BF16", lambda spec: _student(spec, precision="BF16")
    if not job.spec.optimizer.offload:
        offload = {"optimizer": job.spec.optimizer.model_copy(update={"offload": True})}
        yield "optimizer.offload: true", lambda spec: spec.model_copy(update=offload)
    longest = job.spec.rollout.max_prompt_tokens + job.spec.rollout.max_response_tokens
    tokens = max(longest, student.max_tokens_per_gpu // 2)
    if tokens < student.max_tokens_per_gpu:
        yield f"student.maxTokensPerGPU: {tokens}", lambda spec: _student(spec, max_tokens_per_gpu=tokens)
    world = student.trainers.replicas * student.trainers.gpus_per_replica
    tensor = student.parallelism.tensor * 2
    while tensor <= min(world, LARGEST_TENSOR):
        if world % tensor == 0:
            yield f"student.parallelism.tensor: {tensor} with sequence: true", _tensor_change(tensor)
        tensor *= 2
    if world < LARGEST_TENSOR:
        wanted = LARGEST_TENSOR
        words = f"student.trainers.gpusPerReplica: {wanted} with parallelism.tensor: {wanted} and sequence: true"
        yield words, lambda spec: _student(_tensor_change(wanted)(spec), trainers=_one_node(spec, wanted))


def _tensor_change(tensor: int) -> Callable[[Spec], Spec]:
    def change(spec: Spec) -> Spec:
        layout = spec.student.parallelism.model_copy(update={"tensor": tensor, "sequence": True})
        return _student(spec, parallelism=layout)

    return change


def _one_node(spec: Spec, gpus: int) -> object:
    return spec.student.trainers.model_copy(update={"replicas": 1, "gpus_per_replica": gpus})


def _student(spec: Spec, **changes: object) -> Spec:
    student: Student = spec.student.model_copy(update=changes)
    return spec.model_copy(update={"student": student})


def _offloaded_teacher(spec: Spec) -> Spec:
    teachers = tuple(
        each.model_copy(update={"megatron": each.megatron.model_copy(update={"placement": "Offloaded"})})
        for each in spec.teachers
    )
    return spec.model_copy(update={"teachers": teachers})


def _megatron_teacher(job: OPDJob) -> Teacher | None:
    return next((teacher for teacher in job.spec.teachers if teacher.mode == "Megatron"), None)


def _teacher_on_host(plan: _Fit) -> Verdict | None:
    """A memory limit that the user wrote is a promise to the kernel: below what an offloaded teacher takes it kills."""
    trainers = plan.job.spec.student.trainers
    limit = bytes_of(trainers.resources.limits.get("memory"))
    trainer = plan.memory.trainer
    if limit is None or not trainer.teacher_host_bytes:
        return None
    ranks = trainers.gpus_per_replica
    needed = ranks * (trainer.teacher_host_bytes + TRAINER_HOST_BYTES)
    if needed <= limit:
        return None
    return Verdict(
        reason=Reason.INSUFFICIENT_TEACHER_MEMORY,
        message=f"spec.student.trainers.resources.limits.memory: {_gib(limit)} cannot hold the teacher's weights in "
        f"host memory: {ranks} ranks with {_gib(trainer.teacher_host_bytes)} each and their processes need "
        f"{_gib(needed)}; raise the limit to {_gib(ranks * trainer.host_bytes)}, or leave it out",
    )


# ---------------------------------------------------------------- servers
def _engine_gpu(plan: _Fit) -> Verdict | None:
    engines = plan.job.spec.rollout.engines
    return _server(plan, plan.memory.engine, "student", "spec.rollout.engines", engines.gpus_per_replica)


def _teachers_gpu(plan: _Fit) -> Verdict | None:
    servers = {server.name: server for server in plan.memory.teachers}
    for index, teacher in enumerate(plan.job.spec.teachers):
        if teacher.name in servers:
            path, gpus = f"spec.teachers[{index}].sglang", teacher.sglang.gpus_per_replica
            if found := _server(plan, servers[teacher.name], teacher.name, path, gpus):
                return Verdict(reason=Reason.INSUFFICIENT_TEACHER_MEMORY, message=found.message)
    return None


def _server(plan: _Fit, server: ServerEstimate, role: str, path: str, gpus: int) -> Verdict | None:
    """`role` of the model. Weights and the longest sample must fit into the server's share of its GPUs."""
    cache = server.longest_tokens * server.kv_bytes_per_token
    if not server.cuda or server.weights_bytes + cache <= server.gpu_bytes:
        return None
    share = f"{server.memory_fraction:g} of a GPU's {_gib(plan.gpu_bytes)}"
    heads = plan.models[role].num_heads
    fits = (n for n in SERVER_SIZES if server.weights_bytes * gpus // n + cache <= server.gpu_bytes)
    wanted = next((n for n in fits if n > gpus and heads % n == 0), None)
    remedy = (
        f"set gpusPerReplica: {wanted}" if wanted else "take a smaller model or shorter responses (evaluation's count)"
    )
    if server.memory_fraction < 0.9 and server.weights_bytes + cache <= 0.9 * plan.gpu_bytes:
        remedy = f"set memoryFraction: 0.9, or {remedy}"
    return Verdict(
        reason=Reason.INSUFFICIENT_GPU_MEMORY,
        message=f"{path}: a GPU of {server.name} holds {_gib(server.weights_bytes)} of weights and needs {_gib(cache)} "
        f"for the {server.longest_tokens} tokens of the longest sample, but may use {_gib(server.gpu_bytes)} "
        f"({share}); {remedy}",
    )


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
