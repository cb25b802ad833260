"""OPDJob -> TrainConfig: finds every model, checkpoint and prompt file and checks them against each other.

The last place where a job can be refused before anything starts. Starts nothing itself. In a cluster this is done on
the head, which needs shapes and tokenizer alone: weights of the hub are fetched by the nodes that load them.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from opd_api.documents import ModelSummary
from opd_api.errors import InvalidJob, Problem
from opd_api.names import teacher_url
from opd_api.rules import check_models, check_pods
from opd_api.spec import Distillation, OPDJob, Spec
from opd_api.spec import PromptSource as PromptSourceSpec

from ..config import MegatronTeacher, PromptSource, Remote, SGLangTeacher, TrainConfig, uses_bf16
from ..errors import SourceUnavailable, UserError
from ..model_summary import summarize, weights_digest
from ..sources import is_remote, missing_model_files, pinned, resolve_checkpoint, resolve_model, resolve_prompts
from .machine import Machine, machine_problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where URIs lead on this machine."""

    run_dir: Path
    volumes: Mapping[str, Path]
    """Claim name -> folder, from `--volume`; others lie where `uri.volumes_dir` says."""
    cache_dir: Path
    """Where `hf://` and `s3://` models are fetched to."""
    in_cluster: bool = False
    """Trainers and engines are on other nodes, and SGLang teachers in pods of their own."""


class _Finder:
    """Turns the URIs of a job into paths and remembers what was wrong with which."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.problems: list[Problem] = []
        self.unavailable: list[SourceUnavailable] = []
        self.remotes: list[Remote] = []

    def model(self, path: str, uri: str) -> Path | None:
        find = partial(resolve_model, weights=not self.places.in_cluster)
        return self._folder(path, uri, find)

    def checkpoint(self, path: str, uri: str, step: int | None = None) -> Path | None:
        return self._folder(path, uri, partial(resolve_checkpoint, step=step), step)

    def prompts(self, path: str, sources: Sequence[PromptSourceSpec]) -> tuple[PromptSource, ...]:
        return tuple(
            PromptSource(
                uri=source.uri,
                path=self._found(f"{path}[{i}].uri", source.uri, resolve_prompts) or "",
                weight=source.weight,
            )
            for i, source in enumerate(sources)
        )

    def raise_if_any(self) -> None:
        """InvalidJob for what the user must change, else SourceUnavailable."""
        if self.problems:
            raise InvalidJob(self.problems)
        if self.unavailable:
            raise self.unavailable[0]

    def _folder(self, path: str, uri: str, find: Callable[..., Path], step: int | None = None) -> Path | None:
        folder = self._found(path, uri, find) if uri else None
        if folder is not None and self.places.in_cluster and is_remote(uri):
            remote = Remote(uri=pinned(uri, folder), path=folder, cache_dir=self.places.cache_dir, step=step)
            self.remotes.append(remote)
        return folder

    def _found[T](self, path: str, uri: str, find: Callable[..., T]) -> T | None:
        try:
            return find(uri, self.places.volumes, self.places.cache_dir)
        except UserError as error:
            self.problems.append(Problem(path=f"spec.{path}", message=error.message, hint=error.hint))
        except SourceUnavailable as error:
            self.unavailable.append(SourceUnavailable(error.message, path=f"spec.{path}", hint=error.hint))
        return None


def resolve(job: OPDJob, places: Places, *, machine: Machine | None = None, attempt: int = 1) -> TrainConfig:
    """Raises InvalidJob with every problem at once: missing files, models that do not fit each other or `machine`.

    SourceUnavailable when nothing is wrong but that a hub or bucket does not answer.
    """
    spec, finder = job.spec, _Finder(places)
    if places.in_cluster:
        finder.problems += check_pods(job)
    student_path = finder.model("student.model", spec.student.model)
    student_load = finder.checkpoint("student.load", spec.student.load)
    reference = spec.algorithm.reference
    reference_path = student_path if reference.reward_kl_coef or reference.loss_kl_coef else None
    if reference.model:
        reference_path = finder.model("algorithm.reference.model", reference.model)
    teacher = _teacher(job, finder)
    prompts = finder.prompts("data.prompts", spec.data.prompts)
    eval_prompts = finder.prompts("evaluation.prompts", spec.evaluation.prompts)
    finder.raise_if_any()
    assert student_path is not None, "found, or a problem"

    folders = {"student": student_path, teacher.name: teacher.model_path, "reference": reference_path}
    summaries = {role: _summary(folder) for role, folder in folders.items() if folder is not None}
    problems = check_models(job, summaries)
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
        bf16=uses_bf16(spec),
        seed=spec.seed,
        steps=spec.steps,
        student_path=student_path,
        student_load=student_load,
        reference_path=reference_path,
        remotes=tuple(finder.remotes),
        teacher=teacher,
        prompts=prompts,
        eval_prompts=eval_prompts,
        world_size=trainers.replicas * trainers.gpus_per_replica,
        tensor_parallel=spec.student.parallelism.tensor,
        sequence_parallel=spec.student.parallelism.sequence,
        student=spec.student,
        rollout=spec.rollout,
        data=spec.data,
        distillation=_distillation(spec),
        algorithm=spec.algorithm,
        reward=spec.reward,
        evaluation=spec.evaluation,
        optimizer=spec.optimizer,
        checkpoint=spec.checkpoint,
        tensorboard=spec.tracking.tensorboard,
    )


def _summary(folder: Path) -> ModelSummary:
    """Without weights their number is unknown, and nothing here asks for it."""
    return summarize(folder, parameters=0 if missing_model_files(folder) else None)


def _teacher(job: OPDJob, finder: _Finder) -> SGLangTeacher | MegatronTeacher:
    spec, in_cluster = job.spec.teachers[0], finder.places.in_cluster
    if spec.mode == "SGLang":
        deployed = in_cluster and not spec.sglang.endpoint
        return SGLangTeacher(
            name=spec.name,
            endpoint=teacher_url(job.metadata.name, spec.name, job.metadata.namespace or "default")
            if deployed
            else spec.sglang.endpoint.rstrip("/"),
            discovered=deployed,
            model_path=None if in_cluster else finder.model("teachers[0].model", spec.model),
            memory_fraction=spec.sglang.memory_fraction,
            args=tuple(spec.sglang.args),
            replicas=spec.sglang.replicas,
            gpus=spec.sglang.gpus_per_replica,
            api_key=os.environ.get("OPD_TEACHER_API_KEY", ""),
            startup_timeout_seconds=spec.sglang.startup_timeout_seconds,
        )
    return MegatronTeacher(
        name=spec.name,
        # Nothing found: a problem is noted and nobody will read this.
        model_path=finder.model("teachers[0].model", spec.model) or Path(),
        load=finder.checkpoint("teachers[0].megatron.load", spec.megatron.load, spec.megatron.checkpoint_step),
        checkpoint_step=spec.megatron.checkpoint_step,
        offloaded=spec.megatron.placement == "Offloaded",
    )


def _distillation(spec: Spec) -> Distillation:
    """With the coefficient of the job's one teacher, where that has its own."""
    own = spec.teachers[0].kl_coef
    return spec.distillation if own is None else spec.distillation.model_copy(update={"kl_coef": own})


def _same_weights(student: Path, student_load: str, teacher: SGLangTeacher | MegatronTeacher) -> list[Problem]:
    """A teacher with the student's weights gives a KL of zero for ever; only comparable when both are here."""
    if student_load or teacher.model_path is None or getattr(teacher, "load", None):
        return []
    if missing_model_files(student) or missing_model_files(teacher.model_path):
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
