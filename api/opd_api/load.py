"""YAML -> OPDJob, read the way kubectl reads it, with every problem of the document at once; and OPDJob -> YAML."""

import difflib
import json
import math
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from .errors import InvalidJob, Problem
from .rules import check_static
from .spec import OPDJob


class _KubectlLoader(yaml.SafeLoader):
    """YAML as kubectl reads it: `1e-6` is a number (YAML 1.1 calls it text), a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_KubectlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)


def load_job_file(path: Path) -> OPDJob:
    """Raises InvalidJob with every problem of the file."""
    return load_job(path.read_text(), source=str(path))


def load_job(text: str, source: str = "") -> OPDJob:
    """Raises InvalidJob with every problem of the text; `source` names it in messages."""
    return job_from_document(read_document(text, source))


def read_document(text: str, source: str = "") -> dict[str, Any]:
    """The one mapping in `text`; raises InvalidJob when it is not YAML, empty, or several documents."""
    place = source or "document"
    try:
        documents = [document for document in yaml.load_all(text, Loader=_KubectlLoader) if document is not None]
    except yaml.YAMLError as error:
        raise InvalidJob([Problem(path=place, message=f"not YAML: {' '.join(str(error).split())}")]) from error
    if len(documents) != 1:
        message = "is empty" if not documents else f"holds {len(documents)} documents"
        raise InvalidJob([Problem(path=place, message=message, hint="give one OPDJob a file")])
    if not isinstance(documents[0], dict):
        raise InvalidJob([Problem(path=place, message="is no mapping", hint="start with apiVersion: opd.dev/v1alpha1")])
    return documents[0]


def job_from_document(document: dict[str, Any]) -> OPDJob:
    """Schema and static rules; raises InvalidJob with every problem."""
    try:
        text = json.dumps(document)
    except (TypeError, ValueError) as error:
        raise InvalidJob([Problem(path="document", message=f"holds a value JSON has no word for: {error}")]) from error
    try:
        job = OPDJob.model_validate_json(_without_specials(text))
    except ValidationError as error:
        raise InvalidJob([_problem(detail, document) for detail in _distinct(error.errors())]) from error
    if problems := check_static(job):
        raise InvalidJob(problems)
    return job


def dump_job(job: OPDJob) -> str:
    """YAML with every default filled in, in the contract's order."""
    document = job.model_dump(mode="json", exclude_none=False)
    document["metadata"] = job.metadata.model_dump(mode="json", exclude_none=True)
    if document["status"] is None:
        del document["status"]
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)


def set_path(document: dict[str, Any], assignment: str) -> None:
    """`spec.optimizer.lr=1e-3` (the `spec.` may be left out) into `document`; the value is read as YAML.

    A path the schema does not have is found by `job_from_document`. Raises InvalidJob on `PATH=VALUE` that is none.
    """
    path, separator, text = assignment.partition("=")
    keys = [int(key) if key.isdigit() else key for key in re.findall(r"[^.\[\]]+", path)]
    if not separator or not keys:
        raise InvalidJob(
            [Problem(path=f"--set {assignment}", message="is not PATH=VALUE", hint="--set optimizer.lr=1.0e-3")]
        )
    if keys[0] not in ("spec", "metadata", "apiVersion", "kind"):
        keys.insert(0, "spec")
    node: Any = document
    for key in keys[:-1]:
        if isinstance(node, list):
            if not isinstance(key, int) or key >= len(node):
                raise InvalidJob([Problem(path=path, message=f"the list has {len(node)} items and no {key!r}")])
            node = node[key]
        elif isinstance(node, dict):
            node = node.setdefault(key, {})
        else:
            raise InvalidJob([Problem(path=path, message=f"{key!r} lies below a value that has no fields")])
    value = yaml.load(text, Loader=_KubectlLoader)
    try:
        node[keys[-1]] = value
    except (IndexError, TypeError) as error:
        raise InvalidJob([Problem(path=path, message=f"cannot be set: {error}")]) from error


def _without_specials(text: str) -> str:
    """JSON has no NaN or infinity; as text they are refused as `not a number` by the field they stand in."""
    return re.sub(r"(?<=[\s:,\[])(-?Infinity|NaN)(?=[,\]}\s])", r'"\1"', text)


def _distinct(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """A union reports each of its arms; one problem a path is enough."""
    by_path: dict[str, ErrorDetails] = {}
    for detail in details:
        by_path.setdefault(_path(detail["loc"]), detail)
    return list(by_path.values())


def _path(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z][\w./-]*", part):  # pydantic adds union arms such as `constrained-str`
            if part in ("constrained-str", "int", "float", "str", "[key]"):
                continue
            text += f".{part}" if text else part
    return text


def _problem(detail: ErrorDetails, document: dict[str, Any]) -> Problem:
    path, kind, value = _path(detail["loc"]), detail["type"], detail["input"]
    if kind == "missing":
        return Problem(path=path, message="is required")
    if kind == "extra_forbidden":
        known = _fields_at(detail["loc"][:-1])
        near = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"fields here: {', '.join(sorted(known))}"
        return Problem(path=path, message="no such field", hint=hint)
    message = detail["msg"].removeprefix("Input ").removeprefix("should ")
    shown = json.dumps(value, default=str)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    if isinstance(value, str) and kind.startswith(("int", "float")):
        return Problem(
            path=path, message=f"{shown} is text; it must be a number", hint="write the number without quotes"
        )
    if isinstance(value, float) and not math.isfinite(value):
        message = "be a finite number"
    return Problem(path=path, message=f"{shown}: must {message.lower() if message[:1].isupper() else message}")


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    """Contract names of the fields of the model at `location`."""
    model: Any = OPDJob
    for part in location:
        if isinstance(part, int):
            continue
        field = next((f for n, f in model.model_fields.items() if (f.alias or n) == part), None)
        if field is None:
            return []
        model = _model_in(field.annotation)
        if model is None:
            return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for argument in get_args(annotation) if (model := _model_in(argument)) is not None), None)
