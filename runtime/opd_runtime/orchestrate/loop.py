"""The training loop: one screen of plain verbs. What can overlap is inside a verb; what must be in order is visible here."""

import asyncio
import time
from dataclasses import dataclass

from ..config import TrainConfig
from ..report.reporter import Reporter
from .evaluate import Evaluator
from .placement import Trainers, Weights
from .record import RunState, step_record
from .rollouts import Rollouts


@dataclass(slots=True, kw_only=True)
class Run:
    """The live parts of one attempt."""

    cfg: TrainConfig
    trainers: Trainers
    weights: Weights
    rollouts: Rollouts
    evaluator: Evaluator
    reporter: Reporter
    state: RunState
    stop: asyncio.Event
    """Set from outside (Ctrl-C, a stop request): the step in progress ends, a checkpoint is saved, `train` returns."""


async def train(run: Run) -> bool:
    """Steps until `cfg.steps` or a stop request. True when the job is complete."""
    cfg, state = run.cfg, run.state
    await run.weights.sync()
    if state.step == 0:
        await run.evaluator.before(state)
    for step in range(state.step, cfg.steps):
        clock = Clock()
        rollout = await run.rollouts.collect(step, state.kl_coef)
        clock.lap("rollout_wait")
        update = await run.trainers.train_step(rollout.batch, step)
        clock.lap("train")
        await run.rollouts.settle()
        sync = await run.weights.sync()
        clock.lap("sync")
        record = step_record(cfg, step, rollout, update, sync, clock.seconds)
        state.advance(step + 1, record, rollout.cursor)
        last = step + 1 == cfg.steps or run.stop.is_set()
        if last or _due(step + 1, cfg.evaluation.every_steps):
            record.metrics.update(await run.evaluator.student(state))
        if last or _due(step + 1, cfg.checkpoint.every_steps):
            state.checkpoint = await run.trainers.save(step + 1, state.to_json())
        run.reporter.step(record)
        if run.stop.is_set():
            return step + 1 == cfg.steps
    return True


class Clock:
    """Wall seconds between laps, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


