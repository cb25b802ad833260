"""`opd-operator run` as a process of its own, as a user or a pod starts it. Knows no job."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from components import free_port
from waiting import wait_until

START_SECONDS = 30.0
END_SECONDS = 15.0


class OperatorProcess:
    """`with OperatorProcess(...)`: runs and is ready inside. `log` is what it has said."""

    def __init__(
        self,
        kubeconfig: Path,
        log: Path,
        *,
        operator_namespace: str,
        namespaces: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._kubeconfig, self._log = kubeconfig, log
        self._port = free_port()
        self._options = ["--operator-namespace", operator_namespace, "--port", str(self._port)]
        self._options += [part for namespace in namespaces for part in ("--namespace", namespace)]
        self._environment = {"OPD_KEY_SEED": "seed of the tests", **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def start(self) -> None:
        """Again, too: its log goes on."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("OPD_")}
        ends_with_us = ["setpriv", "--pdeathsig", "KILL"]
        run = [sys.executable, "-m", "opd_operator", "run", "--kubeconfig", str(self._kubeconfig)]
        self._begin = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*ends_with_us, *run, *self._options], env=environment | self._environment, stdout=log, stderr=log
            )
        wait_until(self._is_ready, START_SECONDS, lambda: f"the operator is ready:\n{self.said()}")

    def stop(self) -> int:
        """As Kubernetes ends a pod. Its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(END_SECONDS)

    def kill(self) -> None:
        """As a machine dies. What is dead already is fine."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(END_SECONDS)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of /healthz, /readyz or /metrics; (0, "") when nobody answers."""
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(f"http://127.0.0.1:{self._port}{path}", timeout=5, trust_env=False)
            return answer.status_code, answer.text
        return 0, ""

    def metric(self, name: str) -> float:
        """A metric without labels, or one written with them; 0.0 when it is not there."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        return float(found[1]) if found else 0.0

    def leads(self) -> bool:
        return self.metric("opd_operator_leader") == 1.0

    def said(self) -> str:
        """Since its last start."""
        return self._log.read_bytes()[self._begin :].decode(errors="replace")

    def lines(self) -> list[dict[str, Any]]:
        """Its log as data."""
        return [json.loads(line) for line in self.said().splitlines()]

    def _is_ready(self) -> bool:
        assert self.returncode is None, f"the operator ended with {self.returncode}:\n{self.said()}"
        return self.get("/readyz")[0] == 200
