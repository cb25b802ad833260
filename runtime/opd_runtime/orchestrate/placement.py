"""Where actors run, and the two groups as the loop sees them: `Trainers` and `Engines`, one awaitable verb for each thing to do.

Placement is by the custom resources `opd-trainer` and `opd-engine`: the RayJob's worker groups offer them, one a pod, and
so does the embedded Ray of one machine. On CUDA, GPUs are asked for beside them.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ..batch import Batch
from ..config import TrainConfig
from ..errors import EngineUnavailable, TrainerLost
from .actors import EngineActor, TrainerActor

TRAINER_RESOURCE = "opd-trainer"
ENGINE_RESOURCE = "opd-engine"
PLACEMENT_TIMEOUT_SECONDS = 1800
"""How long to wait for pods of the worker groups to join Ray."""


async def _placed(resource: str, replicas: int, gpus: int) -> PlacementGroup:
    bundle = {resource: 1.0} | ({"GPU": float(gpus)} if gpus else {})
    group = placement_group([bundle] * replicas, strategy="PACK")
    try:
        await asyncio.wait_for(group.ready(), PLACEMENT_TIMEOUT_SECONDS)
    except TimeoutError as error:
        raise EngineUnavailable(
            f"Ray has no room for {replicas} x {bundle} after {PLACEMENT_TIMEOUT_SECONDS} s; it has {ray.cluster_resources()}"
        ) from error
    return group


def _actor(cls: type, group: PlacementGroup, bundle: int, resource: str, share: float, gpus: int) -> Any:
    """`share` of the bundle's resource: several ranks share one trainer pod."""
    return ray.remote(cls).options(
        num_cpus=0,
        num_gpus=gpus,
        resources={resource: share},
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle),
        max_concurrency=1,
    )


class Trainers:
    """All Megatron ranks of the job."""

    def __init__(self, cfg: TrainConfig) -> None:
        self.cfg = cfg
        self.actors: list[Any] = []

    async def start(self, *, resume: bool) -> tuple[int, dict[str, Any]] | None:
        """Places, builds and (with `resume`) loads every rank. Returns the checkpoint's step and driver state, if any."""
        shape, cuda = self.cfg.student.trainers, self.cfg.device == "cuda"
        per_pod = shape.gpus_per_replica
        group = await _placed(TRAINER_RESOURCE, shape.replicas, per_pod if cuda else 0)
        self.actors = [
            _actor(TrainerActor, group, rank // per_pod, TRAINER_RESOURCE, 1 / per_pod, 1 if cuda else 0).remote(
                rank, self.cfg.world_size
            )
            for rank in range(self.cfg.world_size)
        ]
        host, port = await self._rank0("rendezvous")
        return (await self._all("build", self.cfg, host, port, resume))[0]

    async def train_step(self, batch: Batch, step: int):
        """One step of every rank; rank 0's result (all ranks hold the same)."""
        reference = ray.put(batch)
        return (await self._all("train_step", reference, step))[0]

    async def sync(self, transport: str, urls: Sequence[str], version: int, scratch_dir: Path):
        return (await self._all("sync", transport, list(urls), version, scratch_dir))[0]

    async def disconnect(self) -> None:
        await self._all("disconnect")

    async def teacher_greedy(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        return (await self._all("teacher_greedy", prompts, max_new_tokens))[0]

    async def save(self, step: int, driver_state: dict[str, Any]) -> Path:
        return (await self._all("save", step, driver_state))[0]

    async def export(self, path: Path) -> None:
        await self._all("export", path)

    async def pids(self) -> list[int]:
        return await self._all("pid")

    async def _rank0(self, method: str, *arguments):
        return (await self._gather([getattr(self.actors[0], method).remote(*arguments)]))[0]

    async def _all(self, method: str, *arguments) -> list:
        return await self._gather([getattr(actor, method).remote(*arguments) for actor in self.actors])

    async def _gather(self, calls: Sequence[Awaitable]) -> list:
        """The first failure wins: when one rank dies the others hang in a collective, so nobody waits for them."""
        try:
            return await asyncio.gather(*calls)
        except ray.exceptions.RayActorError as error:
            raise TrainerLost(f"a trainer process died: {_first_line(error)}") from error
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error

    def kill(self) -> None:
        for actor in self.actors:
            ray.kill(actor)


class Engines:
    """All SGLang rollout engines of the job. `urls` is valid after `ready`."""

    def __init__(self, cfg: TrainConfig, startup_timeout_seconds: float = 1800) -> None:
        self.cfg = cfg
        self.startup_timeout_seconds = startup_timeout_seconds
        self.actors: list[Any] = []
        self.urls: list[str] = []

    async def start(self) -> None:
        """Places the keepers and starts their servers; returns before the servers answer."""
        self.group = await _placed(ENGINE_RESOURCE, self._replicas, self._gpus)
        self.actors = [self._new_actor(index) for index in range(self._replicas)]
        await asyncio.gather(*(actor.start.remote(0) for actor in self.actors))

    async def ready(self) -> list[str]:
        calls = (actor.ready.remote(self.startup_timeout_seconds) for actor in self.actors)
        try:
            self.urls = list(await asyncio.gather(*calls))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        return self.urls

    async def restart(self, index: int) -> str:
        """A fresh server (and keeper, if that died too) with the student's first weights: the caller syncs it."""
        try:
            await self.actors[index].start.remote(0)
        except ray.exceptions.RayActorError:
            self.actors[index] = self._new_actor(index)
            await self.actors[index].start.remote(0)
        try:
            self.urls[index] = await self.actors[index].ready.remote(self.startup_timeout_seconds)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        return self.urls[index]

    async def stop(self) -> None:
        await asyncio.gather(*(actor.stop.remote() for actor in self.actors), return_exceptions=True)

    async def pids(self) -> list[tuple[int, int]]:
        return list(await asyncio.gather(*(actor.pids.remote() for actor in self.actors)))

    @property
    def _replicas(self) -> int:
        return self.cfg.rollout.engines.replicas

    @property
    def _gpus(self) -> int:
        return self.cfg.rollout.engines.gpus_per_replica if self.cfg.device == "cuda" else 0

    def _new_actor(self, index: int) -> Any:
        return _actor(EngineActor, self.group, index, ENGINE_RESOURCE, 1.0, self._gpus).remote(self.cfg, index)


class Weights:
    """The order of a weight sync: trainers send, every engine echoes the checksum. Knows which version is out."""

    def __init__(self, cfg: TrainConfig, trainers: Trainers, engines: Engines) -> None:
        self.trainers, self.engines = trainers, engines
        self.version = 0
        self.scratch_dir = cfg.run_dir / "sync"
        self.transport = cfg.rollout.weight_sync
        if self.transport == "Auto":
            self.transport = "Distributed" if cfg.device == "cuda" else "Tensor"

    async def sync(self, version: int):
        """All engines get the trainers' weights as `version`. One engine failing is restarted once by the caller."""
        report = await self.trainers.sync(self.transport, self.engines.urls, version, self.scratch_dir)
        self.version = version
        return report

    async def recover(self, index: int) -> None:
        """A dead engine comes back with the weights of now; a second failure ends the attempt."""
        await self.trainers.disconnect()
        url = await self.engines.restart(index)
        try:
            await self.trainers.sync("Tensor", [url], self.version, self.scratch_dir)
        finally:
            await self.trainers.disconnect()


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


