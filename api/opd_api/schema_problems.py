"""pydantic's errors in our words: path, value, what is wrong, what to write instead. Judges nothing itself."""

import json
from typing import Any

from pydantic_core import ErrorDetails

from .base import PATTERN_WORDS
from .errors import Problem
from .fields import fields_at, hint_for, nearest, path_of

_OBJECT = "an object (fields and values)"
_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": _OBJECT,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
}
_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: _OBJECT,
}
_BOUNDS = {
    "greater_than": ("must be greater than {}", "gt"),
    "greater_than_equal": ("must be at least {}", "ge"),
    "less_than": ("must be less than {}", "lt"),
    "less_than_equal": ("must be at most {}", "le"),
    "string_too_long": ("is longer than {} characters", "max_length"),
    "string_too_short": ("must not be empty", "min_length"),
    "too_long": ("has more than {} entries", "max_length"),
    "too_short": ("needs at least {} entry", "min_length"),
}


def problem_of(detail: ErrorDetails) -> Problem:
    """One error of a document that was validated by its YAML names."""
    location = tuple(part for part in detail["loc"] if part != "[key]")
    message, hint = _words(detail, location)
    return Problem(path=path_of(location), message=message, hint=hint)


def _words(detail: ErrorDetails, location: tuple[str | int, ...]) -> tuple[str, str]:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "missing":
        return "is required", _description(location)
    if kind == "extra_forbidden":
        return "is no field of an OPDJob", hint_for(str(location[-1]), fields_at(location[:-1]) or {})
    if kind == "literal_error":
        return _not_one_of(value, str(context["expected"]))
    if kind in _WANTED:
        is_kind = "no whole number" if kind == "int_from_float" else _KINDS.get(type(value), "something else")
        return f"{_shown(value)} is {is_kind}; {_WANTED[kind]} is wanted here", _respelled(kind, value)
    if kind == "string_pattern_mismatch":
        return f"{_shown(value)} does not fit here", f"write {PATTERN_WORDS[context['pattern']]}"
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        # A list or a long text would drown the message.
        subject = "" if kind.startswith(("too_", "string_too_")) else f"{_shown(value)} "
        return subject + words.format(_shown(context[bound])), _description(location)
    return f"{_shown(value)} {detail['msg']}", _description(location)


def _not_one_of(value: Any, expected: str) -> tuple[str, str]:
    """`expected` as pydantic lists it: "'GRPO', 'GSPO' or 'PPO'"."""
    allowed = [word for word in expected.split("'")[1::2] if word]
    near = nearest(str(value), allowed)
    hint = f"did you mean {near}?" if near else f"write {allowed[0]}" if len(allowed) == 1 else ""
    return f"{_shown(value)} is not one of {', '.join(allowed)}", hint


def _respelled(kind: str, value: Any) -> str:
    if isinstance(value, str) and kind in ("int_type", "float_type", "bool_type"):
        return (
            "write it without quotes"
            if value.strip()
            else "write a number"
            if kind != "bool_type"
            else "write true or false"
        )
    if kind == "string_type" and isinstance(value, (int, float)):
        return f"put it in quotes: {json.dumps(str(value).lower() if isinstance(value, bool) else str(value))}"
    if kind == "tuple_type":
        return "start each entry with '- ', or put the entries between [ and ]"
    return ""


def _description(location: tuple[str | int, ...]) -> str:
    """The field's own first line says best what belongs there."""
    names = [part for part in location if isinstance(part, str)]
    field = (fields_at(location[:-1]) or {}).get(names[-1]) if names and location[-1] == names[-1] else None
    return field.description.split("\n")[0] if field is not None and field.description else ""


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
