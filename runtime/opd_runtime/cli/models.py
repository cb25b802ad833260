"""The places a job names - models, checkpoints, prompts - on this machine, and the models' summaries by role."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from opd_api.documents import ModelSummary
from opd_api.errors import InvalidJob, Problem
from opd_api.spec import OPDJob

from ..errors import UserError
from ..uris import resolve_checkpoint, resolve_model, resolve_prompts

type Find = Callable[[str, Mapping[str, Path], Path], Path | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One URI of a job."""

    path: str
    """Its field, as in `spec.student.model`."""
    uri: str
    find: Find
    role: str = ""
    """Of a model: "student", a teacher's name or "reference"; "" of everything else."""


def places_of(job: OPDJob) -> Iterator[Place]:
    """Everything the job reads, in the contract's order."""
    spec = job.spec
    yield Place(path="spec.student.model", uri=spec.student.model, find=resolve_model, role="student")
    yield Place(path="spec.student.load", uri=spec.student.load, find=resolve_checkpoint)
    for i, teacher in enumerate(spec.teachers):
        yield Place(path=f"spec.teachers[{i}].model", uri=teacher.model, find=resolve_model, role=teacher.name)
        load = teacher.megatron.load if teacher.mode == "Megatron" else ""
        yield Place(path=f"spec.teachers[{i}].megatron.load", uri=load, find=resolve_checkpoint)
    for field, sources in (("data", spec.data.prompts), ("evaluation", spec.evaluation.prompts)):
        for i, source in enumerate(sources):
            yield Place(path=f"spec.{field}.prompts[{i}].uri", uri=source.uri, find=resolve_prompts)
    reference = spec.algorithm.reference.model
    yield Place(path="spec.algorithm.reference.model", uri=reference, find=resolve_model, role="reference")


def locate(job: OPDJob, volumes: Mapping[str, Path]) -> list[tuple[Place, Path | str]]:
    """Every place the job names, fetched if need be; raises InvalidJob for all that cannot be found."""
    found, problems = [], []
    for place in places_of(job):
        if place.uri:
            try:
                found.append((place, place.find(place.uri, volumes, cache_dir())))
            except UserError as error:
                problems.append(Problem(path=place.path, message=error.message, hint=error.hint))
    if problems:
        raise InvalidJob(problems)
    return found


def summaries(job: OPDJob, volumes: Mapping[str, Path]) -> dict[str, ModelSummary]:
    """The job's models by role; raises InvalidJob for all that cannot be read."""
    from ..model_summary import summarize

    known, problems = {}, []
    for place in places_of(job):
        if place.uri and place.role:
            try:
                known[place.role] = summarize(resolve_model(place.uri, volumes, cache_dir()))
            except UserError as error:
                where = f"{error.path} " if error.path else ""
                problems.append(Problem(path=place.path, message=where + error.message, hint=error.hint))
    if problems:
        raise InvalidJob(problems)
    return known


def cache_dir() -> Path:
    """Where `hf://` and `s3://` models are fetched to."""
    return Path(os.environ.get("OPD_CACHE", "~/.cache/opd")).expanduser()
