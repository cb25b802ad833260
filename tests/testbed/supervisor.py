"""First process of a cluster's PID namespace: starts and ends programs as its input says. Knows nothing of Kubernetes.

Its input ends when the process at the other end does, however that ends; then everything in the namespace is ended, the
last command runs, and the cluster's folder goes. Standard library only: it starts in a few milliseconds.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path


def main(folder: Path, last_command: list[str]) -> None:
    running: dict[str, subprocess.Popen[bytes]] = {}
    for line in sys.stdin:
        order = json.loads(line)
        name, command = order["name"], order["command"]
        if command is None:
            _end(running.pop(name, None))
        elif command:
            _end(running.pop(name, None))
            with (folder / "log" / f"{name}.log").open("ab") as log:
                running[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        ended = {name: process.returncode for name, process in running.items() if process.poll() is not None}
        print(json.dumps(ended), flush=True)
    _end_all()
    if last_command:
        subprocess.run(last_command, stdin=subprocess.DEVNULL)
    shutil.rmtree(folder, ignore_errors=True)


def _end(process: subprocess.Popen[bytes] | None) -> None:
    """As a crash would: what must survive that is what tests are about."""
    if process is not None:
        process.kill()
        process.wait()


def _end_all() -> None:
    """Also what a program has left behind: a container outlives the program that started it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)  # of the first process of a PID namespace: everybody else in it
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
