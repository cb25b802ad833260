"""The two kinds of Ray process of a job: a trainer rank and the keeper of an SGLang server."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..batch import Batch
from ..config import Remote, TrainConfig
from ..rollout.server import SGLangServer
from ..sources import fetch_here

if TYPE_CHECKING:
    from .weight_sync import WeightSender


class TrainerActor:
    """One Megatron rank. Every rank gets the same calls in the same order: they are collectives."""

    def __init__(self, rank: int, world_size: int, device: str, log_dir: Path) -> None:
        # Ray shows each actor only its own GPU, so the local rank is always 0.
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK="0")
        if device == "cpu":  # Ray hides no GPU from an actor that asks for none. Before torch is imported.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        # torch's large tensors in huge pages: a checkpoint passes through fresh host memory, and a third of its time
        # went into page faults. Before torch is imported.
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
        # What torch compiles for a trainer is little, and a pool of 32 processes for each rank would want memory.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        _log_to(log_dir / f"trainer-{rank}.log")
        self._sender: WeightSender | None = None
        self._engines: tuple[str, tuple[str, ...]] = ("", ())

    def rendezvous(self) -> tuple[str, int]:
        """Where the ranks find each other. Asked of rank 0 only, which listens from here on: nobody takes the port."""
        from torch.distributed import TCPStore

        self._store = TCPStore(_node_address(), 0, is_master=True, wait_for_workers=False)
        return self._store.host, self._store.port

    def build(self, cfg: TrainConfig, host: str, port: int, resume: bool) -> tuple[int, dict[str, Any]] | None:
        """The model(s); with `resume` the newest complete checkpoint: its step and the driver's state."""
        # torch's words for "the store is there already": rank 0 must not open it again.
        os.environ.update(TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT="0")
        os.environ.update(MASTER_ADDR=host, MASTER_PORT=str(port))
        for remote in cfg.remotes:
            fetch_here(remote.uri, remote.path, remote.cache_dir, remote.step)
        from ..megatron.trainer import Trainer

        self.trainer = Trainer(cfg)
        resumed = self.trainer.load_latest() if resume else None
        self.version = resumed[0] if resumed else 0
        return resumed

    def train_step(self, batch: Batch, step: int):
        result = self.trainer.train_step(batch, step)
        self.version = step + 1
        return result

    def logprobs(self, batch: Batch, model: Literal["student", "teacher"]):
        """Of every response token."""
        return self.trainer.logprobs(batch, model)

    def teacher_greedy(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, eos_ids: Sequence[int]
    ) -> list[list[int]]:
        return self.trainer.teacher_greedy(prompts, max_new_tokens, eos_ids)

    def sync(self, transport: Literal["Distributed", "Tensor", "Disk"], urls: Sequence[str], scratch_dir: Path):
        """The student's weights to the engines at `urls`, with proof; their version is the steps they were trained.

        Ranks other than 0 take part in the export only.
        """
        from .weight_sync import WeightSender

        if self.trainer.rank != 0:
            for _ in self.trainer.named_weights():
                pass
            return None
        if self._sender is None or self._engines != (transport, tuple(urls)):
            self.disconnect()
            self._engines = (transport, tuple(urls))
            self._sender = WeightSender(
                transport, urls, scratch_dir=scratch_dir, kv_heads=self.trainer.hf.num_key_value_heads
            )
        weights, cfg = self.trainer.named_weights(), self.trainer.cfg
        if self.version == 0 and cfg.student_load is None:
            return self._sender.verify(weights, self.version)  # the engines have read them from the student's folder
        return self._sender.send(weights, self.version)

    def disconnect(self) -> None:
        """Forgets the engines: after one restarted, its connections are void."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def save(self, step: int, driver_state: dict[str, Any], keep: int) -> Path:
        return self.trainer.save(step, driver_state, keep)

    def export(self, path: Path) -> None:
        self.trainer.export_hf(path)

    def pid(self) -> int:
        return os.getpid()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """One SGLang server of a group: rollout engines and, on one machine, the teacher."""

    name: str
    """Log file and messages: `engine`, `teacher`."""
    model_path: Path
    device: str
    bf16: bool
    replicas: int
    gpus: int
    """Tensor-parallel size; GPUs on CUDA, 1 on CPU."""
    memory_fraction: float
    args: tuple[str, ...]
    api_key: str
    log_dir: Path
    seed: int | None = None
    """Of the first server's sampling; None: any."""
    remote: Remote | None = None
    """What to fetch `model_path` from when it is not there."""


class ServerActor:
    """Keeps one SGLang server: starts it where its GPUs are, restarts it on the same port, takes it down."""

    def __init__(self, spec: ServerSpec, index: int, port: int = 0) -> None:
        self.remote = spec.remote
        self.server = SGLangServer(
            spec.model_path,
            device=spec.device,
            bf16=spec.bf16,
            host=_node_address(),
            port=port,
            tensor_parallel=spec.gpus,
            memory_fraction=spec.memory_fraction,
            extra_args=spec.args,
            seed=None if spec.seed is None else spec.seed + index,
            api_key=spec.api_key,
            log_path=spec.log_dir / f"{spec.name}-{index}.log",
        )

    def start(self) -> None:
        """Returns once the model is here; `ready` waits. A server that is already there is stopped first."""
        if self.remote is not None:
            fetch_here(self.remote.uri, self.remote.path, self.remote.cache_dir, self.remote.step)
        self.server.stop()
        self.server.start()

    def ready(self, timeout_seconds: float) -> tuple[str, int]:
        """URL and port of the server once it answers."""
        self.server.wait_ready(timeout_seconds)
        return self.server.url, self.server.port

    def listens(self) -> bool:
        return self.server.listens()

    def stop(self) -> None:
        self.server.stop()

    def pids(self) -> tuple[int, int]:
        """This process and the server's."""
        return os.getpid(), self.server.pid


def _log_to(path: Path) -> None:
    """Everything this process prints, its libraries' C code included, goes to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _node_address() -> str:
    """As Ray knows this node: where other nodes reach it, and loopback when there are none."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    return next(node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == own)
