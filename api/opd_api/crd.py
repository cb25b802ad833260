"""The CustomResourceDefinition as plain data, made from the contract's types and rules. Writes no file.

A structural schema: no $ref, no `anyOf` with null (nulls are pruned before defaults fill in), objects have a default so
that defaults inside them fill in (a complete one: a CRD is refused when its rules do not hold for the default as it is
written), and lists and texts are bounded so that the CEL rules stay within their budget.
"""

import copy
from collections.abc import Mapping
from typing import Any

from .names import GROUP, KIND, PLURAL, VERSION
from .rules import STATIC_RULES
from .rules.rule import Rule
from .spec import OPDJob, Spec

type Schema = dict[str, Any]

LIST_KEYS = {"teachers": "name", "conditions": "type"}
"""Lists whose entries are told apart by a field; all others are replaced as a whole."""

MUTABLE = ("suspend", "runPolicy")
"""Fields of spec that may change at any time."""

COLUMNS = (
    ("Phase", "string", ".status.phase", 0),
    ("Step", "string", ".status.columns.step", 0),
    ("KL", "string", ".status.columns.kl", 0),
    ("Reward", "string", ".status.columns.reward", 0),
    ("Teacher", "string", ".status.columns.teacher", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Trend", "string", ".status.distillation.trend", 1),
    ("Pass@1", "string", ".status.columns.passAt1", 1),
    ("Attempt", "integer", ".status.attempt", 1),
    ("Checkpoint", "integer", ".status.checkpoint.step", 1),
    ("RayCluster", "string", ".status.rayClusterName", 1),
)
"""Name, type, JSONPath, priority (1: `-o wide` only)."""


def crd() -> dict[str, Any]:
    """The whole object, ready to apply."""
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": openapi_schema()},
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path} | ({"priority": priority} if priority else {})
            for name, kind, path, priority in COLUMNS
        ],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["opd"],
                "categories": ["all"],
            },
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def openapi_schema() -> Schema:
    """Types, bounds, defaults and CEL rules of the whole document."""
    generated = OPDJob.model_json_schema(by_alias=True)
    definitions = generated["$defs"]
    properties = generated["properties"]
    schema: Schema = {
        "type": "object",
        "description": "A distillation job: the student writes, a teacher scores every token, and it learns.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": _structural(properties["spec"], definitions, "spec"),
            "status": _without_defaults(_structural(properties["status"], definitions, "status")),
        },
    }
    for rule in STATIC_RULES:
        _node(schema, rule.node).setdefault("x-kubernetes-validations", []).append(_validation(rule))
    schema["properties"]["spec"]["x-kubernetes-validations"] += transition_rules()
    return schema


def transition_rules() -> list[dict[str, str]]:
    """What may not change after creation unless the job was suspended before the edit."""
    special = {
        "steps": "self.steps >= oldSelf.steps",
        "checkpoint": " && ".join(
            f"self.checkpoint.{name} == oldSelf.checkpoint.{name}"
            for name in ("claimName", "everySteps", "exportHuggingFace")
        ),
    }
    words = {"steps": "may only grow", "checkpoint": "may not change, keep excepted"}
    names = [field.alias or name for name, field in Spec.model_fields.items()]
    return [
        {
            "rule": f"oldSelf.suspend || {_parenthesised(special.get(name, f'self.{name} == oldSelf.{name}'))}",
            "message": f"{name} {words.get(name, 'may not change')} while the job is not suspended;"
            " set suspend: true first, or make a new job",
            "fieldPath": f".{name}",
            "reason": "FieldValueForbidden",
        }
        for name in names
        if name not in MUTABLE
    ]


def _parenthesised(condition: str) -> str:
    return f"({condition})" if "&&" in condition else condition


def _validation(rule: Rule) -> dict[str, str]:
    """A rule of the table as the API server reads it; messages there are constants, a printed number costs too much."""
    message = f"{rule.general_message}; {rule.hint}"
    if not rule.node:  # a rule on the whole document cannot point into metadata
        return {"rule": rule.cel, "message": f"{rule.field}: {message}"}
    return {"rule": rule.cel, "message": message, "fieldPath": f".{rule.field}"}


def _node(schema: Schema, path: str) -> Schema:
    for part in filter(None, path.split(".")):
        schema = schema["properties"][part.removesuffix("[]")]
        if part.endswith("[]"):
            schema = schema["items"]
    return schema


def _structural(schema: Mapping[str, Any], definitions: Mapping[str, Any], name: str) -> Schema:
    """One pydantic schema in the dialect of the API server."""
    if "anyOf" in schema:  # only ever `T | None`
        chosen = next(arm for arm in schema["anyOf"] if arm.get("type") != "null")
        schema = {**chosen, **{key: value for key, value in schema.items() if key not in ("anyOf", "default")}}
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    out: Schema = {}
    for key in ("type", "format", "description", "default", "enum", "pattern", "x-kubernetes-int-or-string"):
        if key in schema:
            out[key] = schema[key]
    for key in ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties"):
        if key in schema:
            out[key] = schema[key]
    for key, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if key in schema:
            out |= {bound: schema[key], key: True}
    if schema.get("type") == "array":
        out |= _list(schema, definitions, name)
    if schema.get("type") == "object":
        out |= _object(schema, definitions)
    return out


def _list(schema: Mapping[str, Any], definitions: Mapping[str, Any], name: str) -> Schema:
    items = {"items": _structural(schema["items"], definitions, "")}
    if name in LIST_KEYS:
        return items | {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [LIST_KEYS[name]]}
    return items | {"x-kubernetes-list-type": "atomic"}


def _object(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    if "properties" not in schema:
        values = schema["additionalProperties"]
        if values is True:
            return {"x-kubernetes-preserve-unknown-fields": True, "default": {}}
        return {"additionalProperties": _structural(values, definitions, ""), "default": {}}
    out: Schema = {
        "properties": {key: _structural(value, definitions, key) for key, value in schema["properties"].items()}
    }
    if "required" in schema:
        return out | {"required": schema["required"]}
    filled = {key: value["default"] for key, value in out["properties"].items() if "default" in value}
    return out | {"default": copy.deepcopy(filled)}


def _without_defaults(schema: Schema) -> Schema:
    """A status says what is known; nothing is filled in."""
    kept = {key: value for key, value in schema.items() if key != "default"}
    if "properties" in kept:
        kept["properties"] = {name: _without_defaults(value) for name, value in kept["properties"].items()}
    if "items" in kept:
        kept["items"] = _without_defaults(kept["items"])
    return kept
