"""The whole OPDJob: every field once, with type, default, bounds and meaning.

The CRD, `kubectl explain` and the reference page are generated from these types. What one field can say alone is
a bound here; what several fields say together is a rule in `rules`. Attributes are snake_case, YAML is camelCase.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from .base import INT32_MAX, Contract, DataURI, NonNegative, ObjectName, Positive, Text
from .models import (
    Engines,
    Parallelism,
    Pods,
    Resources,
    Rollout,
    Student,
    Teacher,
    TeacherMegatron,
    TeacherSGLang,
    Trainers,
)
from .objective import Algorithm, Critic, Distillation, KLCoefSchedule, Optimizer, Reference, Reward
from .status import Status

__all__ = [
    "Algorithm",
    "Checkpoint",
    "Credentials",
    "Critic",
    "Data",
    "Distillation",
    "Engines",
    "Evaluation",
    "KLCoefSchedule",
    "Metadata",
    "ModelCache",
    "OPDJob",
    "Optimizer",
    "Parallelism",
    "Pods",
    "PromptSource",
    "Reference",
    "Resources",
    "Reward",
    "Rollout",
    "RunPolicy",
    "Scheduling",
    "Spec",
    "Student",
    "Teacher",
    "TeacherMegatron",
    "TeacherSGLang",
    "Tracking",
    "Trainers",
    "WandB",
]


class PromptSource(Contract):
    """One file, folder or data set of prompts."""

    uri: DataURI
    """JSONL, Parquet, or a Hugging Face data set."""
    weight: float = Field(1.0, gt=0)
    """Share of the prompts drawn from here, against the other sources' weights."""


class Data(Contract):
    """Where prompts come from."""

    prompts: tuple[PromptSource, ...] = Field(min_length=1, max_length=16)
    """Sources, mixed by weight."""
    prompt_key: Annotated[Text, Field(min_length=1)] = "prompt"
    """Field of a record that holds the prompt: a string, or a list of chat messages."""
    label_key: Text = "label"
    """Field of a record that holds the reference answer."""
    teacher_key: Text = ""
    """Field of a record that names its teacher; needed with several teachers."""
    apply_chat_template: bool = True
    """Wrap prompts with the tokenizer's chat template."""
    shuffle: bool = True
    """Shuffle each epoch, seeded."""


class Evaluation(Contract):
    """Held-out prompts, answered on their own path."""

    every_steps: NonNegative = 0
    """Every so many steps, and before and after; 0: off."""
    prompts: tuple[PromptSource, ...] = Field((), max_length=16)
    """Held-out prompts; read whole, in order."""
    samples_per_prompt: Positive = 1
    """Responses to a prompt; pass@1 is their mean."""
    temperature: float = Field(0.0, ge=0, le=100)
    """0: greedy."""
    max_response_tokens: Positive | None = None
    """null: as in training."""


class Checkpoint(Contract):
    """What survives a pod."""

    claim_name: ObjectName = ""
    """PersistentVolumeClaim for checkpoints and export; without it nothing survives a pod."""
    every_steps: Positive = 20
    """Steps between checkpoints."""
    keep: Positive = 2
    """Newest checkpoints that are kept; in a cluster the next save obeys a change."""
    export_hugging_face: bool = True
    """Write the student as a Hugging Face folder at the end."""


class ModelCache(Contract):
    """Where fetched models stay."""

    claim_name: ObjectName = ""
    """Claim that models are fetched into once; without it each pod fetches what it needs."""


class Credentials(Contract):
    """Secrets of pods that fetch."""

    secret_name: ObjectName = ""
    """Secret whose keys become environment (HF_TOKEN, AWS_ACCESS_KEY_ID, …)."""


class WandB(Contract):
    """Weights & Biases."""

    project: Text = ""
    """Project name; empty: off."""
    secret_name: ObjectName = ""
    """Secret with WANDB_API_KEY."""


class Tracking(Contract):
    """Where metrics go beside the status."""

    tensorboard: bool = True
    """Write TensorBoard events into the run's folder."""
    wandb: WandB = WandB()
    """Weights & Biases."""


class RunPolicy(Contract):
    """How long and how often to try."""

    backoff_limit: NonNegative = 3
    """Retries after infrastructure failures."""
    startup_deadline_seconds: Positive = 3600
    """From accepted to the first training step."""
    progress_deadline_seconds: Positive = 1800
    """Longest silence of a training job."""
    active_deadline_seconds: Positive | None = None
    """Longest time since the start, or since the last resumption or admission by a queue; null: no limit."""
    ttl_seconds_after_finished: NonNegative | None = None
    """Delete the OPDJob so long after its end; null: never."""


class Scheduling(Contract):
    """Queueing and priority."""

    queue_name: ObjectName = ""
    """Kueue LocalQueue."""
    priority_class_name: ObjectName = ""
    """PriorityClass of all pods."""
    gang: Literal["Job", "Full"] = "Job"
    """Job: the Ray cluster is queued. Full: teacher and Ray cluster as one workload."""


class Spec(Contract):
    """What an OPDJob asks for."""

    student: Student
    """The model that learns."""
    rollout: Rollout = Rollout()
    """How the student writes its answers."""
    teachers: tuple[Teacher, ...] = Field(min_length=1, max_length=8)
    """The models that score, by name."""
    data: Data
    """Where prompts come from."""
    distillation: Distillation = Distillation()
    """The OPD term."""
    algorithm: Algorithm = Algorithm()
    """The RL estimator under it."""
    reward: Reward = Reward()
    """The task reward."""
    evaluation: Evaluation = Evaluation()
    """Held-out prompts."""
    optimizer: Optimizer = Optimizer()
    """AdamW."""
    steps: Positive
    """Rollout-and-train steps; may grow later."""
    seed: int = Field(42, ge=0, le=INT32_MAX)
    """Seed of data order and sampling."""
    checkpoint: Checkpoint = Checkpoint()
    """What survives a pod."""
    model_cache: ModelCache = ModelCache()
    """Where fetched models stay."""
    credentials: Credentials = Credentials()
    """Secrets of pods that fetch."""
    tracking: Tracking = Tracking()
    """Where metrics go beside the status."""
    head: Pods = Pods()
    """The Ray head pod, where the driver runs; the pod that reads the models is shaped like it."""
    device: Literal["CUDA", "CPU"] = "CUDA"
    """CPU is for tiny models and tests."""
    image: Text = ""
    """Runtime image; empty: the operator's setting."""
    suspend: bool = False
    """True: checkpoint, then give everything back until it is false again."""
    run_policy: RunPolicy = RunPolicy()
    """How long and how often to try."""
    scheduling: Scheduling = Scheduling()
    """Queueing and priority."""


class Metadata(BaseModel):
    """The part of Kubernetes' ObjectMeta that matters here; the rest is let through."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="allow",
        alias_generator=to_camel,
        populate_by_name=True,
        serialize_by_alias=True,
    )

    name: Annotated[str, Field(min_length=1)]
    namespace: str | None = None
    uid: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    generation: int | None = None


class OPDJob(Contract):
    """One distillation job."""

    api_version: Literal["opd.dev/v1alpha1"]
    """Group and version."""
    kind: Literal["OPDJob"]
    """Kind."""
    metadata: Metadata
    """Name, namespace, labels; the rest is Kubernetes' own."""
    spec: Spec
    """What is asked for."""
    status: Status | None = None
    """What became of it; written by the operator alone."""
