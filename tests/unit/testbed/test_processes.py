"""Programs in a PID namespace of their own: started, ended, noticed when they end, gone with their maker."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from processes import Processes
from programs import ClusterUnavailable
from waiting import wait_until

DEADLINE_SECONDS = 20.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cluster"


@pytest.fixture
def processes(folder: Path) -> Iterator[Processes]:
    processes = Processes(folder)
    yield processes
    processes.close()


def names(processes: Processes) -> list[str]:
    return sorted(each.name() for each in psutil.Process(processes.pid).children(recursive=True))


def test_a_program_runs_until_it_is_stopped(processes: Processes):
    processes.start("sleeper", ["sleep", "1000"])
    assert "sleep" in names(processes)
    processes.stop("sleeper")
    assert "sleep" not in names(processes)
    assert processes.ended() == {}


def test_starting_again_replaces_and_stopping_twice_is_fine(processes: Processes):
    processes.start("sleeper", ["sleep", "1000"])
    processes.start("sleeper", ["sleep", "1001"])
    assert names(processes).count("sleep") == 1
    processes.stop("sleeper")
    processes.stop("sleeper")


def test_a_program_that_ends_by_itself_is_noticed_with_its_last_words(processes: Processes):
    processes.start("talker", ["sh", "-c", "echo hello; exit 3"])
    wait_until(lambda: processes.ended() == {"talker": 3}, DEADLINE_SECONDS, "the end is noticed")
    assert processes.log_tail("talker") == "hello"
    assert processes.log_tail("nobody") == ""


def test_closing_ends_all_and_takes_the_folder(folder: Path):
    processes = Processes(folder)
    processes.start("stubborn", ["sh", "-c", "trap '' TERM INT; while :; do sleep 1; done"])
    programs = psutil.Process(processes.pid).children(recursive=True)
    processes.close()
    assert not folder.exists()
    assert [each for each in programs if each.is_running()] == []


def test_a_killed_parent_takes_all_with_it(folder: Path):
    processes = Processes(folder)
    processes.start("sleeper", ["sleep", "1000"])
    programs = psutil.Process(processes.pid).children(recursive=True)
    os.kill(processes.pid, signal.SIGKILL)
    wait_until(lambda: not any(each.is_running() for each in programs), DEADLINE_SECONDS, f"{programs} are gone")
    processes.close()


def test_a_machine_without_namespaces_for_the_user_is_told_so_with_what_to_do(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    unshare = tmp_path / "unshare"
    unshare.write_text("#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2\nexit 1\n")
    unshare.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ClusterUnavailable, match=r"(?s)Operation not permitted\nhint: run as root"):
        Processes(folder).start("sleeper", ["sleep", "1000"])
