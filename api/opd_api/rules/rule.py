"""What a rule about the document alone is: one predicate, in Python and in CEL, and its message. Holds no rule."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel

_MACROS = {"all", "exists", "exists_one", "matches", "endsWith"}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One thing that must hold at every node of its kind."""

    node: str
    """Where it is asked: "" is the whole document, `spec.teachers[]` each teacher."""
    field: str
    """What the problem is about, below the node, in the contract's spelling."""
    holds: Callable[[Any], bool]
    """Given the model at the node: whether all is well."""
    cel: str
    """The same in Kubernetes' CEL, `self` being the node; a field named `function` is `__function__` there."""
    message: str
    """What is wrong and why; `{value}` is the field's value."""
    hint: str
    """What to do."""

    @property
    def general_message(self) -> str:
        """The message where the value is not known: the field stands for it."""
        return self.message.format(value=self.field.rpartition(".")[2])

    @cached_property
    def reads(self) -> frozenset[str]:
        """Fields below the node that decide, taken from the CEL text; a list counts as one field."""
        chains = re.findall(r"\bself((?:\.\w+)+)", self.cel)
        return frozenset(_field_of(chain) for chain in chains) | {self.field}


def _field_of(chain: str) -> str:
    """`.teachers.exists` -> `teachers`; `.__function__` -> `function`."""
    names = (name.removeprefix("__").removesuffix("__") for name in chain.strip(".").split("."))
    return ".".join(name for name in names if name not in _MACROS)


def field_value(node: BaseModel, field: str) -> Any:
    """The value at a dotted path in the contract's spelling; "" is the node itself."""
    value: Any = node
    for name in filter(None, field.split(".")):
        attribute = next(a for a, info in type(value).model_fields.items() if (info.alias or a) == name)
        value = getattr(value, attribute)
    return value


def not_available(node: str, field: str, attribute: str, values: tuple[str, ...], hint: str) -> list[Rule]:
    """Values of an enum that are in the contract and not built yet: refused by name, never ignored."""

    def refuse(value: str) -> Rule:
        return Rule(
            node=node,
            field=field,
            holds=lambda model: getattr(model, attribute) != value,
            cel=f"self.{field} != '{value}'",
            message=f"{value} is not available in this version",
            hint=hint,
        )

    return [refuse(value) for value in values]


def ignored_unless(
    read: Callable[[Any], bool], read_cel: str, *, untouched: BaseModel, node: str, field: str, why: str, hint: str
) -> Rule:
    """A setting that is read only where `read` (in CEL: `read_cel`) holds; elsewhere it must be as in `untouched`."""
    default = field_value(untouched, field)
    return Rule(
        node=node,
        field=field,
        holds=lambda model: read(model) or field_value(model, field) == default,
        cel=f"{read_cel} || {_is_cel(field, default)}",
        message=f"{{value}} would be ignored: {why}",
        hint=hint,
    )


def _is_cel(field: str, default: Any) -> str:
    """In CEL: the field is what it is when nobody sets it."""
    if isinstance(default, BaseModel):
        names = [info.alias or name for name, info in type(default).model_fields.items()]
        parts = [_is_cel(f"{field}.{name}", field_value(default, name)) for name in names]
        return f"({' && '.join(parts)})"
    if default is None:
        return f"!has(self.{field})"
    if isinstance(default, tuple):
        return f"size(self.{field}) == 0"
    if isinstance(default, dict):  # dyn: to CEL's type checker a podTemplate is an object without fields, no map
        return f"size(dyn(self.{field})) == 0"
    return f"self.{field} == {default!r}"
