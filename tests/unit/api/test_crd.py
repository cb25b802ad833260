"""The generated CRD: structural, in step with the types, with defaults and transition rules that do what they say."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from job_documents import table

from opd_api import generate
from opd_api.crd import crd, openapi_schema
from opd_api.load import job_from_document
from opd_api.spec import Spec

SPEC = openapi_schema()["properties"]["spec"]


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, below in schema.get("properties", {}).items():
        yield from nodes(below, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key], f"{path}[]")


NODES = dict(nodes(openapi_schema()))


def test_generated_files_are_in_step():
    for path, text in generate.generated().items():
        assert path.read_text() == text, f"{path.name} is out of step with api/opd_api; run `make generate`"


def test_check_says_what_is_out_of_step(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(generate, "_ROOT", tmp_path)
    assert generate.main(["--check"]) == 1
    assert "make generate" in capsys.readouterr().err
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0


def test_schema_is_structural():
    for path, node in NODES.items():
        assert not set(node) & {"$ref", "anyOf", "allOf", "oneOf", "not", "nullable", "const", "title"}, path
        assert "type" in node or "x-kubernetes-int-or-string" in node, path
        assert not isinstance(node.get("additionalProperties"), bool), path


def test_every_field_of_spec_and_status_is_described():
    undescribed = [
        f"{path}.{name}"
        for path, node in NODES.items()
        if path.startswith((".spec", ".status"))
        for name, below in node.get("properties", {}).items()
        if not below.get("description")
    ]
    assert undescribed == []


def test_everything_in_spec_is_bounded_so_that_cel_stays_in_budget():
    for path, node in NODES.items():
        if node.get("type") == "array":
            assert "maxItems" in node, path
        if node.get("type") == "string" and "enum" not in node and path not in (".apiVersion", ".kind"):
            assert "maxLength" in node, path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path


def test_rules_hold_for_defaults_as_they_are_written(api_server):
    """A server asks them before it fills in the defaults inside a default, and refuses the CRD."""
    assert [path for path, node in NODES.items() if not api_server.default_holds(node)] == []


def test_lists_of_named_things_are_maps():
    keys = {
        path: node["x-kubernetes-list-map-keys"] for path, node in NODES.items() if "x-kubernetes-list-map-keys" in node
    }
    assert keys == {
        ".spec.teachers": ["name"],
        ".status.conditions": ["type"],
        ".status.teachers": ["name"],
        ".status.memoryPlan.teachers": ["name"],
    }


def test_server_side_defaults_are_those_of_the_types(make_document, api_server):
    stored, by_schema, by_cel = api_server.admit(make_document(""))
    assert (by_schema, by_cel) == (set(), set())
    job = job_from_document(make_document(""))
    assert stored == job.model_dump(mode="json", exclude_none=True)


def test_status_has_no_defaults():
    assert [path for path, node in NODES.items() if path.startswith(".status") and "default" in node] == []


def test_columns_point_at_fields_that_exist():
    version = crd()["spec"]["versions"][0]
    for column in version["additionalPrinterColumns"]:
        if column["jsonPath"] != ".metadata.creationTimestamp":
            assert NODES[column["jsonPath"]]["type"] == column["type"], column
    always = [column["name"].upper() for column in version["additionalPrinterColumns"] if "priority" not in column]
    assert always == ["PHASE", "STEP", "KL", "REWARD", "TEACHER", "AGE"]


def test_every_cel_rule_points_at_a_field_and_has_a_one_line_message():
    for path, node in NODES.items():
        for rule in node.get("x-kubernetes-validations", ()):
            assert "\n" not in rule["message"] and len(rule["message"]) < 1024, rule
            if path:
                assert path + rule["fieldPath"] in NODES, rule


EDITS = [pytest.param(*case, id=sentence) for sentence, case in table("edits.yaml").items()]


@pytest.mark.parametrize(("changes", "want_allowed"), EDITS)
@pytest.mark.parametrize("was_suspended", [False, True])
def test_update(make_document, api_server, changes, want_allowed, was_suspended):
    old, *_ = api_server.admit(make_document(f"suspend: {str(was_suspended).lower()}"))
    new, by_schema, _ = api_server.admit(make_document(changes))
    assert by_schema == set()
    rules = [rule["rule"] for rule in SPEC["x-kubernetes-validations"] if "oldSelf" in rule["rule"]]
    allowed = all(api_server.holds(rule, self=(SPEC, new["spec"]), oldSelf=(SPEC, old["spec"])) for rule in rules)
    assert allowed == (want_allowed or was_suspended)


def test_every_field_of_spec_is_mutable_on_purpose_or_guarded():
    guarded = {rule["fieldPath"][1:] for rule in SPEC["x-kubernetes-validations"] if "oldSelf" in rule["rule"]}
    assert guarded | {"suspend", "runPolicy"} == {field.alias for field in Spec.model_fields.values()}


def test_types_are_frozen(make_document):
    job = job_from_document(make_document(""))
    before = copy.deepcopy(job)
    with pytest.raises(ValueError, match="frozen"):
        job.spec.rollout.batch_size = 1  # type: ignore[misc]
    assert job == before
