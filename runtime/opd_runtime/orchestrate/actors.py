"""The two kinds of Ray process of a job: a trainer rank and a rollout engine's keeper. Each wraps a class that knows no Ray."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..batch import Batch
from ..config import TrainConfig


class TrainerActor:
    """One Megatron rank. Every rank gets the same calls in the same order: they are collectives."""

    def __init__(self, rank: int, world_size: int) -> None:
        # Ray shows each actor only its own GPU, so the local rank is always 0.
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK="0")

    def rendezvous(self) -> tuple[str, int]:
        """Address and free port for torch.distributed; asked of rank 0 only."""
        host = _node_address()
        with socket.socket() as probe:
            probe.bind((host, 0))
            return host, probe.getsockname()[1]

    def build(self, cfg: TrainConfig, host: str, port: int, resume: bool) -> tuple[int, dict[str, Any]] | None:
        """Model(s) with their weights; with `resume` the newest complete checkpoint: its step and the driver's state."""
        os.environ.update(MASTER_ADDR=host, MASTER_PORT=str(port))
        from ..megatron.trainer import Trainer

        self.trainer = Trainer(cfg)
        return self.trainer.load_latest() if resume else None

    def train_step(self, batch: Batch, step: int):
        return self.trainer.train_step(batch, step)

    def teacher_greedy(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        return self.trainer.teacher_greedy(prompts, max_new_tokens)

    def sync(self, transport: str, urls: Sequence[str], version: int, scratch_dir: Path):
        """The student's weights to the engines at `urls`, with proof. Other ranks take part in the export only."""
        from .weight_sync import WeightSender

        if self.trainer.rank != 0:
            for _ in self.trainer.named_weights():
                pass
            return None
        key = (transport, tuple(urls))
        if getattr(self, "_sender_key", None) != key:
            self.disconnect()
            self._sender = WeightSender(transport, urls, scratch_dir=scratch_dir)
            self._sender.connect()
            self._sender_key = key
        return self._sender.send(self.trainer.named_weights(), version)

    def disconnect(self) -> None:
        """Forgets the engines: after one restarted, its connections are void."""
        if getattr(self, "_sender_key", None) is not None:
            self._sender.close()
            self._sender_key = None

    def save(self, step: int, driver_state: dict[str, Any]) -> Path:
        return self.trainer.save(step, driver_state)

    def export(self, path: Path) -> None:
        self.trainer.export_hf(path)

    def pid(self) -> int:
        return os.getpid()


class EngineActor:
    """Keeps one SGLang server: starts it where its GPUs are, restarts it, takes it down."""

    def __init__(self, cfg: TrainConfig, index: int) -> None:
        self.cfg, self.index = cfg, index

    def start(self, weight_version: int) -> None:
        """Returns at once; `ready` waits. A server that is already there is stopped first."""
        from ..rollout.server import SGLangServer

        self.stop()
        engine = self.cfg.rollout.engines
        self.server = SGLangServer(
            self.cfg.student_path,
            device=self.cfg.device,
            bf16=self.cfg.bf16,
            host=_node_address(),
            tensor_parallel=engine.gpus_per_replica if self.cfg.device == "cuda" else 1,
            memory_fraction=engine.memory_fraction,
            extra_args=tuple(engine.args),
            log_path=self.cfg.run_dir / "logs" / f"engine-{self.index}.log",
            weight_version=weight_version,
        )
        self.server.start()

    def ready(self, timeout_seconds: float) -> str:
        """URL of the server once it answers."""
        self.server.wait_ready(timeout_seconds)
        return self.server.url

    def stop(self) -> None:
        if getattr(self, "server", None) is not None:
            self.server.stop()

    def pids(self) -> tuple[int, int]:
        """This process and the server's."""
        return os.getpid(), self.server.pid


def _node_address() -> str:
    import ray

    return ray.util.get_node_ip_address()
