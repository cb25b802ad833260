"""`opd run` as a user runs it: a process of its own, on the arithmetic example, watched through its run folder."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from opd_api.load import load_job_file

REPOSITORY = Path(__file__).parents[3]
ARITHMETIC = REPOSITORY / "examples" / "arithmetic"
REASONING = REPOSITORY / "examples" / "reasoning"
STEPS = load_job_file(ARITHMETIC / "opdjob.yaml").spec.steps
DEADLINE_SECONDS = 400
"""For whatever a test waits for: a start alone takes a minute where other processes want the cores too."""


@dataclass
class OpdRun:
    """One `opd run`. `seen` are all the processes it ever had, as far as they were looked at."""

    run_dir: Path
    process: subprocess.Popen[str]
    seen: dict[int, psutil.Process] = field(default_factory=dict)

    def steps(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl; a half-written last line is not there yet."""
        path = self.run_dir / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def assert_engine_had_the_trainers_weights(self) -> None:
        """On average at every step; of 10^5 sampled tokens rounding may move an unlikely one further."""
        trained = [record for record in self.steps() if record["step"] > 0]
        assert max(record["logprob/engine_vs_trainer_abs_mean"] for record in trained) <= 1e-5
        assert max(record["logprob/engine_vs_trainer_abs_max"] for record in trained) <= 1e-3

    def progress(self) -> dict[str, Any]:
        return json.loads((self.run_dir / "progress.json").read_text())

    def wait_for_step(self, step: int) -> None:
        wait_until(lambda: any(record["step"] >= step for record in self.steps()), f"step {step}", self)

    def descendants(self) -> list[psutil.Process]:
        found = psutil.Process(self.process.pid).children(recursive=True)
        self.seen |= {process.pid: process for process in found}
        return found

    def find(self, words: str) -> psutil.Process:
        """The one process under this run whose command line has `words`."""
        found = [process for process in self.descendants() if words in command_line(process)]
        assert len(found) == 1, [command_line(process) for process in found]
        return found[0]

    def server(self, model: str) -> psutil.Process:
        """The SGLang server of the model folder `model`: its guardian's child, and no fork of its own."""
        lines = {process: command_line(process) for process in self.descendants()}
        guardians = {process.pid for process, line in lines.items() if "guardian.py" in line}
        servers = [p for p, line in lines.items() if "guardian.py" not in line and f"/{model} " in line]
        [found] = [server for server in servers if parent_of(server) in guardians]
        return found

    def signal(self, number: signal.Signals) -> None:
        """To the whole foreground group, as a terminal does."""
        self.descendants()
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """The driver, and it alone, without warning."""
        self.descendants()
        self.process.kill()
        self.process.wait(DEADLINE_SECONDS)

    def end(self) -> tuple[int, str]:
        """Exit code and everything it printed."""
        output, _ = self.process.communicate(timeout=DEADLINE_SECONDS)
        return self.process.returncode, output

    def all_gone(self) -> None:
        """None of the processes seen is left. A zombie whose parent is this container's init counts as gone."""
        wait_until(lambda: not any(alive(process) for process in self.seen.values()), "every process to end")


def wait_until(condition: Callable[[], bool], what: str, run: OpdRun | None = None) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if run is not None and run.process.poll() is not None:
            pytest.fail(f"opd run ended while the test waited for {what}:\n{run.process.communicate()[0]}")
        if time.monotonic() > deadline:
            pytest.fail(f"no {what} after {DEADLINE_SECONDS} s")
        time.sleep(0.05)


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def parent_of(process: psutil.Process) -> int:
    """Its pid; 0 when the process has ended."""
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return 0


StartRun = Callable[..., OpdRun]


def start_opd_run(job: Path, run_dir: Path, *options: str, **sets: object) -> OpdRun:
    """`sets` are fields of spec, two underscores for a dot."""
    assignments = [f"--set={name.replace('__', '.')}={value}" for name, value in sets.items()]
    volume = f"--volume=opd-examples={REPOSITORY / 'examples'}"
    argv = [sys.executable, "-m", "opd_runtime.cli", "run", str(job), f"--run-dir={run_dir}", volume]
    process = subprocess.Popen(
        [*argv, *options, *assignments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    return OpdRun(run_dir, process)


@pytest.fixture(scope="module")
def start_run() -> Iterator[StartRun]:
    """Starts `opd run`; whatever a failing test leaves is killed."""
    runs: list[OpdRun] = []

    def start(job: Path, run_dir: Path, *options: str, **sets: object) -> OpdRun:
        runs.append(start_opd_run(job, run_dir, *options, **sets))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.descendants()
            run.process.kill()
            run.process.communicate()
        for process in run.seen.values():
            if alive(process):
                process.kill()
