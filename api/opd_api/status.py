"""The status of an OPDJob: what the operator writes and people read. Facts only; conditions judge them."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from .base import Contract, NonNegative, Positive

Phase = Literal[
    "Pending", "Queued", "Starting", "Training", "Suspending", "Suspended", "Retrying", "Succeeded", "Failed"
]
Trend = Literal["Falling", "Stable", "Rising", "Spike"]
TeacherMode = Literal["SGLang", "Megatron"]
Bytes = Annotated[int, Field(ge=0, le=2**53)]
ShortText = Annotated[str, StringConstraints(max_length=64)]
Place = Annotated[str, StringConstraints(max_length=1024)]
Sentence = Annotated[str, StringConstraints(max_length=4096)]
Timestamp = Annotated[str, StringConstraints(max_length=64), Field(json_schema_extra={"format": "date-time"})]
"""RFC 3339, UTC."""


class Condition(Contract):
    """A metav1.Condition; types and reasons are those of `conditions`."""

    type: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    """What the condition is about."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    observed_generation: NonNegative | None = None
    """Generation of the spec it was computed from."""
    last_transition_time: Timestamp
    """When `status` last changed."""
    reason: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    """One word for programs."""
    message: Sentence = ""
    """One sentence for people."""


class StatusProgress(Contract):
    """How far the job is."""

    step: NonNegative | None = None
    """Finished steps."""
    total_steps: NonNegative | None = None
    """Steps in all."""
    percent: Annotated[int, Field(ge=0, le=100)] | None = None
    """Finished share."""
    eta_seconds: NonNegative | None = None
    """Estimated time left."""
    tokens_per_second: Annotated[float, Field(ge=0)] | None = None
    """Response tokens a second, whole steps counted."""
    last_report_time: Timestamp | None = None
    """When the runtime last reported."""
    report_problem: Sentence | None = None
    """Why the newest report cannot be used; what is shown is of the last good one."""


class StatusDistillation(Contract):
    """How close student and teacher are."""

    reverse_kl: float | None = None
    """Mean reverse KL of the newest step, nats per token."""
    initial_reverse_kl: float | None = None
    """The same of the first step."""
    reverse_kl_p95: float | None = None
    """95th percentile over the tokens of the newest step, nats."""
    kl_coef: float | None = None
    """Coefficient in use."""
    trend: Trend | None = None
    """Where reverse KL is going."""


class StatusReward(Contract):
    """The task reward."""

    mean: float | None = None
    """Mean of the newest step."""


class StatusEvaluation(Contract):
    """The newest evaluation."""

    pass_at_1: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of held-out prompts answered rightly."""
    step: NonNegative | None = None
    """Step it was measured after."""


class StatusTeacher(Contract):
    """One teacher."""

    name: ShortText
    """Its name in the spec."""
    mode: TeacherMode | None = None
    """Its mode in the spec."""
    endpoint: Place | None = None
    """Base URL; none in Megatron mode."""
    ready: bool | None = None
    """Whether it passed the semantic probe."""
    ready_replicas: NonNegative | None = None
    """Servers that answer."""
    failed_scores: NonNegative | None = None
    """Samples it could not score, masked out of training."""
    score_latency_p95_milliseconds: Annotated[float, Field(ge=0)] | None = None
    """95th percentile of a score's latency in the newest step."""
    reverse_kl: float | None = None
    """Mean reverse KL to this teacher, nats per token."""


class StatusCheckpoint(Contract):
    """What a next attempt starts from."""

    step: NonNegative | None = None
    """Step of the newest complete checkpoint."""
    uri: Place | None = None
    """Where it lies."""
    export_uri: Place | None = None
    """Where the exported Hugging Face folder lies."""


class TrainerMemory(Contract):
    """Estimated memory of one trainer rank."""

    gpu_bytes: Bytes | None = None
    """On its GPU, teacher included."""
    host_bytes: Bytes | None = None
    """In host memory, teacher included."""
    teacher_gpu_bytes: Bytes | None = None
    """The Megatron teacher's part on the GPU."""
    teacher_host_bytes: Bytes | None = None
    """The Megatron teacher's part in host memory."""


class EngineMemory(Contract):
    """Estimated memory of one engine GPU."""

    gpu_bytes: Bytes | None = None
    """Weights and KV cache."""


class TeacherMemory(Contract):
    """Estimated memory of one GPU of an SGLang teacher."""

    name: ShortText
    """Its name in the spec."""
    gpu_bytes: Bytes | None = None
    """Weights and KV cache."""


class MemoryPlan(Contract):
    """What the job's pods were sized for."""

    trainer: TrainerMemory | None = None
    """One trainer rank."""
    engine: EngineMemory | None = None
    """One engine GPU."""
    teachers: tuple[TeacherMemory, ...] = Field((), max_length=8)
    """SGLang teachers."""


class Columns(Contract):
    """Short strings for `kubectl get`, which cannot round a float or join a list."""

    step: ShortText | None = None
    """`120/300`."""
    kl: ShortText | None = None
    """`0.182`, reverse KL in nats per token."""
    reward: ShortText | None = None
    """`0.62`."""
    teacher: ShortText | None = None
    """`SGLang 1/1`: mode, ready of wanted."""
    pass_at_1: ShortText | None = None
    """`0.81`."""


class Status(Contract):
    """What became of the job so far."""

    observed_generation: NonNegative | None = None
    """Generation of the spec this status is about."""
    phase: Phase | None = None
    """One word for people, computed from the conditions."""
    message: Sentence | None = None
    """One sentence: what the job is doing, or what is wrong and what to do."""
    attempt: Positive | None = None
    """Number of the current attempt."""
    attempt_start_time: Timestamp | None = None
    """When the current attempt starts: in the future while it backs off."""
    retries: NonNegative | None = None
    """Attempts that infrastructure failures cost; runPolicy.backoffLimit bounds them."""
    conditions: tuple[Condition, ...] = Field((), max_length=32)
    """Conditions, by type."""
    progress: StatusProgress | None = None
    """How far the job is."""
    distillation: StatusDistillation | None = None
    """How close student and teacher are."""
    reward: StatusReward | None = None
    """The task reward."""
    evaluation: StatusEvaluation | None = None
    """The newest evaluation."""
    teachers: tuple[StatusTeacher, ...] = Field((), max_length=8)
    """The teachers, by name."""
    checkpoint: StatusCheckpoint | None = None
    """What a next attempt starts from."""
    memory_plan: MemoryPlan | None = None
    """What the pods were sized for."""
    columns: Columns | None = None
    """Short strings for `kubectl get`."""
    ray_job_name: Place | None = None
    """RayJob of the current attempt."""
    ray_cluster_name: Place | None = None
    """Its RayCluster."""
    dashboard_url: Place | None = None
    """Its Ray dashboard, inside the cluster."""
    start_time: Timestamp | None = None
    """When the first attempt started."""
    completion_time: Timestamp | None = None
    """When the job ended."""
