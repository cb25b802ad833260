"""Processes that are trainer ranks, shared by all tests of this folder: importing Megatron takes longer than a test."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest
from trainer_fixtures import hf_logprobs, make_batch, make_config, tiny_model  # noqa: F401

from opd_runtime.config import TrainConfig

DEADLINE_SECONDS = 240
"""For one call; a first one imports torch, Megatron and transformers while other processes may want the cores."""
GRACE_SECONDS = 5
"""For the other ranks, once one has failed: those that wait for it are killed then."""


class Ranks:
    """Rank processes, two at most. When one fails to answer all are killed; successors start with the next call."""

    def __init__(self, log_dir: Path) -> None:
        self.log_dir = log_dir
        self._processes: list[tuple[subprocess.Popen[bytes], Connection]] = []
        self._start(2)

    def run(self, function: Callable[..., Any], *arguments: Any, world_size: int = 1) -> list[Any]:
        """function(*arguments) of a test file in each of `world_size` ranks: their results, or the first error."""
        return self._call(function, None, arguments, world_size)

    def train(self, function: Callable[..., Any], cfg: TrainConfig, *arguments: Any) -> Any:
        """function(trainer, *arguments) in each rank of `cfg`; rank 0's result."""
        return self._call(function, cfg, arguments, cfg.world_size)[0]

    def _call(self, function: Callable[..., Any], cfg: Any, arguments: tuple[Any, ...], world_size: int) -> list[Any]:
        self._start(world_size)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
        links = [link for _, link in self._processes[:world_size]]
        for rank, link in enumerate(links):
            environment = {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": "0", **address}
            link.send((environment, function.__code__.co_filename, function.__name__, cfg, arguments))
        return self._answers(links)

    def _answers(self, links: list[Connection]) -> list[Any]:
        answers: dict[Connection, Any] = {}
        failure: BaseException | None = None
        until = time.monotonic() + DEADLINE_SECONDS
        while len(answers) < len(links):
            ready = wait([link for link in links if link not in answers], max(until - time.monotonic(), 0))
            if not ready:
                break
            for link in ready:
                try:
                    good, answers[link] = link.recv()
                except EOFError:
                    good, answers[link] = False, RuntimeError(f"a rank process died, see {self.log_dir}")
                if not good and failure is None:
                    failure = answers[link]
                    until = min(until, time.monotonic() + GRACE_SECONDS)
        if len(answers) < len(links) or isinstance(failure, RuntimeError):
            self.close()
        if failure is not None:
            raise failure
        assert len(answers) == len(links), f"no answer within {DEADLINE_SECONDS} s, see {self.log_dir}"
        return [answers[link] for link in links]

    def _start(self, count: int) -> None:
        """Returns at once; a process is ready when it has answered."""
        program = Path(__file__).with_name("rank_process.py")
        for rank in range(len(self._processes), count):
            ours, theirs = Pipe()
            with (self.log_dir / f"rank-{rank}.log").open("ab") as output:
                process = subprocess.Popen(
                    [sys.executable, "-W", "ignore", str(program), str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=os.environ
                    | {
                        "OMP_NUM_THREADS": "1",
                        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                        "CUDA_VISIBLE_DEVICES": "",  # on CPU also where there are GPUs
                    },
                )
            theirs.close()
            self._processes.append((process, ours))

    def close(self) -> None:
        for process, link in self._processes:
            link.close()
            process.kill()
            process.wait()
        self._processes = []


@pytest.fixture(scope="session", autouse=True)
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    pool = Ranks(tmp_path_factory.mktemp("ranks"))
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def logprobs_of(ranks: Ranks) -> Callable[..., Any]:
    """A trainer's log-probs of a batch; `model`: student, teacher or reference."""

    def score(cfg: TrainConfig, batch: Any, model: str = "student") -> Any:
        return ranks.train(_logprobs, cfg, batch, model)

    return score


def _logprobs(trainer: Any, batch: Any, model: str) -> Any:
    return trainer.logprobs(batch, model)
