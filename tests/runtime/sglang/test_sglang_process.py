"""A real SGLang server as a process: it dies with its parent, stops clean, and says why it could not start."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from opd_runtime.errors import EngineUnavailable, UserError
from opd_runtime.rollout import server as server_module
from opd_runtime.rollout.server import SGLangServer


def gone(pids: Sequence[int], seconds: float) -> bool:
    """Waits until none of the processes lives."""
    deadline = time.monotonic() + seconds
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def tree_of(root: psutil.Process, at_least: int) -> list[psutil.Process]:
    """The process and all it started, once they are so many."""
    deadline = time.monotonic() + 30
    while len(tree := [root, *root.children(recursive=True)]) < at_least:
        assert time.monotonic() < deadline, tree
        time.sleep(0.02)
    return tree


@pytest.fixture(scope="module")
def start(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., SGLangServer]]:
    """A server that has been told to start; it is stopped after the last test."""
    servers: list[SGLangServer] = []

    def start(model: Path = tiny_model, **options: Any) -> SGLangServer:
        log = tmp_path_factory.mktemp("server") / "server.log"
        servers.append(SGLangServer(model, device="cpu", bf16=False, memory_fraction=0.8, log_path=log, **options))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def failing(
    start: Callable[..., SGLangServer], tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, SGLangServer]]:
    """Side by side: imports are most of a start, on one core."""
    without_weights = tmp_path_factory.mktemp("model")
    (without_weights / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield {"weights": start(without_weights), "port": start(port=other.getsockname()[1])}


def test_a_model_without_weights_is_named_as_the_cause(failing):
    with pytest.raises(UserError, match="the model cannot be read"):
        failing["weights"].wait_ready(120)


def test_a_port_in_use_is_named_as_the_cause(failing):
    with pytest.raises(EngineUnavailable, match="port in use"):
        failing["port"].wait_ready(120)
    assert not failing["port"].alive()


@pytest.mark.full
def test_a_port_that_was_taken_meanwhile_is_chosen_anew(start, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        free = server_module.free_port("127.0.0.1")
        choices = iter([other.getsockname()[1], free])
        monkeypatch.setattr(server_module, "free_port", lambda host: next(choices))
        server = start()
        server.wait_ready(240)
        assert server.port == free


@pytest.mark.full
def test_an_argument_that_sglang_does_not_know_is_named_as_the_cause(start):
    with pytest.raises(UserError, match="unrecognized arguments: --no-such-flag"):
        start(extra_args=("--no-such-flag",)).wait_ready(120)


PARENT = """
    import sys, time
    from pathlib import Path
    from opd_runtime.rollout.server import SGLangServer
    server = SGLangServer(Path({model!r}), device="cpu", bf16=False, memory_fraction=0.8, log_path=Path({log!r}))
    server.start()
    print(server.pid, flush=True)
    if {ready}:
        server.wait_ready(240)
        print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    "ready",
    [
        pytest.param(True, id="while it serves"),
        pytest.param(False, id="while it still imports", marks=pytest.mark.full),
    ],
)
def test_killing_the_parent_leaves_no_process(tiny_model: Path, tmp_path: Path, ready: bool):
    script = textwrap.dedent(PARENT.format(model=str(tiny_model), log=str(tmp_path / "server.log"), ready=ready))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    try:
        guardian = psutil.Process(int(parent.stdout.readline()))
        if ready:
            assert parent.stdout.readline() == "ready\n", (tmp_path / "server.log").read_text()[-2000:]
        # Guardian and launcher; once it serves, scheduler and detokenizer.
        tree = tree_of(guardian, at_least=4 if ready else 2)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert gone([process.pid for process in tree], seconds=15)
