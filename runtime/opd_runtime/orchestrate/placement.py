"""Where actors run, and the groups as the loop sees them: `Trainers`, `Servers`, `Weights`, with awaitable verbs.

Placement is by the custom resources `opd-trainer` and `opd-engine`: the RayJob's worker groups offer them, one a pod,
and so does the embedded Ray of one machine. On CUDA, GPUs are asked for beside them.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, Literal

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ..batch import Batch
from ..config import TrainConfig
from ..errors import EngineUnavailable, TrainerLost, WeightSyncFailed
from .actors import ServerActor, ServerSpec, TrainerActor

TRAINER_RESOURCE = "opd-trainer"
ENGINE_RESOURCE = "opd-engine"
TEACHER_RESOURCE = "opd-teacher"
PLACEMENT_TIMEOUT_SECONDS = 1800
"""How long to wait for pods of the worker groups to join Ray."""
SENDS = 3
"""Of the same weights. The first may meet an engine that dies, the second one whose death shows only then."""
STOP_SECONDS = 30.0
"""For the servers' own clean end. A keeper that is loading or restarting its server hears of no stop before that."""
DYING_SECONDS = 2.0
"""What a server takes to end after its scheduler."""


async def _placed(resource: str, replicas: int, gpus: int) -> PlacementGroup:
    bundle = {resource: 1.0} | ({"GPU": float(gpus)} if gpus else {})
    group = placement_group([bundle] * replicas, strategy="PACK")
    try:
        await asyncio.wait_for(group.ready(), PLACEMENT_TIMEOUT_SECONDS)
    except BaseException as error:
        remove_placement_group(group)
        if not isinstance(error, TimeoutError):
            raise
        raise EngineUnavailable(
            f"Ray has no room for {replicas} x {bundle} after {PLACEMENT_TIMEOUT_SECONDS} s; "
            f"it has {ray.cluster_resources()}"
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
        self._group: PlacementGroup | None = None

    async def start(self, *, resume: bool) -> tuple[int, dict[str, Any]] | None:
        """Places, builds and (with `resume`) loads every rank. Returns the checkpoint's step and driver state."""
        shape, cuda = self.cfg.student.trainers, self.cfg.device == "cuda"
        per_pod = shape.gpus_per_replica
        self._group = await _placed(TRAINER_RESOURCE, shape.replicas, per_pod if cuda else 0)
        self.actors = [
            _actor(TrainerActor, self._group, rank // per_pod, TRAINER_RESOURCE, 1 / per_pod, 1 if cuda else 0).remote(
                rank, self.cfg.world_size, self.cfg.device, self.cfg.run_dir / "logs"
            )
            for rank in range(self.cfg.world_size)
        ]
        host, port = await self._rank0("rendezvous")
        return (await self._all("build", self.cfg, host, port, resume))[0]

    async def train_step(self, batch: Batch, step: int):
        """One step of every rank; rank 0's result (all ranks hold the same)."""
        reference = ray.put(batch)
        return (await self._all("train_step", reference, step))[0]

    async def sync(self, transport: str, urls: Sequence[str], scratch_dir: Path):
        return (await self._all("sync", transport, list(urls), scratch_dir))[0]

    async def disconnect(self) -> None:
        await self._all("disconnect")

    async def logprobs(self, batch: Batch, model: Literal["student", "teacher"]):
        return (await self._all("logprobs", batch, model))[0]

    async def teacher_greedy(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, eos_ids: Sequence[int]
    ) -> list[list[int]]:
        return (await self._all("teacher_greedy", prompts, max_new_tokens, eos_ids))[0]

    async def save(self, step: int, driver_state: dict[str, Any], keep: int) -> Path:
        return (await self._all("save", step, driver_state, keep))[0]

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
            return await _results(calls)
        except ray.exceptions.RayActorError as error:
            raise TrainerLost(f"a trainer process died: {_first_line(error)}") from error

    def kill(self) -> None:
        """The ranks at once, and their place: others may have it."""
        for actor in self.actors:
            ray.kill(actor)
        if self._group is not None:
            remove_placement_group(self._group)


class Servers:
    """SGLang servers of one kind, each kept by an actor. `urls` is valid after `ready` and stays through restarts."""

    def __init__(self, spec: ServerSpec, resource: str, startup_timeout_seconds: float) -> None:
        self.spec = spec
        self.resource = resource
        self.startup_timeout_seconds = startup_timeout_seconds
        self.actors: list[Any] = []
        self.urls: list[str] = []
        self._ports = [0] * spec.replicas
        self._group: PlacementGroup | None = None

    async def start(self) -> None:
        """Places the keepers and starts their servers; returns before the servers answer."""
        self._group = await _placed(self.resource, self.spec.replicas, self._gpus)
        self.actors = [self._new_actor(index) for index in range(self.spec.replicas)]
        await _results([actor.start.remote() for actor in self.actors])

    async def ready(self) -> list[str]:
        answers = await _results([actor.ready.remote(self.startup_timeout_seconds) for actor in self.actors])
        self.urls, self._ports = [list(column) for column in zip(*answers, strict=True)]
        return self.urls

    async def restart(self, index: int) -> str:
        """A fresh server on the same port, with the weights of its folder; its keeper too when that died."""
        try:
            await self.actors[index].start.remote()
        except ray.exceptions.RayActorError:
            self.actors[index] = self._new_actor(index)
            await self._started_again(index)
        [(self.urls[index], self._ports[index])] = await _results(
            [self.actors[index].ready.remote(self.startup_timeout_seconds)]
        )
        return self.urls[index]

    async def _started_again(self, index: int) -> None:
        """A keeper that must find a place first: its pod may be gone, and a new one on its way."""
        try:
            await asyncio.wait_for(self.actors[index].start.remote(), PLACEMENT_TIMEOUT_SECONDS)
        except TimeoutError as error:
            raise EngineUnavailable(
                f"no place for {self.spec.name} {index} again after {PLACEMENT_TIMEOUT_SECONDS} s"
            ) from error

    async def dead(self) -> list[int]:
        """Indices of servers (or keepers) that are gone, or about to be; of those that have been ready."""
        answers = await asyncio.gather(*(actor.listens.remote() for actor in self.actors), return_exceptions=True)
        return [index for index, answer in enumerate(answers) if answer is not True]

    async def stop(self) -> None:
        """The servers, their keepers, and their place. A server ends with its keeper, if not before."""
        asked = self.actors if self.urls else []  # one that still loads has nothing to end in order
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.gather(*(actor.stop.remote() for actor in asked), return_exceptions=True)
        except TimeoutError:
            pass
        finally:
            for actor in self.actors:
                ray.kill(actor)
            if self._group is not None:
                remove_placement_group(self._group)

    async def pids(self) -> list[tuple[int, int]]:
        return await _results([actor.pids.remote() for actor in self.actors])

    @property
    def _gpus(self) -> int:
        return self.spec.gpus if self.spec.device == "cuda" else 0

    def _new_actor(self, index: int) -> Any:
        assert self._group is not None, "start() comes first"
        actor = _actor(ServerActor, self._group, index, self.resource, 1.0, self._gpus)
        return actor.remote(self.spec, index, self._ports[index])


class Weights:
    """Gets the trainers' weights into the engines; a sync ends with the checksum every engine echoed."""

    def __init__(self, cfg: TrainConfig, trainers: Trainers, engines: Servers) -> None:
        self.trainers, self.engines = trainers, engines
        self.scratch_dir = cfg.run_dir / "sync"
        self.transport = "Distributed" if cfg.rollout.weight_sync == "Auto" else cfg.rollout.weight_sync

    async def sync(self):
        """All engines get the weights of now; an engine that died meanwhile comes back first."""
        for _ in range(SENDS - 1):
            try:
                return await self._send(self.engines.urls)
            except (EngineUnavailable, WeightSyncFailed):
                await self.trainers.disconnect()
                await self._revive()
        return await self._send(self.engines.urls)

    async def _revive(self) -> None:
        dead = await self.engines.dead()
        if not dead:
            await asyncio.sleep(DYING_SECONDS)
        for index in dead:
            await self.engines.restart(index)

    async def recover(self, index: int) -> str:
        """Engine `index` comes back with the weights of now; where it answers."""
        await self.trainers.disconnect()
        url = await self.engines.restart(index)
        await self._send([url])
        return url

    async def _send(self, urls: Sequence[str]):
        return await self.trainers.sync(self.transport, urls, self.scratch_dir)


async def _results(calls: Sequence[Awaitable]) -> list:
    """What the calls return; an actor's exception arrives as the exception it raised."""
    try:
        return list(await asyncio.gather(*calls))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
