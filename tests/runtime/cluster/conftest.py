"""A job's cluster on one machine: a Ray that the test started, the mailbox's API server, a teacher, a fake DNS.

`opd train` and `opd serve` are processes of their own with the environment that the operator gives its pods.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from api_server import ApiServer, api_server

from opd_api.load import dump_job, load_job_file
from opd_api.names import teacher_url
from opd_api.spec import Metadata

REPOSITORY = Path(__file__).parents[3]
ARITHMETIC = REPOSITORY / "examples" / "arithmetic"
NAMESPACE, NAME, UID = "ml", "arithmetic", "0f5c9a57-3f0e-4a51-9d3e-6a7a6a3c1f10"
KEY = secrets.token_hex(32)
DEADLINE_SECONDS = 400
"""For whatever a test waits for: a start alone takes a minute where other processes want the cores too."""


@dataclass
class Process:
    """One `opd …`, its output in a file."""

    popen: subprocess.Popen[bytes]
    log: Path

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def exit_code(self) -> int:
        try:
            return self.popen.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {DEADLINE_SECONDS} s:\n{self.output()}")

    def kill(self) -> None:
        """It and all it started; in a session of its own, so nobody else."""
        if self.popen.poll() is None:
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


@dataclass
class JobCluster:
    """What surrounds an attempt. `hosts` are the ready addresses by Service."""

    folder: Path
    api: ApiServer
    environment: dict[str, str]
    service_account: Path
    ray_pid: int
    """Of the process above all of Ray's."""
    processes: list[Process] = field(default_factory=list)

    @property
    def run_dir(self) -> Path:
        return self.folder / "volumes" / "checkpoints" / f"{NAME}-{UID[:8]}"

    @property
    def service(self) -> str:
        return teacher_url(NAME, "teacher", NAMESPACE).removeprefix("http://").rpartition(":")[0]

    def announce(self, *addresses: str) -> None:
        """The teacher's ready addresses from now on."""
        part = self.folder / "hosts.part"
        part.write_text(json.dumps({self.service: addresses}))
        part.rename(self.folder / "hosts.json")

    def write_job(self, **changes: Any) -> Path:
        """The operator's ConfigMap: the arithmetic job filled in, with its uid; `changes` are fields of spec."""
        job = load_job_file(ARITHMETIC / "opdjob.yaml")
        spec = job.spec.model_dump(mode="json") | {"checkpoint": {"claimName": "checkpoints"}}
        job = job.model_copy(
            update={
                "metadata": Metadata(name=NAME, namespace=NAMESPACE, uid=UID),
                "spec": type(job.spec).model_validate_json(json.dumps(spec | changes)),
            }
        )
        file = self.folder / "opdjob.yaml"
        file.write_text(dump_job(job))
        return file

    def serve(self, host: str) -> Process:
        argv = ["serve", self.write_job(), "--host", host, "--port", "30000"]
        return self._start(*argv, log=f"teacher-{host}.log")

    def train(self, attempt: int, file: Path) -> Process:
        account = ["--service-account", self.service_account]
        return self._start("train", file, "--attempt", str(attempt), *account, log=f"attempt-{attempt}.log")

    def _start(self, *argv: object, log: str) -> Process:
        path = self.folder / log
        with path.open("ab") as out:
            popen = subprocess.Popen(
                [sys.executable, "-m", "opd_runtime.cli", *map(str, argv)],
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(Process(popen, path))
        return self.processes[-1]

    def wait_for(self, condition: Callable[[], Any], what: str, process: Process | None = None) -> Any:
        """The first true value of `condition`; a failure when `process` ends meanwhile."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (found := condition()):
            if process is not None and process.popen.poll() is not None:
                pytest.fail(f"it ended while the test waited for {what}:\n{process.output()}")
            if time.monotonic() > deadline:
                pytest.fail(f"no {what} after {DEADLINE_SECONDS} s\n{process.output() if process else ''}")
            time.sleep(0.05)
        return found

    def actor(self, kind: str) -> psutil.Process:
        """The process of the one actor of that kind in this Ray; others have theirs on the same machine."""
        family = {each.pid for each in psutil.Process(self.ray_pid).children(recursive=True)}
        ours = [each for each in psutil.process_iter(["cmdline"]) if each.pid in family]
        [found] = [each for each in ours if f"ray::{kind}" in " ".join(each.info["cmdline"] or ())]
        return found

    def ray(self, code: str) -> Any:
        """The value that `code` leaves in `answer`, asked in a driver of its own."""
        script = f"import json, ray\nray.init(address='auto', log_to_driver=False)\n{code}\nprint(json.dumps(answer))"
        done = subprocess.run(
            [sys.executable, "-c", script], env=self.environment, capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout.splitlines()[-1])


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[tuple[str, dict[str, str], int]]:
    """A head with the resources of both worker groups, and a token: address, environment of its pods, process id."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: sockets lie in it
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "TMPDIR": folder,  # a server that is killed with its guardian leaves its scratch folder
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    port, client_port = free_ports(2)
    resources = json.dumps({"opd-trainer": 1, "opd-engine": 1})
    argv = ["start", "--head", "--block", f"--port={port}", "--num-cpus=0"]
    argv += [f"--resources={resources}", f"--temp-dir={folder}", "--include-dashboard=false"]
    argv += [f"--ray-client-server-port={client_port}", f"--object-store-memory={256 * 2**20}"]
    with open(f"{folder}/start.log", "wb") as log:
        head = subprocess.Popen(
            [Path(sys.executable).parent / "ray", *argv],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        start = Path(folder, "start.log")
        deadline = time.monotonic() + DEADLINE_SECONDS
        while "Ray runtime started" not in start.read_text():
            assert head.poll() is None and time.monotonic() < deadline, start.read_text()
            time.sleep(0.1)
        yield f"127.0.0.1:{port}", environment, head.pid
    finally:
        family = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
        head.terminate()
        head.wait()
        for process in family:
            if process.is_running():
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)  # who outlives a guardian removes its part at the same time


@pytest.fixture
def cluster(ray_cluster: tuple[str, dict[str, str], int], tmp_path: Path) -> Iterator[JobCluster]:
    address, environment, ray_pid = ray_cluster
    claims = tmp_path / "volumes" / "opd-examples"
    for part in ("models", "prompts"):
        shutil.copytree(ARITHMETIC / part, claims / "arithmetic" / part)
    (tmp_path / "volumes" / "checkpoints").mkdir()
    with api_server(tmp_path, NAMESPACE, NAME) as api:
        found = JobCluster(tmp_path, api, {}, api.service_account, ray_pid)
        found.announce()
        found.environment = environment | {
            "RAY_ADDRESS": address,
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(api.port),
            "OPD_VOLUMES": str(tmp_path / "volumes"),
            "OPD_CACHE": str(tmp_path / "cache"),
            "OPD_RUN_DIR": str(found.run_dir),
            "OPD_TEACHER_API_KEY": KEY,
            "PYTHONPATH": str(REPOSITORY / "tests" / "support" / "fake_dns"),
            "FAKE_HOSTS": str(tmp_path / "hosts.json"),
        }
        yield found
        for process in found.processes:
            process.kill()
