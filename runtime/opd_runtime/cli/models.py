"""The places a job names - models, checkpoints, prompts - on this machine, and the models' summaries by role."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from opd_api.documents import ModelSummary
from opd_api.errors import InvalidJob, Problem
from opd_api.spec import OPDJob

from ..errors import LocatedError, SourceUnavailable, UserError
from ..sources import hub_parameter_count, resolve_checkpoint, resolve_model, resolve_prompts

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


def places_of(job: OPDJob) -> list[Place]:
    """Everything the job reads, in the contract's order."""
    spec, reference = job.spec, job.spec.algorithm.reference.model
    places = [
        Place(path="spec.student.model", uri=spec.student.model, find=resolve_model, role="student"),
        Place(path="spec.student.load", uri=spec.student.load, find=resolve_checkpoint),
    ]
    for i, teacher in enumerate(spec.teachers):
        places.append(Place(path=f"spec.teachers[{i}].model", uri=teacher.model, find=resolve_model, role=teacher.name))
        find = partial(resolve_checkpoint, step=teacher.megatron.checkpoint_step)
        places.append(Place(path=f"spec.teachers[{i}].megatron.load", uri=teacher.megatron.load, find=find))
    for field, sources in (("data", spec.data.prompts), ("evaluation", spec.evaluation.prompts)):
        for i, source in enumerate(sources):
            places.append(Place(path=f"spec.{field}.prompts[{i}].uri", uri=source.uri, find=resolve_prompts))
    places.append(Place(path="spec.algorithm.reference.model", uri=reference, find=resolve_model, role="reference"))
    return [place for place in places if place.uri]


def each[T](places: Iterable[Place], do: Callable[[Place], T]) -> list[T]:
    """What `do` gives for every place. Raises InvalidJob for all the user must see to, else SourceUnavailable."""
    done, problems, unavailable = [], [], []
    for place in places:
        try:
            done.append(do(place))
        except UserError as error:
            problems.append(Problem(path=place.path, message=_message(place, error), hint=error.hint))
        except SourceUnavailable as error:
            unavailable.append(SourceUnavailable(_message(place, error), path=place.path, hint=error.hint))
    if problems:
        raise InvalidJob(problems)
    if unavailable:
        raise unavailable[0]
    return done


def _message(place: Place, error: LocatedError) -> str:
    where = f"{error.path} " if error.path and error.path != place.uri else ""
    return where + error.message.removeprefix(f"{place.path}: ")


def summaries(places: Iterable[Place], volumes: Mapping[str, Path], *, weights: bool = True) -> dict[str, ModelSummary]:
    """The models among `places` by role; raises InvalidJob for all that cannot be read.

    Without `weights` those of the hub are not fetched: their headers are read there.
    """
    from ..model_summary import summarize

    def summary(place: Place) -> ModelSummary:
        folder = resolve_model(place.uri, volumes, cache_dir(), weights=weights)
        return summarize(folder, None if weights else hub_parameter_count(place.uri))

    models = [place for place in places if place.role]
    return {place.role: shape for place, shape in zip(models, each(models, summary), strict=True)}


def cache_dir() -> Path:
    """Where `hf://` and `s3://` models are fetched to."""
    return Path(os.environ.get("OPD_CACHE", "~/.cache/opd")).expanduser()
