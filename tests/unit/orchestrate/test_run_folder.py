"""A run's folder belongs to one process, and is never emptied by mistake."""

from pathlib import Path

import pytest

from opd_api.load import job_from_document
from opd_api.spec import OPDJob
from opd_runtime.errors import UserError
from opd_runtime.orchestrate.local import RUN_MARK, run_folder


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
    assert "name: tiny" in (tmp_path / "runs" / "tiny" / RUN_MARK).read_text()


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


def test_a_folder_that_is_no_run_is_never_touched(job: OPDJob, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a run's folder"), run_folder(job, tmp_path, resume=False, fresh=True):
        pass
    assert (tmp_path / "thesis.tex").exists()


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
