"""The training loop: one screen of plain verbs. What can overlap is inside a verb; what must be in order is here."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ..algorithms.opd import adapted_kl_coef, scheduled_kl_coef
from ..config import TrainConfig
from ..report.metrics import StepRecord, now
from ..report.reporter import Reporter
from ..rollout.generate import Collected
from ..teacher.scorer import TeacherScorer
from ..uri import uri_of
from .evaluate import Evaluator
from .placement import Trainers, Weights
from .record import RunState, commonest_reward_failure, eval_metrics, rollout_metrics, teacher_metrics, time_metrics
from .rollouts import Rollouts

LONGEST_NOTE = 300
"""Characters of a user's own exception."""


@dataclass(slots=True, kw_only=True)
class Run:
    """The live parts of one attempt."""

    cfg: TrainConfig
    trainers: Trainers
    weights: Weights
    rollouts: Rollouts
    scorer: TeacherScorer | None
    evaluator: Evaluator
    reporter: Reporter
    state: RunState
    stop: asyncio.Event
    """Set from outside (Ctrl-C, a stop request): the step in progress is trained and saved, `train` returns."""
    keep: Callable[[], int]
    """Checkpoints that stay, as the document says now: it may change while the job trains."""
    told: set[str] = field(default_factory=set)
    """Failures of rewards that have been noted."""


async def train(run: Run) -> bool:
    """Steps until `cfg.steps` or a stop request. True when the job is complete."""
    cfg, state = run.cfg, run.state
    clock = Clock()
    for step in range(state.step, cfg.steps):
        state.kl_coef = kl_coef(cfg, state, step)
        last = step + 1 == cfg.steps
        rollout = await run.rollouts.collect(state.kl_coef, last=last or run.stop.is_set())
        clock.lap("rollout")
        result = await run.trainers.train_step(rollout.batch, step)
        clock.lap("train")
        await run.rollouts.settle(run.stop)
        clock.lap("rollout")
        ends_early = run.stop.is_set() and not last
        # Of a step that ends early nothing more is generated: its save waits for no engine.
        version = step if ends_early else (await run.weights.sync()).version
        clock.lap("sync")
        reverse_kl = result.metrics.get("opd/reverse_kl")
        state.advance(reverse_kl, rollout.cursor)
        metrics = result.metrics | rollout_metrics(rollout.collected, run.rollouts.stream.dropped)
        if run.scorer is not None:
            metrics |= teacher_metrics(rollout.collected, run.scorer.take_stats())
        note_failures(run, step, rollout.collected)
        if not ends_early and _due(step + 1, cfg.evaluation.every_steps, last):
            metrics |= await evaluate_student(run)
            clock.lap("eval")
        state.seconds += sum(clock.seconds.values())
        metrics |= time_metrics(rollout.collected, clock.seconds, result.seconds)
        run.reporter.step(
            StepRecord(step=step + 1, total_steps=cfg.steps, metrics=metrics, weight_version=version, time=now())
        )
        clock = Clock()
        # After the record: a run killed in between does the step again, and no record is ever missing.
        if run.stop.is_set() or _due(step + 1, cfg.checkpoint.every_steps, last):
            await save(run)
            clock.lap("save")
            if run.stop.is_set():  # also when it came while the checkpoint was written
                return last
    return True


def note_failures(run: Run, step: int, collected: Collected) -> None:
    """A teacher that leaves much unscored, in every step; the step's most common failure of a reward once in a run."""
    if collected.degraded:
        run.reporter.note(f"step {step + 1}: the teacher did not score {collected.unscored} samples")
    failure, count = commonest_reward_failure(collected)
    if count and failure not in run.told:
        run.told.add(failure)
        run.reporter.note(f"step {step + 1}: no reward for {count} samples: {failure[:LONGEST_NOTE]}")


async def evaluate_student(run: Run) -> dict[str, float]:
    """Metrics of the student as it is; nothing without held-out prompts."""
    result = await run.evaluator.student()
    if result is None:
        return {}
    if result.pass_at_1 is None:
        run.reporter.note(f"step {run.state.step}: none of {result.failed} held-out answers could be judged")
    run.state.pass_at_1["before" if run.state.step == 0 else "after"] = result.pass_at_1
    return eval_metrics(result)


async def save(run: Run) -> None:
    await run.trainers.save(run.state.step, run.state.to_json(), run.keep())
    run.reporter.checkpoint(run.state.step, uri_of(run.cfg.checkpoint_dir))


def kl_coef(cfg: TrainConfig, state: RunState, step: int) -> float:
    """Coefficient of the OPD term in `step`; TargetKL adapts the last one to the last reverse KL."""
    distillation, schedule = cfg.distillation, cfg.distillation.kl_coef_schedule
    if schedule.type == "TargetKL":
        if not state.last_reverse_kls:
            return distillation.kl_coef
        assert schedule.target_kl is not None, "a rule of the contract"
        return adapted_kl_coef(state.kl_coef, state.last_reverse_kls[-1], schedule.target_kl)
    final = distillation.kl_coef if schedule.final is None else schedule.final
    return scheduled_kl_coef(
        schedule.type, step, initial=distillation.kl_coef, final=final, steps=schedule.steps or cfg.steps
    )


@dataclass(slots=True)
class Clock:
    """Wall seconds between laps, summed by name."""

    seconds: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def lap(self, name: str) -> None:
        now_ = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now_ - self._last
        self._last = now_


def _due(step: int, every: int, last: bool) -> bool:
    return every > 0 and (last or step % every == 0)
