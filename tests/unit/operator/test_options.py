"""The operator's settings as the chart's variables give them."""

import pytest

from opd_operator.options import BadOption, settings_from
from opd_operator.settings import Settings


def test_an_empty_environment_gives_the_defaults() -> None:
    assert settings_from({}) == Settings()


def test_every_variable_arrives() -> None:
    assert settings_from(
        {
            "OPD_NAMESPACES": "a, b",
            "OPD_OPERATOR_NAMESPACE": "ops",
            "OPD_RUNTIME_IMAGE": "r:1",
            "OPD_IMAGE_PULL_POLICY": "Never",
            "OPD_IMAGE_PULL_SECRETS": "x,y",
            "OPD_RAY_VERSION": "2.61.0",
            "OPD_GPU_MEMORY": "40Gi",
            "OPD_GPU_MEMORY_LABEL": "",
            "OPD_NETWORK_POLICIES": "false",
            "OPD_KEY_SEED": "s",
            "OPD_STOP_GRACE_SECONDS": "60",
        }
    ) == Settings(
        namespaces=("a", "b"),
        operator_namespace="ops",
        runtime_image="r:1",
        image_pull_policy="Never",
        image_pull_secrets=("x", "y"),
        ray_version="2.61.0",
        gpu_memory_bytes=40 * 2**30,
        gpu_memory_label="",
        network_policies=False,
        key_seed="s",
        stop_grace_seconds=60,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("OPD_GPU_MEMORY", "80 gigs", id="a size that is none"),
        pytest.param("OPD_NETWORK_POLICIES", "yes", id="a switch that is neither true nor false"),
        pytest.param("OPD_STOP_GRACE_SECONDS", "5m", id="seconds with a unit"),
        pytest.param("OPD_IMAGE_PULL_POLICY", "Sometimes", id="a pull policy that Kubernetes does not have"),
    ],
)
def test_a_variable_that_cannot_be_read_is_named_with_what_it_says(name: str, value: str) -> None:
    with pytest.raises(BadOption, match=f"{name}: '{value}'"):
        settings_from({name: value})
