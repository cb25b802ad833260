"""Text <-> plain data, the way kubectl reads YAML and an API server takes it. Knows nothing of OPDJobs."""

import math
import re
from typing import Any

import yaml

from .errors import InvalidJob, Problem

DEEPEST = 100
"""Levels of a document. The API server takes 10,000; the libraries that read it here do not."""
_SHOWN_PATH = 80
_EXACT_INTEGERS = 2**53


class _Loader(yaml.SafeLoader):
    """YAML as kubectl reads it: `1e-6` is a number, a date is text, a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else key
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {name!r} is given twice", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


# PyYAML's own numbers and dates go: 1e-6 is text to it, 10:30 a number.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":float", ":int", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(0|[1-9][0-9_]*|0[0-7_]+|0b[01_]+|0x[0-9a-fA-F_]+)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^([-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """libyaml's is eight times as fast; an operator writes many configs. A text that some reader would take for
    something else is quoted: by PyYAML's rules, by ours, and by those of Go's library that ours leave out."""


_Dumper.yaml_implicit_resolvers = {
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, ()), *_Loader.yaml_implicit_resolvers.get(first, ())]
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
}
_Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^[yYnN]$"), list("yYnN"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile("^[-+]?0[oObBxX][0-9a-fA-F_]+$"), list("-+0"))
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def parse_document(text: str, place: str) -> dict[str, Any]:
    """The one mapping in `text`; raises InvalidJob, naming `place`, when there is none or more."""
    try:
        documents = [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]
    except (yaml.YAMLError, ValueError) as error:  # 0x_ looks like a number and is none
        raise InvalidJob([Problem(path=_at(error, place), message=f"is not YAML: {_reason(error)}")]) from error
    except RecursionError as error:
        raise InvalidJob([Problem(path=place, message="is nested too deep")]) from error
    hint = "give one OPDJob a file"
    if not documents:
        raise InvalidJob([Problem(path=place, message="is empty", hint=hint)])
    if len(documents) > 1:
        raise InvalidJob([Problem(path=place, message=f"holds {len(documents)} documents", hint=hint)])
    if not isinstance(documents[0], dict):
        message = f"holds a {type(documents[0]).__name__}, not fields and values"
        raise InvalidJob([Problem(path=place, message=message, hint="start with apiVersion: opd.dev/v1alpha1")])
    return documents[0]


def parse_value(text: str, place: str) -> Any:
    """One value, as it would stand behind a colon; raises InvalidJob."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:  # 0x_ looks like a number and is none
        raise InvalidJob([Problem(path=place, message=f"{text!r} is not YAML: {_reason(error)}")]) from error


def dump(document: dict[str, Any]) -> str:
    """YAML in the document's own order."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def plain(document: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """What arrives at an API server, and what cannot be sent.

    A null is as good as an absent field (but not in a podTemplate, Kubernetes' own), 300.0 is 300, NaN is refused.
    Raises InvalidJob for what is too deep to read.
    """
    problems: list[Problem] = []

    def walk(value: Any, path: str, keep_nulls: bool, depth: int = 0) -> Any:
        if depth > DEEPEST:
            where = f"{path[:_SHOWN_PATH]}…"
            message, hint = "contains itself, or is nested too deep", f"at most {DEEPEST} levels"
            raise InvalidJob([Problem(path=where, message=message, hint=hint)])
        if isinstance(value, dict):
            below = {str(key): item for key, item in value.items()}
            walked = {
                key: walk(item, f"{path}.{key}" if path else key, keep_nulls or key == "podTemplate", depth + 1)
                for key, item in below.items()
            }
            return {key: item for key, item in walked.items() if item is not None or keep_nulls}
        if isinstance(value, list):
            return [walk(item, f"{path}[{index}]", keep_nulls, depth + 1) for index, item in enumerate(value)]
        if isinstance(value, float) and not math.isfinite(value):
            problems.append(Problem(path=path, message=f"{value} is not a finite number", hint="write a number"))
            return None
        if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_INTEGERS:
            return int(value)
        if value is None or isinstance(value, (str, bool, int, float)):
            return value
        problems.append(Problem(path=path, message=f"is a {type(value).__name__}, which JSON has no word for"))
        return None

    return walk(document, "", keep_nulls=False), problems


def _at(error: Exception, place: str) -> str:
    mark = getattr(error, "problem_mark", None)
    return place if mark is None else f"{place}:{mark.line + 1}"


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "problem", None) or error).split())
