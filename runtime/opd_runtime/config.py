"""The one frozen configuration a run reads: an OPDJob with its places resolved. All validation of a job ends here.

Sub-documents of the contract (rollout, algorithm, …) are used as they are: frozen, defaults filled in. What it leaves
open until a machine is known (folders, precision, world size, which teacher) is decided here, once.
"""

from dataclasses import dataclass
from pathlib import Path

from opd_api.spec import (
    Algorithm,
    Checkpoint,
    Data,
    Distillation,
    Evaluation,
    Optimizer,
    Reward,
    Rollout,
    Spec,
    Student,
)


def uses_bf16(spec: Spec) -> bool:
    """Whether model weights and engines are BF16; else all is FP32."""
    return spec.student.precision == "BF16" or (spec.student.precision == "Auto" and spec.device == "CUDA")


@dataclass(frozen=True, slots=True, kw_only=True)
class SGLangTeacher:
    """A teacher behind HTTP. `model_path` is None when the job names an endpoint and no model."""

    name: str
    endpoint: str
    """Base URL of a running server, or "" when this run must start one from `model_path`."""
    discovered: bool = False
    """True: the endpoint's host name stands for every ready server of the operator's Deployment."""
    model_path: Path | None
    memory_fraction: float
    args: tuple[str, ...]
    replicas: int
    """Servers to start, without an endpoint."""
    gpus: int
    """Tensor-parallel size of a server."""
    api_key: str
    startup_timeout_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MegatronTeacher:
    """A frozen model in every trainer process, with the trainers' parallel layout."""

    name: str
    model_path: Path
    """Hugging Face folder: architecture, and weights when `load` is None."""
    load: Path | None
    """Megatron checkpoint folder (tracker file or iteration folder inside)."""
    checkpoint_step: int | None
    offloaded: bool
    """True: weights live in host memory and come in to score. False: they stay on the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSource:
    """One prompt file or data set, readable on this machine."""

    uri: str
    path: str
    """A local file or folder, or `hf://datasets/…` for the datasets library."""
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A folder of a hub or bucket. In a cluster every node that reads it fetches it for itself, to the same path."""

    uri: str
    """With the commit that was found, so that all nodes read the same."""
    path: Path
    cache_dir: Path
    step: int | None = None
    """Of a checkpoint, where another than the newest is wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything a run needs to know. Built by `orchestrate.resolve`; read everywhere, written nowhere."""

    name: str
    uid: str
    """Identity of the job a checkpoint belongs to."""
    attempt: int
    run_dir: Path
    device: str
    """"cuda" or "cpu"."""
    bf16: bool
    """Model weights and engines in BF16 (main parameters stay FP32); else all FP32."""
    seed: int
    steps: int

    student_path: Path
    """Hugging Face folder of the student: architecture, tokenizer, first weights."""
    student_load: Path | None
    reference_path: Path | None
    remotes: tuple[Remote, ...] = ()
    """Of the folders that trainers read, those to fetch first; none on one machine, where it has been done."""
    teacher: SGLangTeacher | MegatronTeacher
    prompts: tuple[PromptSource, ...]
    eval_prompts: tuple[PromptSource, ...]

    world_size: int
    """Trainer ranks: replicas x gpusPerReplica."""
    tensor_parallel: int
    sequence_parallel: bool

    student: Student
    rollout: Rollout
    data: Data
    distillation: Distillation
    algorithm: Algorithm
    reward: Reward
    evaluation: Evaluation
    optimizer: Optimizer
    checkpoint: Checkpoint
    tensorboard: bool

    @property
    def data_parallel(self) -> int:
        return self.world_size // self.tensor_parallel

    @property
    def checkpoint_dir(self) -> Path:
        return self.run_dir / "checkpoints"

    @property
    def export_dir(self) -> Path:
        return self.run_dir / "export"

    @property
    def samples_per_step(self) -> int:
        return self.rollout.batch_size * self.rollout.samples_per_prompt
