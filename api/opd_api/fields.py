"""Finds fields in the contract's types by their YAML names. Reads types only, no document."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .spec import OPDJob

type Location = Sequence[str | int]


def fields_at(location: Location) -> dict[str, FieldInfo] | None:
    """The fields that may stand at `location`; None where anything may (podTemplate) or nothing can."""
    model: type[BaseModel] = OPDJob
    for part in location:
        if isinstance(part, int):
            continue
        field = named_fields(model).get(part)
        below = _model_in(field.annotation) if field is not None else None
        if below is None:
            return None
        model = below
    return None if model.model_config.get("extra") == "allow" else named_fields(model)


def named_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """A type's fields by their YAML names."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant; letter case and underscores count for nothing."""
    folded = {known.lower(): known for known in names}
    found = difflib.get_close_matches(name.replace("_", "").lower(), folded, n=1, cutoff=0.65)
    return folded[found[0]] if found else None


def hint_for(name: str, names: Iterable[str]) -> str:
    """What to write instead of an unknown name."""
    known = list(names)
    near = nearest(name, known)
    return f"did you mean {near}?" if near else f"known here: {', '.join(known)}"


def path_of(location: Location) -> str:
    """`("spec", "teachers", 0)` -> `spec.teachers[0]`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := _model_in(inner)) is not None), None)
