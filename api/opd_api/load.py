"""YAML -> OPDJob with every problem of the document at once, and OPDJob -> YAML."""

import copy
import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from .errors import InvalidJob, Problem
from .fields import fields_at, hint_for, nearest, path_of
from .kubectl_yaml import dump, parse_document, parse_value, plain
from .names import API_VERSION, KIND
from .rules import check_static
from .schema_problems import problem_of
from .spec import OPDJob

_STAND_INS: dict[str, Any] = {
    "metadata": {"name": "job"},
    "name": "job",
    "spec": {},
    "student": {},
    "model": "file:///model",
    "teachers": [{"mode": "SGLang", "model": "file:///model"}],
    "mode": "SGLang",
    "data": {},
    "prompts": [{"uri": "file:///prompts"}],
    "uri": "file:///prompts",
    "steps": 1,
}
"""What takes the place of a required field that is missing or wrong, so that the rules about the rest can be asked."""


def load_job_file(path: Path | str) -> OPDJob:
    """Raises InvalidJob with every problem of the file, OSError when it cannot be opened."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidJob([Problem(path=str(path), message="is not UTF-8 text")]) from error
    return load_job(text, source=str(path))


def load_job(text: str, source: str = "") -> OPDJob:
    """Raises InvalidJob with every problem of the text; `source` names it in messages."""
    return job_from_document(read_document(text, source))


def read_document(text: str, source: str = "") -> dict[str, Any]:
    """The one mapping in `text`; raises InvalidJob when it is not YAML, is empty, or holds several documents."""
    return parse_document(text, source or "document")


def job_from_document(document: dict[str, Any]) -> OPDJob:
    """Schema and static rules; raises InvalidJob with every problem."""
    sent, problems = plain(document)
    if foreign := _foreign(sent):
        raise InvalidJob(foreign)
    job, schema_problems, unreadable = _validate(sent)
    problems += [problem for problem in schema_problems if problem.path not in {known.path for known in problems}]
    if job is not None:
        problems += check_static(job, unreadable=unreadable | {problem.path for problem in problems})
    if problems or job is None:
        raise InvalidJob(problems)
    return job


def dump_job(job: OPDJob) -> str:
    """What is asked for as YAML, every default filled in, in the contract's order; the status is left out."""
    document = job.model_dump(mode="json")
    document["metadata"] = job.metadata.model_dump(mode="json", exclude_none=True)
    del document["status"]
    return dump(document)


def set_path(document: dict[str, Any], assignment: str) -> None:
    """`spec.optimizer.lr=1e-3` into `document`: `spec.` may be left out, lists take `[0]` or `.0`, the value is YAML.

    Raises InvalidJob for a path that the contract does not have, with the nearest name.
    """
    path, separator, text = assignment.partition("=")
    location: list[str | int] = [int(k) if k.isdigit() else k for k in re.findall(r"[^.\[\]]+", path)]
    if not separator or not location:
        hint = "write --set optimizer.lr=1.0e-3"
        raise InvalidJob([Problem(path=f"--set {assignment}", message="is not PATH=VALUE", hint=hint)])
    if location[0] not in ("apiVersion", "kind", "metadata", "spec"):
        location.insert(0, "spec")
    node: Any = document
    for depth, key in enumerate(location):
        _refuse_unknown(node, location[: depth + 1])
        if depth == len(location) - 1:
            node[key] = parse_value(text, path_of(location))
        elif isinstance(key, str) and node.get(key) is None:
            node[key] = {} if not isinstance(location[depth + 1], int) else []
        else:
            node[key] = copy.copy(node[key])  # a YAML alias of it elsewhere stays as it is
        node = node[key]


def _refuse_unknown(node: Any, location: list[str | int]) -> None:
    """Whether `location`'s last part can be looked up in `node`."""
    key, path = location[-1], path_of(location)
    if isinstance(node, list):
        if not isinstance(key, int) or key >= len(node):
            hint = f"use an index from 0 to {len(node) - 1}" if node else f"set {path_of(location[:-1])} as a whole"
            raise InvalidJob([Problem(path=path, message=f"the list has {len(node)} entries", hint=hint)])
        return
    if not isinstance(node, dict):
        raise InvalidJob([Problem(path=path, message=f"{path_of(location[:-1])} has no fields, it is a value")])
    known = fields_at(location[:-1])
    if known is not None and key not in known:
        message = "is no field of an OPDJob"
        raise InvalidJob([Problem(path=path, message=message, hint=hint_for(str(key), known))])


def _foreign(document: dict[str, Any]) -> list[Problem]:
    """A document of another kind has a hundred problems and one reason."""
    wanted = {"apiVersion": API_VERSION, "kind": KIND}
    return [
        Problem(
            path=key,
            message=f"{document[key]!r} is not {value}" if key in document else "is required",
            hint=f"write {key}: {value}",
        )
        for key, value in wanted.items()
        if document.get(key) != value
    ]


def _validate(document: dict[str, Any]) -> tuple[OPDJob | None, list[Problem], set[str]]:
    """The job, with stand-ins where the document is wrong; what is wrong; the paths that are made up."""
    mended, unreadable = copy.deepcopy(document), set[str]()
    problems: dict[str, Problem] = {}
    # Each round mends one layer: a wrong entry goes, then its list is too short, then missing, then a stand-in comes.
    for attempt in range(4):
        try:
            job = OPDJob.model_validate_json(json.dumps(mended), by_alias=True, by_name=False)
            return job, list(problems.values()), unreadable
        except ValidationError as error:
            details = [detail for detail in error.errors(include_url=False) if not _is_echo(detail)]
        if attempt == 0:
            for problem in map(problem_of, details):
                problems.setdefault(problem.path, problem)
        for detail in reversed(details):  # from behind, so that indices stay true
            unreadable |= _mend(mended, detail)
    return None, list(problems.values()), unreadable


def _is_echo(detail: ErrorDetails) -> bool:
    """A list whose entries are all wrong is called too short as well."""
    return detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]


def _mend(document: dict[str, Any], detail: ErrorDetails) -> set[str]:
    """Takes the wrong value out, or puts a stand-in where one is missing; returns the paths nobody may judge."""
    *parents, key = (part for part in detail["loc"] if part != "[key]")
    node: Any = document
    for part in parents:
        node = node[part]
    if detail["type"] == "missing":
        node[key] = copy.deepcopy(_STAND_INS[str(key)])
    else:
        del node[key]
    unreadable = {path_of([*parents, key])}
    if detail["type"] == "extra_forbidden" and (meant := nearest(str(key), fields_at(parents) or {})):
        unreadable.add(path_of([*parents, meant]))
    return unreadable
