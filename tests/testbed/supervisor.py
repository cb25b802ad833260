"""First process of a cluster's PID namespace: starts and ends programs as its input says. Knows nothing of Kubernetes.

Its input ends when the process at the other end does, however that ends; then the programs and the cluster's folder go,
and the kernel ends whatever else is in the namespace. Standard library only: it starts in a few milliseconds.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path


def main(folder: Path) -> None:
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
    for process in running.values():
        _end(process)
    shutil.rmtree(folder, ignore_errors=True)


def _end(process: subprocess.Popen[bytes] | None) -> None:
    """As a crash would: what must survive that is what tests are about."""
    if process is not None:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
