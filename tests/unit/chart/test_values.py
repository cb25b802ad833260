"""Values, their schema, the README and the operator's own defaults say the same. Templates are tests/controlplane's."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kubernetes.utils.quantity import parse_quantity

from opd_operator.settings import Settings

ROOT = Path(__file__).parents[3]


def test_the_readme_is_in_step_with_the_values(readme):
    assert readme.main(["--check"]) == 0, "run `make generate`"


def test_a_value_without_a_comment_is_an_error(readme):
    with pytest.raises(ValueError, match=r"runtime\.rayVersion has no comment"):
        list(readme.values("runtime:\n  # -- Some.\n  image: x\n  rayVersion: 1\n"))


def test_the_schema_accepts_the_defaults(schema, values):
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(values, schema, jsonschema.Draft7Validator)


def test_the_schema_knows_exactly_the_values_there_are(schema, values):
    """Both ways, down to where the user decides on the keys."""

    def compare(described: dict[str, Any], given: dict[str, Any], path: str) -> None:
        described = schema["definitions"][described["$ref"].rpartition("/")[2]] if "$ref" in described else described
        if "properties" not in described:
            return
        assert set(described["properties"]) - {"global"} == set(given), path
        assert described["additionalProperties"] is False, path
        for key, value in given.items():
            compare(described["properties"][key], value, f"{path}.{key}")

    compare(schema, values, "values")


@pytest.mark.parametrize(
    ("given", "path"),
    [
        pytest.param("logLevel: info", "logLevel", id="a level in the wrong case"),
        pytest.param("replicas: 0", "replicas", id="no operator at all"),
        pytest.param("replicas: two", "replicas", id="a number in words"),
        pytest.param("replica: 2", "", id="a misspelt value"),
        pytest.param("runtime: {image: {tags: v1}}", "runtime.image", id="a misspelt value further down"),
        pytest.param("runtime: {gpuMemory: 80}", "runtime.gpuMemory", id="memory without a unit"),
        pytest.param("runtime: {gpuMemory: 80GB}", "runtime.gpuMemory", id="memory in a unit that is no quantity's"),
        pytest.param("runtime: {networkPolicies: 'yes'}", "runtime.networkPolicies", id="a word for a boolean"),
        pytest.param("runtime: {stopGraceSeconds: -1}", "runtime.stopGraceSeconds", id="negative seconds"),
        pytest.param("runtime: {rayVersion: 2.6}", "runtime.rayVersion", id="a version that YAML took for a number"),
        pytest.param("watchNamespaces: team-a", "watchNamespaces", id="one namespace and no list"),
        pytest.param("watchNamespaces: [Team]", "watchNamespaces.0", id="no namespace's name"),
        pytest.param("watchNamespaces: [a, a]", "watchNamespaces", id="a namespace twice"),
        pytest.param("image: {pullPolicy: always}", "image.pullPolicy", id="a policy in the wrong case"),
        pytest.param("image: {tag: 'sha256:00'}", "image.tag", id="a digest without its tag"),
        pytest.param(
            "extraEnv: [{name: OPD_KEY_SEED, value: x}]", "extraEnv.0.name", id="environment that is the chart's"
        ),
        pytest.param("metrics: {serviceMonitor: {interval: 30}}", "metrics.serviceMonitor.interval", id="bare seconds"),
        pytest.param("podAnnotations: {a: 1}", "podAnnotations.a", id="an annotation that is no string"),
    ],
)
def test_a_wrong_value_is_refused_at_its_path(schema, given, path):
    errors = list(jsonschema.Draft7Validator(schema).iter_errors(yaml.safe_load(given)))
    assert [".".join(map(str, error.absolute_path)) for error in errors] == [path]


def test_the_chart_and_a_shell_start_the_operator_with_the_same_settings(metadata, values):
    runtime, policy = values["runtime"], values["runtime"]["image"]["pullPolicy"]
    of_chart = Settings(
        namespaces=tuple(values["watchNamespaces"]),
        runtime_image=f"{runtime['image']['repository']}:{runtime['image']['tag'] or metadata['appVersion']}",
        image_pull_policy=policy,
        image_pull_secrets=tuple(runtime["imagePullSecrets"]),
        ray_version=runtime["rayVersion"],
        gpu_memory_bytes=int(parse_quantity(runtime["gpuMemory"])),
        gpu_memory_label=runtime["gpuMemoryLabel"],
        network_policies=runtime["networkPolicies"],
        stop_grace_seconds=runtime["stopGraceSeconds"],
    )
    assert of_chart == Settings()


def test_every_setting_reaches_the_operator(chart):
    names = {f"OPD_{field.name.upper().removesuffix('_BYTES')}" for field in fields(Settings)} | {"OPD_LOG_LEVEL"}
    deployment = (chart / "templates" / "deployment.yaml").read_text()
    assert {line.split()[-1] for line in deployment.splitlines() if "- name: OPD_" in line} == names


def test_the_chart_has_the_versions_of_what_it_installs(metadata):
    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{metadata["appVersion"]}"' in project
    locked = (ROOT / "requirements" / "requirements.lock").read_text()
    assert f"ray=={Settings().ray_version}\n" in locked


@pytest.mark.parametrize("file", ["examples/volumes.yaml", "runtime/Dockerfile", "docs/install.md"])
def test_where_an_image_is_named_it_is_the_charts(file, metadata):
    versions = re.findall(r"opd-(?:runtime|operator):([\w.]+)", (ROOT / file).read_text())
    assert versions
    assert set(versions) == {metadata["appVersion"]}


def test_the_catalogue_entry_names_the_images_and_the_kind(chart, metadata, values):
    annotations = metadata["annotations"]
    images = {image["image"] for image in yaml.safe_load(annotations["artifacthub.io/images"])}
    wanted = (values["image"], values["runtime"]["image"])
    assert images == {f"{image['repository']}:{metadata['appVersion']}" for image in wanted}
    crd = yaml.safe_load((chart / "files" / "opdjobs.opd.dev.yaml").read_text())
    (entry,) = yaml.safe_load(annotations["artifacthub.io/crds"])
    assert entry["name"] == crd["metadata"]["name"]
    assert entry["version"] == crd["spec"]["versions"][0]["name"]
