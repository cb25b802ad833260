"""A run's folder belongs to one process, and is never emptied by mistake."""

from pathlib import Path

import pytest

from opd_api.load import job_from_document
from opd_api.spec import OPDJob
from opd_runtime.errors import UserError
from opd_runtime.orchestrate.local import RUN_MARK, run_folder
from opd_runtime.report.progress import JOB_FILE


@pytest.fixture
def job() -> OPDJob:
    return job_from_document(
        {
            "apiVersion": "opd.dev/v1alpha1",
            "kind": "OPDJob",
            "metadata": {"name": "tiny"},
            "spec": {
                "student": {"model": "file:///m/student"},
                "teachers": [{"mode": "SGLang", "model": "file:///m/teacher"}],
                "data": {"prompts": [{"uri": "file:///m/prompts.jsonl"}]},
                "steps": 3,
            },
        }
    )


def test_a_new_folder_holds_the_job_as_it_runs(job: OPDJob, tmp_path: Path) -> None:
    with run_folder(job, tmp_path / "runs" / "tiny", resume=False, fresh=False):
        pass
    assert "name: tiny" in (tmp_path / "runs" / "tiny" / JOB_FILE).read_text()


def test_a_used_folder_needs_a_decision(job: OPDJob, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    with run_folder(job, folder, resume=False, fresh=False):
        (folder / "metrics.jsonl").write_text("kept\n")
    with (
        pytest.raises(UserError, match="holds an earlier run") as refused,
        run_folder(job, folder, resume=False, fresh=False),
    ):
        pass
    assert "--resume" in refused.value.hint and "--fresh" in refused.value.hint
    with run_folder(job, folder, resume=True, fresh=False):
        assert (folder / "metrics.jsonl").read_text() == "kept\n"
    with run_folder(job, folder, resume=False, fresh=True):
        assert not (folder / "metrics.jsonl").exists()


@pytest.mark.parametrize("flags", [{"resume": False, "fresh": True}, {"resume": True, "fresh": False}])
def test_a_folder_that_is_no_run_is_never_touched(job: OPDJob, tmp_path: Path, flags: dict[str, bool]) -> None:
    """Least of all the one where the user keeps the job's file."""
    own = {"thesis.tex": "years of work", JOB_FILE: "kind: OPDJob"}
    for name, text in own.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="not a run's folder"), run_folder(job, tmp_path, **flags):
        pass
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == own


def test_a_folder_in_use_is_refused(job: OPDJob, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    with run_folder(job, folder, resume=False, fresh=False):
        with pytest.raises(UserError, match="in use"), run_folder(job, folder, resume=True, fresh=False):
            pass
        with pytest.raises(UserError, match="in use"), run_folder(job, folder, resume=False, fresh=True):
            pass
        assert (folder / RUN_MARK).exists()


def test_resuming_where_nothing_ran_starts_from_the_beginning(job: OPDJob, tmp_path: Path) -> None:
    with run_folder(job, tmp_path / "tiny", resume=True, fresh=False):
        pass
