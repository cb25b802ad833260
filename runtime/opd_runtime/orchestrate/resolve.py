"""OPDJob -> TrainConfig: finds every model, checkpoint and prompt file and checks them against each other.

The last place where a job can be refused before anything starts. Starts nothing itself.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opd_api.documents import ModelSummary
from opd_api.errors import InvalidJob, Problem
from opd_api.rules import check_models
from opd_api.spec import OPDJob, Teacher
from opd_api.spec import PromptSource as PromptSourceSpec

from ..config import MegatronTeacher, PromptSource, SGLangTeacher, TrainConfig
from ..errors import UserError
from ..model_summary import summarize, weights_digest
from ..uris import resolve_checkpoint, resolve_model, resolve_prompts
from .machine import Machine, machine_problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where URIs lead on this machine."""

    run_dir: Path
    volumes: Mapping[str, Path]
    """Claim name -> folder, from `--volume`; other claims are `runs/volumes/CLAIM`."""
    cache_dir: Path
    """Where `hf://` and `s3://` models are fetched to."""


def resolve(job: OPDJob, places: Places, *, machine: Machine | None = None, attempt: int = 1) -> TrainConfig:
    """Raises InvalidJob with every problem at once: missing files, models that do not fit each other or `machine`."""
    spec, problems = job.spec, []

    def found(path: str, find: Callable[..., Any], uri: str) -> Any:
        try:
            return find(uri, places.volumes, places.cache_dir)
        except UserError as error:
            problems.append(Problem(path=f"spec.{path}", message=error.message, hint=error.hint))
            return None

    student_path = found("student.model", resolve_model, spec.student.model)
    student_load = found("student.load", resolve_checkpoint, spec.student.load) if spec.student.load else None
    reference = spec.algorithm.reference
    uses_reference = reference.reward_kl_coef or reference.loss_kl_coef
    reference_path = student_path if uses_reference else None
    if reference.model:
        reference_path = found("algorithm.reference.model", resolve_model, reference.model)
    teacher = _teacher(spec.teachers[0], found, problems)
    prompts = _prompts("data.prompts", spec.data.prompts, found)
    eval_prompts = _prompts("evaluation.prompts", spec.evaluation.prompts, found)
    if problems or student_path is None:
        raise InvalidJob(problems)

    summaries = {"student": summarize(student_path)}
    if teacher.model_path is not None:
        summaries[teacher.name] = summarize(teacher.model_path)
    if reference_path is not None:
        summaries["reference"] = summarize(reference_path)
    problems += check_models(job, summaries)
    if machine is not None:
        problems += machine_problems(job, summaries, machine)
    problems += _same_weights(student_path, spec.student.load, teacher)
    if problems:
        raise InvalidJob(problems)

    trainers = spec.student.trainers
    return TrainConfig(
        name=job.metadata.name,
        uid=_identity(job, summaries["student"]),
        attempt=attempt,
        run_dir=places.run_dir,
        device=spec.device.lower(),
        bf16=spec.student.precision == "BF16" or (spec.student.precision == "Auto" and spec.device == "CUDA"),
        seed=spec.seed,
        steps=spec.steps,
        student_path=student_path,
        student_load=student_load,
        reference_path=reference_path,
        teacher=teacher,
        prompts=prompts,
        eval_prompts=eval_prompts,
        world_size=trainers.replicas * trainers.gpus_per_replica,
        tensor_parallel=spec.student.parallelism.tensor,
        sequence_parallel=spec.student.parallelism.sequence,
        student=spec.student,
        rollout=spec.rollout,
        data=spec.data,
        distillation=spec.distillation,
        algorithm=spec.algorithm,
        reward=spec.reward,
        evaluation=spec.evaluation,
        optimizer=spec.optimizer,
        checkpoint=spec.checkpoint,
        tensorboard=spec.tracking.tensorboard,
    )


def _teacher(spec: Teacher, found, problems: list[Problem]) -> SGLangTeacher | MegatronTeacher:
    model_path = found("teachers[0].model", resolve_model, spec.model) if spec.model else None
    if spec.mode == "SGLang":
        return SGLangTeacher(
            name=spec.name,
            endpoint=spec.sglang.endpoint.rstrip("/"),
            model_path=model_path,
            memory_fraction=spec.sglang.memory_fraction,
            args=tuple(spec.sglang.args),
            replicas=spec.sglang.replicas,
            gpus=spec.sglang.gpus_per_replica,
            api_key=os.environ.get("OPD_TEACHER_API_KEY", ""),
            startup_timeout_seconds=spec.sglang.startup_timeout_seconds,
        )
    load = found("teachers[0].megatron.load", resolve_checkpoint, spec.megatron.load) if spec.megatron.load else None
    return MegatronTeacher(
        name=spec.name,
        model_path=model_path or Path(),  # nothing found: a problem is noted and nobody will read this
        load=load,
        checkpoint_step=spec.megatron.checkpoint_step,
        offloaded=spec.megatron.placement == "Offloaded",
    )


def _prompts(path: str, sources: tuple[PromptSourceSpec, ...], found) -> tuple[PromptSource, ...]:
    located = [found(f"{path}[{i}].uri", resolve_prompts, source.uri) for i, source in enumerate(sources)]
    return tuple(
        PromptSource(uri=source.uri, path=place or "", weight=source.weight)
        for source, place in zip(sources, located, strict=True)
    )


def _same_weights(student: Path, student_load: str, teacher: SGLangTeacher | MegatronTeacher) -> list[Problem]:
    """A teacher with the student's weights gives a KL of zero for ever; only comparable when both come as folders."""
    if student_load or teacher.model_path is None or getattr(teacher, "load", None):
        return []
    if weights_digest(student) != weights_digest(teacher.model_path):
        return []
    return [
        Problem(
            path="spec.teachers[0].model",
            message="its weights are identical to the student's: reverse KL would be zero and nothing would train.",
            hint="name a stronger model of the same tokenizer",
        )
    ]


def _identity(job: OPDJob, student: ModelSummary) -> str:
    """What a checkpoint belongs to: this job's name (in the cluster: its UID) and the student's shape."""
    shape = student.model_dump_json(
        include={"architecture", "hidden_size", "num_layers", "ffn_hidden_size", "vocab_size"}
    )
    return f"{job.metadata.uid or job.metadata.name}/{hashlib.sha256(shape.encode()).hexdigest()[:12]}"
