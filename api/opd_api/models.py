"""The models of a job and where they run: student, rollout engines, teachers. What is optimised is in `objective`."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from .base import (
    INT32_MAX,
    Argument,
    CheckpointURI,
    Contract,
    DNSLabel,
    Hook,
    HttpURL,
    ModelURI,
    NonNegative,
    ObjectName,
    OptionalModelURI,
    PodTemplate,
    Positive,
    Quantity,
)
from .names import TEACHER_NAME_LENGTH


class Resources(Contract):
    """Kubernetes resource requirements of one container."""

    requests: dict[str, Quantity] = Field(default_factory=dict, max_length=32)
    """What the scheduler sets aside, as Kubernetes quantities."""
    limits: dict[str, Quantity] = Field(default_factory=dict, max_length=32)
    """What the container may not exceed, as Kubernetes quantities."""


class Pods(Contract):
    """What every kind of pod can be given."""

    resources: Resources = Resources()
    """CPU, memory and other resources of the main container; what is left out is sized by the memory plan."""
    pod_template: PodTemplate = Field(default_factory=dict)
    """PodTemplateSpec, merged strategically over ours; the main container is named head, trainer, engine or teacher."""

    @model_serializer(mode="wrap")
    def _pods_last(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What every pod has stands behind what is this pod's own, as in the contract."""
        fields: dict[str, Any] = serialize(self)
        common = {name: fields.pop(name) for name in ("resources", "podTemplate") if name in fields}
        return fields | common


class Parallelism(Contract):
    """How one copy of the student is split over GPUs."""

    tensor: Positive = 1
    """Tensor-parallel size; divides attention heads and key-value heads."""
    pipeline: Positive = 1
    """Pipeline-parallel size; divides layers."""
    context: Positive = 1
    """Context-parallel size."""
    expert: Positive = 1
    """Expert-parallel size, for mixtures of experts."""
    sequence: bool = False
    """Sequence parallelism: norms and dropout are split over the tensor-parallel group too."""


class Trainers(Pods):
    """Trainer pods. World size is replicas x gpusPerReplica."""

    replicas: Positive = 1
    """Trainer pods."""
    gpus_per_replica: Positive = 1
    """GPUs, and so ranks, of a pod. On CPU: ranks."""


class Student(Contract):
    """The model that learns."""

    model: ModelURI
    """Hugging Face folder: architecture, tokenizer and first weights."""
    load: CheckpointURI = ""
    """Checkpoint to start from instead of the model's weights: Megatron's, or a Hugging Face folder."""
    precision: Literal["Auto", "BF16", "FP32"] = "Auto"
    """Precision of weights and engines. Auto: BF16 on CUDA, FP32 on CPU. Main parameters are FP32 always."""
    parallelism: Parallelism = Parallelism()
    """How the student is split; what the product leaves of the world size is data parallel."""
    max_tokens_per_gpu: Positive = 16384
    """Packing budget of a micro-batch, in tokens."""
    recompute: Literal["None", "Full"] = "None"
    """Activation recomputation: Full trades a third more compute for far less memory."""
    trainers: Trainers = Trainers()
    """Trainer pods."""


class Engines(Pods):
    """SGLang rollout engines."""

    replicas: Positive = 1
    """Engine pods."""
    gpus_per_replica: Positive = 1
    """GPUs of an engine: its tensor-parallel size."""
    memory_fraction: float = Field(0.8, gt=0, le=1)
    """Share of GPU memory for weights and KV cache."""
    args: tuple[Argument, ...] = Field((), max_length=64)
    """More arguments for the SGLang server."""


class Rollout(Contract):
    """How the student writes its answers."""

    engines: Engines = Engines()
    """The servers that generate."""
    placement: Literal["Dedicated", "Colocated"] = "Dedicated"
    """Colocated: engines share the trainers' GPUs and sleep while they train."""
    batch_size: Positive = 32
    """Prompts of a step."""
    samples_per_prompt: Positive = 4
    """Responses to a prompt."""
    max_prompt_tokens: Positive = 1024
    """Longer prompts are dropped and counted."""
    max_response_tokens: Positive = 4096
    """Responses are cut here."""
    temperature: float = Field(1.0, gt=0, le=100)
    """Sampling temperature."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus sampling; 1 is off."""
    top_k: int = Field(-1, ge=-1, le=INT32_MAX)
    """Top-k sampling; -1 is off."""
    max_staleness_steps: Annotated[int, Field(ge=0, le=1)] = 0
    """1: step t+1 is generated while step t trains, and importance correction is on."""
    weight_sync: Literal["Auto", "Distributed", "Tensor", "Disk"] = "Auto"
    """How new weights reach the engines: process group (Auto: NCCL on CUDA, gloo on CPU), HTTP, or shared folder."""
    function: Hook = ""
    """Own generate function, a dotted path: `async def generate(args, prompt, engine, **kw) -> Sample`."""
    filter: Hook = ""
    """Own filter of a prompt's samples, a dotted path: `def keep(args, samples, **kw) -> bool`; scoring waits."""


class TeacherSGLang(Pods):
    """A teacher behind an SGLang server."""

    endpoint: HttpURL = ""
    """A running server's base URL; used as it is, nothing is deployed."""
    replicas: Positive = 1
    """Teacher pods."""
    gpus_per_replica: Positive = 1
    """GPUs of a teacher pod: its tensor-parallel size."""
    memory_fraction: float = Field(0.85, gt=0, le=1)
    """Share of GPU memory for weights and KV cache."""
    args: tuple[Argument, ...] = Field((), max_length=64)
    """More arguments for the SGLang server."""
    api_key_secret: ObjectName = ""
    """Secret whose key `api-key` is sent as bearer token."""
    startup_timeout_seconds: Positive = 1800
    """How long the server may take to answer."""


class TeacherMegatron(Contract):
    """A teacher in the trainer process."""

    load: CheckpointURI = ""
    """Checkpoint of the teacher, Megatron's or a Hugging Face folder; empty: the weights of `model`."""
    checkpoint_step: NonNegative | None = None
    """Step of `load` to take; null: what its tracker file says."""
    placement: Literal["Offloaded", "Resident"] = "Offloaded"
    """Offloaded: weights in host memory, brought in to score. Resident: they stay on the GPU."""


class Teacher(Contract):
    """The model that scores."""

    name: Annotated[DNSLabel, Field(max_length=TEACHER_NAME_LENGTH)] = "teacher"
    """Unique in the job; names the teacher's objects and metrics."""
    mode: Literal["SGLang", "Megatron"]
    """SGLang: an external server scores. Megatron: the teacher runs in the trainer process."""
    model: OptionalModelURI = ""
    """Hugging Face folder; required unless `sglang.endpoint` is set."""
    kl_coef: Annotated[float, Field(ge=0)] | None = None
    """This teacher's coefficient instead of `distillation.klCoef`."""
    sglang: TeacherSGLang = TeacherSGLang()
    """Settings of mode SGLang."""
    megatron: TeacherMegatron = TeacherMegatron()
    """Settings of mode Megatron. The teacher may be larger than the student."""
