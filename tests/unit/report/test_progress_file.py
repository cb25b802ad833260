"""progress.json: a document the contract's own reader accepts, written whole and not too often."""

import pytest
from pydantic import ValidationError

from opd_api.documents import Progress, parse_progress
from opd_runtime.report.progress import ProgressFile


class Clock:
    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def progress(tmp_path, clock):
    first = Progress(attempt=2, phase="Starting", step=0, total_steps=10, time="2026-01-02T03:04:05Z")
    return ProgressFile(tmp_path / "progress.json", first, clock)


def test_written_document_is_the_one_in_memory(progress):
    progress.update(phase="Training", step=3, metrics={"opd/reverse_kl": 0.25}, trend="Falling")
    assert parse_progress(progress.path.read_bytes()) == progress.document
    assert progress.document.step == 3
    assert progress.document.attempt == 2


def test_document_is_written_at_most_every_five_seconds_and_then_with_all_that_was_missed(progress, clock):
    progress.update(step=1)
    clock.seconds += 4.9
    progress.update(step=2, message="hello")
    assert parse_progress(progress.path.read_bytes()).step == 1
    clock.seconds += 0.2
    progress.update(step=3)
    written = parse_progress(progress.path.read_bytes())
    assert (written.step, written.message) == (3, "hello")


def test_forced_document_does_not_wait(progress):
    progress.update(step=1)
    progress.update(step=2, force=True)
    assert parse_progress(progress.path.read_bytes()).step == 2


def test_nothing_but_the_document_is_left_in_the_folder(progress):
    progress.update(force=True)
    assert [path.name for path in progress.path.parent.iterdir()] == ["progress.json"]


def test_document_that_cannot_be_replaced_stays_as_it_was(progress, monkeypatch):
    progress.update(step=1)

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        progress.update(step=2, force=True)
    assert parse_progress(progress.path.read_bytes()).step == 1


def test_field_that_does_not_fit_the_contract_is_refused(progress):
    with pytest.raises(ValidationError):
        progress.update(step=-1)
    with pytest.raises(ValidationError):
        progress.update(phase="Dancing")
