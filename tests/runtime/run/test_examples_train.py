"""The examples' jobs reach what their pages promise: the arithmetic one for other seeds too, in both teacher modes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import ARITHMETIC, REASONING, StartRun

Summary = dict[str, Any]


@pytest.fixture
def train(
    start_run: StartRun, tmp_path: Path, record_property: Callable[[str, object], None]
) -> Callable[..., Summary]:
    """Runs a job to its end; its summary, with the figures put into the report."""

    def train(job: Path, **sets: object) -> Summary:
        code, output = start_run(job, tmp_path / "run", **sets).end()
        assert code == 0, output
        summary: Summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        kl = summary["reverse_kl"]
        record_property("reverse KL first / last", kl["first"] / kl["last"])
        record_property(
            "pass@1 before, after, teacher", "{before:.3f}, {after:.3f}, {teacher:.3f}".format(**summary["pass_at_1"])
        )
        record_property("seconds", summary["seconds"])
        return summary

    return train


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("job", ["opdjob.yaml", "opdjob-megatron-teacher.yaml"])
def test_the_student_closes_in_on_its_teacher(train: Callable[..., Summary], job: str, seed: int) -> None:
    summary = train(ARITHMETIC / job, seed=seed)
    assert summary["reverse_kl"]["first"] >= 5 * summary["reverse_kl"]["last"]
    assert summary["pass_at_1"]["before"] <= 0.5
    assert summary["pass_at_1"]["after"] >= 0.9


@pytest.mark.full
def test_a_task_with_a_verifier_of_its_own_is_learned_too(train: Callable[..., Summary]) -> None:
    summary = train(REASONING / "opdjob.yaml")
    assert summary["reverse_kl"]["first"] >= 5 * summary["reverse_kl"]["last"]
    assert summary["pass_at_1"]["after"] >= summary["pass_at_1"]["before"] + 0.3
