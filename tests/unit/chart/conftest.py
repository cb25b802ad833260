"""The chart's files, parsed. Renders nothing: that needs helm (tests/controlplane)."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def chart() -> Path:
    return ROOT / "charts" / "opd-operator"


@pytest.fixture
def metadata(chart: Path) -> dict[str, Any]:
    """Chart.yaml."""
    return yaml.safe_load((chart / "Chart.yaml").read_text())


@pytest.fixture
def values(chart: Path) -> dict[str, Any]:
    return yaml.safe_load((chart / "values.yaml").read_text())


@pytest.fixture(scope="session")
def schema(chart: Path) -> dict[str, Any]:
    return json.loads((chart / "values.schema.json").read_text())


@pytest.fixture(scope="session")
def readme() -> ModuleType:
    """charts/readme.py, which is no package."""
    spec = importlib.util.spec_from_file_location("chart_readme", ROOT / "charts" / "readme.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
