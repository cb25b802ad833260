"""The thresholds of the arithmetic example hold for other seeds too, in both teacher modes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import ARITHMETIC, StartRun


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("job", ["opdjob.yaml", "opdjob-megatron-teacher.yaml"])
def test_the_student_closes_in_on_its_teacher(
    start_run: StartRun, tmp_path: Path, job: str, seed: int, record_property: Callable[[str, object], None]
) -> None:
    run = start_run(ARITHMETIC / job, tmp_path / "run", seed=seed)
    code, output = run.end()
    assert code == 0, output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    kl, scores = summary["reverse_kl"], summary["pass_at_1"]
    record_property("reverse KL first / last", kl["first"] / kl["last"])
    record_property("pass@1 before, after, teacher", "{before:.3f}, {after:.3f}, {teacher:.3f}".format(**scores))
    record_property("seconds", summary["seconds"])
    assert kl["first"] >= 5 * kl["last"]
    assert scores["before"] <= 0.5
    assert scores["after"] >= 0.9
