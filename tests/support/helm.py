"""The real helm, as a user of one cluster calls it. Knows where the chart is and nothing about what is in it."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "charts" / "opd-operator"
RELEASE, NAMESPACE = "opd-operator", "opd-system"

type Manifest = dict[str, Any]


class HelmFailed(Exception):
    """What was asked, and what helm said."""


class Helm:
    """`program` with `kubeconfig`; its caches and configuration go into `home`."""

    def __init__(self, program: Path, kubeconfig: Path, home: Path) -> None:
        self.program = program
        self.environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            **{f"HELM_{each}_HOME": str(home / each.lower()) for each in ("CACHE", "CONFIG", "DATA")},
        }

    def __call__(self, *arguments: str | Path, values: Mapping[str, Any] | None = None) -> str:
        """What it prints; `values` are the user's. Raises HelmFailed."""
        given = ["--values", "-"] if values is not None else []
        done = subprocess.run(
            [self.program, *arguments, *given],
            input=json.dumps(values or {}),
            env=self.environment,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise HelmFailed(f"helm {' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return done.stdout

    def install(self, values: Mapping[str, Any], *, namespace: str = NAMESPACE, chart: Path = CHART) -> str:
        return self("install", RELEASE, chart, "--namespace", namespace, values=values)

    def upgrade(self, values: Mapping[str, Any], *, namespace: str = NAMESPACE, chart: Path = CHART) -> str:
        return self("upgrade", RELEASE, chart, "--namespace", namespace, values=values)

    def uninstall(self, *, namespace: str = NAMESPACE) -> str:
        return self("uninstall", RELEASE, "--namespace", namespace)

    def manifests(self, values: Mapping[str, Any], *, namespace: str = NAMESPACE) -> list[Manifest]:
        """Everything it renders, hooks too; asks no cluster."""
        rendered = self("template", RELEASE, CHART, "--namespace", namespace, values=values)
        return [document for document in yaml.safe_load_all(rendered) if document]


def find(manifests: Sequence[Manifest], kind: str, name: str = "") -> Manifest:
    """The only one of its kind, or of that name."""
    (found,) = (each for each in manifests if each["kind"] == kind and name in ("", each["metadata"]["name"]))
    return found
