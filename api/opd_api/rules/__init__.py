"""What an OPDJob may not say although each field alone is fine. Bounds of single fields are in the types.

Stage `static` (`running`, `learning`): the document alone shows it, to us in Python and to the API server in CEL.
Stage `models` (`shapes`): configs and tokenizers are needed. What only a server shows is the runtime's to probe.
`pods` holds in a cluster alone.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from ..documents import ModelSummary
from ..errors import Problem
from ..spec import OPDJob
from .learning import LEARNING_RULES
from .pods import check_pods
from .rule import Rule, field_value
from .running import RUNNING_RULES
from .shapes import MODEL_RULES

__all__ = ["MODEL_RULES", "STATIC_RULES", "Rule", "check_models", "check_pods", "check_static"]

STATIC_RULES: tuple[Rule, ...] = (*RUNNING_RULES, *LEARNING_RULES)


def check_static(job: OPDJob, *, unreadable: Collection[str] = ()) -> list[Problem]:
    """Problems the document alone shows. Rules that read a path in `unreadable` are not asked."""
    return [
        Problem(
            path=_join(path, rule.field), message=rule.message.format(value=_shown(node, rule.field)), hint=rule.hint
        )
        for rule in STATIC_RULES
        for path, node in _nodes(job, rule.node)
        if not _reads_any(rule, path, unreadable) and not rule.holds(node)
    ]


def check_models(job: OPDJob, models: Mapping[str, ModelSummary]) -> list[Problem]:
    """Problems the models show; `models` by role: "student", a teacher's name, "reference"; others are not judged."""
    return [problem for rule in MODEL_RULES for problem in rule(job, models)]


def _nodes(job: OPDJob, where: str) -> Iterator[tuple[str, Any]]:
    """`spec.teachers[]` -> each teacher with its own path."""
    if not where.endswith("[]"):
        yield where, field_value(job, where)
        return
    for index, item in enumerate(field_value(job, where.removesuffix("[]"))):
        yield f"{where.removesuffix('[]')}[{index}]", item


def _reads_any(rule: Rule, path: str, unreadable: Collection[str]) -> bool:
    reads = {_join(path, field) for field in rule.reads}
    return any(_covers(read, bad) or _covers(bad, read) for read in reads for bad in unreadable)


def _covers(outer: str, inner: str) -> bool:
    return inner == outer or inner.startswith((outer + ".", outer + "["))


def _join(path: str, field: str) -> str:
    return ".".join(filter(None, (path, field)))


def _shown(node: BaseModel, field: str) -> str:
    value = field_value(node, field)
    if isinstance(value, tuple | dict | BaseModel):  # too long for a line; the name stands for it
        return field.rpartition(".")[2]
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) else str(value)
