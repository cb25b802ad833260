"""The children of every kind of job, as YAML that is read when it changes.

    OPD_WRITE_SNAPSHOTS=1 pytest tests/unit/operator/build/test_snapshots.py

writes them anew: look at the difference before it is committed. Whether Kubernetes takes them is asked in
tests/controlplane/test_children.py.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from child_jobs import JobCase, cases

from opd_operator.objects import Manifest

SNAPSHOTS = Path(__file__).parent / "snapshots"
WRITE = os.environ.get("OPD_WRITE_SNAPSHOTS") == "1"
CASES = cases()

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


class Dumper(yaml.SafeDumper):
    """No anchors, and texts of several lines as such."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: Dumper, data: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


Dumper.add_representer(str, _text)


def snapshots_of(case: JobCase) -> dict[str, str]:
    """By file name: the kind, and what the child's name adds to the job's."""
    return {_file_name(case, child): _yaml(child) for child in case.children()}


def _file_name(case: JobCase, child: Manifest) -> str:
    suffix = child["metadata"]["name"].removeprefix(case.job.metadata.name)
    return f"{child['kind']}{suffix}.yaml"


def _yaml(child: Manifest) -> str:
    return yaml.dump(child, Dumper=Dumper, sort_keys=False, width=120)


@each_case
def test_children_are_those_of_the_snapshot(case: JobCase) -> None:
    folder, wanted = SNAPSHOTS / case.job.metadata.name, snapshots_of(case)
    if WRITE:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in wanted.items():
            (folder / name).write_text(text)
    assert {name: (folder / name).read_text() for name in wanted} == wanted


@each_case
def test_no_snapshot_is_left_of_a_child_that_is_gone(case: JobCase) -> None:
    folder, wanted = SNAPSHOTS / case.job.metadata.name, snapshots_of(case)
    stale = {path.name for path in folder.iterdir()} - wanted.keys()
    for name in stale if WRITE else ():
        (folder / name).unlink()
    assert WRITE or not stale


@each_case
def test_the_same_job_gives_the_same_bytes(case: JobCase) -> None:
    again = cases()[case.job.metadata.name]
    assert snapshots_of(again) == snapshots_of(case)
