"""A good job to spoil, and what an API server would say of it: defaults, schema, unknown fields and CEL of the CRD."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import celpy
import jsonschema
import pytest
from job_documents import MINIMAL, changed_job

from opd_api.crd import crd
from opd_api.kubectl_yaml import plain


@pytest.fixture
def minimal() -> str:
    """The smallest job, as text."""
    return MINIMAL


@pytest.fixture
def make_document() -> Callable[[str], dict[str, Any]]:
    """The smallest job, changed."""
    return changed_job


class ApiServer:
    """Admission as kube-apiserver does it, from the CRD alone. Does not prove that the CRD installs."""

    def __init__(self) -> None:
        self.schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        self._environment = celpy.Environment()
        self._programs: dict[str, celpy.Runner] = {}

    def admit(self, document: dict[str, Any]) -> tuple[dict[str, Any], set[str], set[str]]:
        """The stored document, paths that the schema refuses, paths that CEL refuses (asked only if there are none)."""
        stored = copy.deepcopy(plain(document)[0])
        fill_defaults(self.schema, stored)
        refused = {path_of(error) for error in jsonschema.Draft4Validator(self._checked()).iter_errors(stored)}
        refused |= set(unknown(self.schema, stored, ""))
        return stored, refused, set() if refused else set(self._cel(self.schema, stored, ""))

    def holds(self, rule: str, /, **variables: tuple[dict[str, Any], dict[str, Any]]) -> bool:
        """One CEL rule; a variable is a schema and a value."""
        if rule not in self._programs:
            self._programs[rule] = self._environment.program(self._environment.compile(rule))
        return bool(self._programs[rule].evaluate({name: to_cel(*pair) for name, pair in variables.items()}))

    def default_holds(self, schema: dict[str, Any]) -> bool:
        """Whether the rules at a node hold for its default; true when it has none."""
        rules = [rule["rule"] for rule in schema.get("x-kubernetes-validations", ()) if "default" in schema]
        try:
            return all(self.holds(rule, self=(schema, schema["default"])) for rule in rules)
        except celpy.CELEvalError:  # it has not what the rule reads
            return False

    def _checked(self) -> dict[str, Any]:
        """jsonschema knows no int-or-string."""

        def walk(node: Any) -> Any:
            if isinstance(node, list):
                return [walk(item) for item in node]
            if not isinstance(node, dict):
                return node
            extra = {"type": ["integer", "string"]} if node.get("x-kubernetes-int-or-string") is True else {}
            return {key: walk(value) for key, value in node.items()} | extra

        return walk(self.schema)

    def _cel(self, schema: dict[str, Any], value: Any, path: str) -> Iterator[str]:
        for rule in schema.get("x-kubernetes-validations", ()):
            if "oldSelf" not in rule["rule"] and not self.holds(rule["rule"], self=(schema, value)):
                # A rule on the whole document can only name its field in the message.
                yield path + rule["fieldPath"] if "fieldPath" in rule else rule["message"].partition(":")[0]
        for below, item, where in children(schema, value, path):
            yield from self._cel(below, item, where)


def children(schema: dict[str, Any], value: Any, path: str) -> Iterator[tuple[dict[str, Any], Any, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            if name in schema.get("properties", {}):
                yield schema["properties"][name], item, f"{path}.{name}" if path else name
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield schema["items"], item, f"{path}[{index}]"


def fill_defaults(schema: dict[str, Any], value: Any) -> None:
    if isinstance(value, dict):
        for name, below in schema.get("properties", {}).items():
            if name not in value and "default" in below:
                value[name] = copy.deepcopy(below["default"])
    for below, item, _ in children(schema, value, ""):
        fill_defaults(below, item)


def unknown(schema: dict[str, Any], value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict) and "properties" in schema:
        yield from (f"{path}.{name}" if path else name for name in value if name not in schema["properties"])
    for below, item, where in children(schema, value, path):
        yield from unknown(below, item, where)


def path_of(error: jsonschema.ValidationError) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    if error.validator == "required":
        path += "." + error.message.split("'")[1]
    return path.removeprefix(".")


def to_cel(schema: dict[str, Any], value: Any) -> Any:
    """Values as Kubernetes types them: `number` is a double even when written 1, reserved words get underscores."""
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        escaped = {f"__{name}__" if name == "function" else name: name for name in value}
        return celpy.celtypes.MapType(
            {
                celpy.celtypes.StringType(key): to_cel(properties.get(name, {}), value[name])
                for key, name in escaped.items()
            }
        )
    if isinstance(value, list):
        return celpy.celtypes.ListType([to_cel(schema.get("items", {}), item) for item in value])
    if schema.get("type") == "number":
        return celpy.celtypes.DoubleType(value)
    return celpy.json_to_cel(value)


@pytest.fixture(scope="session")
def api_server() -> ApiServer:
    """One for all tests: compiling CEL is what takes time."""
    return ApiServer()
