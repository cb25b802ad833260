"""The programs of one cluster, in a PID namespace that ends when this process does. Knows nothing of Kubernetes."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from programs import ClusterUnavailable

SUPERVISOR = Path(__file__).parent / "supervisor.py"
END_SECONDS = 20.0


class Processes:
    """Starts and ends programs by name; their output goes to `folder`/log/NAME.log.

    Making a PID namespace takes root; others get one inside a user namespace, where the machine allows that.
    """

    def __init__(
        self, folder: Path, *, namespaces: Sequence[str] = (), last_command: Sequence[str | Path] = ()
    ) -> None:
        """`namespaces`: unshare's options for more of them. `last_command` runs when all programs have ended."""
        self.folder = folder
        (folder / "log").mkdir(parents=True, exist_ok=True)
        as_root = () if os.geteuid() == 0 else ("--user", "--map-root-user")
        self._turn = threading.Lock()
        unshare = ["unshare", *as_root, "--pid", *namespaces, "--fork", "--kill-child"]
        self._supervisor = subprocess.Popen(
            [*unshare, sys.executable, "-I", SUPERVISOR, folder, *last_command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # an interrupt is for us; the cluster is still needed to tidy up
        )

    def start(self, name: str, command: Sequence[str | Path]) -> None:
        """A program of that name that still runs is ended first."""
        self._order(name, [str(part) for part in command])

    def stop(self, name: str) -> None:
        """With SIGKILL; returns when it is gone."""
        self._order(name, None)

    def ended(self) -> dict[str, int]:
        """Exit statuses of programs that nobody has stopped."""
        return self._order("", [])

    def log_tail(self, name: str, lines: int = 15) -> str:
        path = self.folder / "log" / f"{name}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.is_file() else ""

    def close(self) -> None:
        """Ends everything; the folder is gone too."""
        try:
            self._supervisor.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.communicate()

    @property
    def pid(self) -> int:
        """Parent of all, seen from outside."""
        return self._supervisor.pid

    def _order(self, name: str, command: list[str] | None) -> dict[str, int]:
        assert self._supervisor.stdin and self._supervisor.stdout and self._supervisor.stderr
        with self._turn:
            try:
                self._supervisor.stdin.write(json.dumps({"name": name, "command": command}) + "\n")
                self._supervisor.stdin.flush()
                answer = self._supervisor.stdout.readline()
            except BrokenPipeError:
                answer = ""
        if not answer:
            said = self._supervisor.stderr.read().strip()
            hint = "" if os.geteuid() == 0 else "\nhint: run as root, or allow user namespaces to other users"
            raise ClusterUnavailable(f"the cluster's first process has ended: {said}{hint}")
        return dict(json.loads(answer))
