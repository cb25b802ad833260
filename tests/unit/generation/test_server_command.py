"""Command lines of SGLang servers, what a log says about a death, and the guardian; no server is started."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
import yaml

from opd_runtime.errors import EngineUnavailable, UserError
from opd_runtime.rollout import server as server_module
from opd_runtime.rollout.server import SGLangServer, command, cpu_cache_tokens, write_key

GUARDIAN = Path(server_module.__file__).parent / "guardian.py"


def make_command(tmp_path: Path, **changes):
    settings = {
        "device": "cpu",
        "bf16": False,
        "host": "127.0.0.1",
        "port": 1234,
        "tensor_parallel": 1,
        "memory_fraction": 0.8,
        "weight_version": 3,
        "environ": {"PATH": "/bin", "MASTER_PORT": "1", "PYTHONPATH": "/x", "RANK": "0"},
    }
    argv, env = command(tmp_path, **(settings | changes))
    return argv, env


def value_of(argv: list[str], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_a_cpu_server_runs_the_cpu_launcher_without_graphs(tmp_path):
    argv, env = make_command(tmp_path)
    assert argv[0] == sys.executable and argv[1].endswith("cpu_launch.py")
    assert value_of(argv, "--device") == "cpu" and value_of(argv, "--dtype") == "float32"
    assert value_of(argv, "--weight-version") == "3"
    assert "--sleep-on-idle" in argv and "--mem-fraction-static" not in argv
    assert env["SGLANG_USE_CPU_ENGINE"] == "1"
    assert env["CUDA_VISIBLE_DEVICES"] == "", "this machine may have GPUs"


def test_a_cuda_server_is_sglang_as_released_without_any_stand_in(tmp_path):
    argv, env = make_command(tmp_path, device="cuda", bf16=True, tensor_parallel=4, memory_fraction=0.7)
    assert argv[1:3] == ["-m", "sglang.launch_server"]
    assert value_of(argv, "--tp-size") == "4" and value_of(argv, "--mem-fraction-static") == "0.7"
    assert value_of(argv, "--dtype") == "bfloat16"
    assert "--device" not in argv and "--attention-backend" not in argv
    assert not {"SGLANG_USE_CPU_ENGINE", "CUDA_VISIBLE_DEVICES"} & env.keys() and "stubs" not in "".join(
        [*argv, *env.values()]
    )


def test_a_trainers_rendezvous_never_reaches_a_server(tmp_path):
    _, env = make_command(tmp_path)
    assert env["PATH"] == "/bin" and not {"MASTER_PORT", "RANK", "PYTHONPATH"} & set(env)


def test_a_server_with_a_seed_samples_by_it(tmp_path):
    argv, _ = make_command(tmp_path, seed=43)
    assert value_of(argv, "--random-seed") == "43"
    assert "--random-seed" not in make_command(tmp_path)[0]


def test_the_users_arguments_come_last_and_win(tmp_path):
    argv, _ = make_command(tmp_path, extra_args=("--max-total-tokens", "99"))
    assert argv[-2:] == ["--max-total-tokens", "99"]


def test_a_key_travels_in_a_file_that_only_its_owner_reads(tmp_path):
    argv, env = make_command(tmp_path, key_dir=write_key(tmp_path, 's3cret: "x"'))
    assert not any("s3cret" in text for text in [*argv, *env.values()])
    file = Path(value_of(argv, "--config"))
    assert yaml.safe_load(file.read_text()) == {"api-key": 's3cret: "x"'}
    assert file.stat().st_mode & 0o777 == 0o600


def test_without_a_key_there_is_no_file(tmp_path):
    argv, env = make_command(tmp_path)
    assert "--config" not in argv and "SGLANG_LOGGING_CONFIG_PATH" not in env


@pytest.mark.parametrize(
    ("config", "want"),
    [
        pytest.param({"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}, 131_072, id="tiny model"),
        pytest.param(
            {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576},
            11_650,
            id="135M parameters",
        ),
        pytest.param(
            {"num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128},
            8192,
            id="8B parameters still hold 8192 tokens",
        ),
    ],
)
def test_the_cache_of_a_cpu_server_stays_small(tmp_path, config, want):
    (tmp_path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 40_960}))
    assert cpu_cache_tokens(tmp_path) == want


def dead_server(tmp_path: Path, monkeypatch, script: str, **settings) -> SGLangServer:
    """A server whose process is a Python script instead of SGLang."""
    monkeypatch.setattr(
        server_module, "command", lambda *a, **k: ([sys.executable, "-c", textwrap.dedent(script)], dict(os.environ))
    )
    (tmp_path / "config.json").write_text("{}")
    options = {"device": "cpu", "bf16": False, "memory_fraction": 0.8, "log_path": tmp_path / "server.log"}
    return SGLangServer(tmp_path, **(options | settings))


def test_a_folder_without_a_model_is_refused_before_anything_starts(tmp_path):
    server = SGLangServer(tmp_path, device="cpu", bf16=False, memory_fraction=0.8, log_path=tmp_path / "log")
    with pytest.raises(UserError, match="no model here"):
        server.start()
    assert not server.alive()


@pytest.mark.parametrize(
    ("script", "want_error", "want_message"),
    [
        pytest.param(
            "import sys; print('sglang serve: error: unrecognized arguments: --x'); sys.exit(2)",
            UserError,
            "status 2: bad arguments",
            id="bad arguments",
        ),
        pytest.param(
            "raise OSError('Repo id must be in the form')", UserError, "the model cannot be read", id="a broken model"
        ),
        pytest.param(
            "raise MemoryError('CUDA out of memory. Tried to allocate')", UserError, "out of memory", id="CUDA memory"
        ),
        pytest.param(
            "import os; os.kill(os.getpid(), 9)", UserError, "status 137: out of memory", id="killed by the kernel"
        ),
        pytest.param(
            "import os; print('m.RuntimeError: no kernel\\nkill_process_tree called', flush=True); "
            "os.kill(os.getpid(), 9)",
            EngineUnavailable,
            "status 137: m.RuntimeError: no kernel",
            id="killed by itself",
        ),
        pytest.param(
            "import os; print('scheduler crashed with exit code -9.\\nkill_process_tree called', flush=True); "
            "os.kill(os.getpid(), 9)",
            UserError,
            "status 137: out of memory",
            id="killed by itself, because the kernel killed a part of it",
        ),
        pytest.param("raise SystemExit(3)", EngineUnavailable, "status 3: unknown cause", id="anything else"),
    ],
)
def test_a_server_that_dies_at_start_is_told_with_its_likely_cause(
    tmp_path, monkeypatch, script, want_error, want_message
):
    server = dead_server(tmp_path, monkeypatch, script)
    server.start()
    with pytest.raises(want_error, match=want_message) as caught:
        server.wait_ready(30)
    assert str(server.log_path) in str(caught.value)
    assert not server.alive()


PORT_IN_USE = "raise OSError(98, 'Address already in use')"


def test_a_chosen_port_that_was_taken_meanwhile_is_replaced_once(tmp_path, monkeypatch):
    server = dead_server(tmp_path, monkeypatch, PORT_IN_USE)
    server.start()
    with pytest.raises(EngineUnavailable, match="port in use"):
        server.wait_ready(30)
    assert server.log_path.read_text().count("Traceback") == 2


def test_a_given_port_that_is_taken_is_not_replaced(tmp_path, monkeypatch):
    server = dead_server(tmp_path, monkeypatch, PORT_IN_USE, port=1)
    server.start()
    with pytest.raises(EngineUnavailable, match="port in use"):
        server.wait_ready(30)
    assert server.log_path.read_text().count("Traceback") == 1


def test_a_server_that_never_answers_is_stopped_at_the_timeout(tmp_path, monkeypatch):
    server = dead_server(tmp_path, monkeypatch, "import time; time.sleep(600)")
    waited: list[float] = []
    server.start()
    with pytest.raises(EngineUnavailable, match="does not answer after 0 s"):
        server.wait_ready(0.3, on_wait=waited.append)
    assert not server.alive() and waited == sorted(waited)


TREE = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, 1); time.sleep(600)"])
print(os.getpid(), child.pid, os.environ["TMPDIR"], flush=True)
time.sleep(600)
"""


def gone(pids: list[int], seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def started_tree(server: SGLangServer) -> tuple[list[int], Path]:
    """Processes of TREE and its folder for temporary files, once it has told them."""
    deadline = time.monotonic() + 30
    while len(words := server.log_path.read_text().split()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [int(words[0]), int(words[1])], Path(words[2])


def test_a_server_that_lives_and_whose_port_is_closed_does_not_listen(tmp_path, monkeypatch):
    server = dead_server(tmp_path, monkeypatch, TREE)
    server.start()
    try:
        assert server.alive() and not server.listens()
        with socket.create_server((server.host, server.port)):
            assert server.listens()
    finally:
        server.stop()


@pytest.mark.parametrize("grace_seconds", [None, 5.0])
def test_stop_leaves_no_process_and_no_file(tmp_path, monkeypatch, grace_seconds):
    server = dead_server(tmp_path, monkeypatch, TREE)
    server.start()
    pids, scratch = started_tree(server)
    assert scratch.is_dir() and server.alive()
    family = [process.pid for process in psutil.Process(server.pid).children(recursive=True)]
    server.stop(grace_seconds)
    assert gone([*pids, *family]) and not scratch.exists() and not server.alive()


def test_a_killed_guardian_takes_the_whole_tree_with_it(tmp_path, monkeypatch):
    """As Ray kills it with its keeper. The server's child has not asked the kernel to go with its parent."""
    server = dead_server(tmp_path, monkeypatch, TREE)
    server.start()
    pids, scratch = started_tree(server)
    family = [process.pid for process in psutil.Process(server.pid).children(recursive=True)]
    os.kill(server.pid, signal.SIGKILL)
    assert gone([*pids, *family]) and not scratch.exists() and not server.alive()


def test_a_tree_dies_with_a_parent_that_was_killed(tmp_path):
    """Also when a thread other than the main one started it, and ended long before."""
    log, scratch = tmp_path / "log", tmp_path / "scratch"
    scratch.mkdir()
    script = f"""
        import os, subprocess, sys, threading, time
        def start():
            command = [sys.executable, "-IS", {str(GUARDIAN)!r}, str(os.getpid()), {str(scratch)!r}]
            command += [sys.executable, "-c", {TREE!r}]
            print(subprocess.Popen(command, stdout=open({str(log)!r}, "w"), start_new_session=True).pid, flush=True)
        thread = threading.Thread(target=start); thread.start(); thread.join()
        time.sleep(600)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    try:
        guardian = int(parent.stdout.readline())
        deadline = time.monotonic() + 30
        while len(words := log.read_text().split()) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        pids = [guardian, int(words[0]), int(words[1])]
        # The thread that started them is gone: they must not be.
        assert not gone(pids, seconds=2.0) and all(psutil.pid_exists(pid) for pid in pids)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert gone(pids) and not scratch.exists()
