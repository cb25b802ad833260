"""When the loop stops and what it says on the way. Everything it drives is played."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from opd_api.spec import Checkpoint, Distillation, Evaluation
from opd_runtime.orchestrate.loop import Run, train
from opd_runtime.orchestrate.record import RunState
from opd_runtime.rollout.generate import Collected
from opd_runtime.rollout.sample import Prompt, Sample

STEPS = 4


class Played:
    """Trainers, engines, evaluator and reporter. `during` says when the stop comes; `failures` are each step's."""

    def __init__(self, during: str = "", failures: tuple[tuple[str, ...], ...] = ((),) * STEPS) -> None:
        self.during, self.failures = during, failures
        self.stop = asyncio.Event()
        self.did: list[str] = []
        self.asked_last: list[bool] = []
        self.notes: list[str] = []
        self.stream = SimpleNamespace(dropped=0)

    def does(self, what: str, result: Any = None) -> Callable[..., Awaitable[Any]]:
        async def act(*_: Any, **__: Any) -> Any:
            self.did.append(what)
            if what == self.during:
                self.stop.set()
            return result

        return act

    async def collect(self, kl_coef: float, *, last: bool) -> Any:
        self.asked_last.append(last)
        failures = self.failures[sum(what == "train" for what in self.did)]
        return SimpleNamespace(batch=None, cursor={}, collected=collected(failures))

    def run(self, **evaluation: int) -> Run:
        cfg: Any = SimpleNamespace(
            steps=STEPS,
            distillation=Distillation(),
            evaluation=Evaluation(every_steps=2),
            checkpoint=Checkpoint(every_steps=2),
            checkpoint_dir=Path("/checkpoints"),
        )
        nothing = self.does("settle")
        parts: dict[str, Any] = {
            "trainers": SimpleNamespace(
                train_step=self.does(
                    "train", SimpleNamespace(metrics={}, seconds=dict(teacher=0, logprobs=0, update=0))
                ),
                save=self.does("save"),
            ),
            "weights": SimpleNamespace(sync=self.does("sync", SimpleNamespace(version=1))),
            "rollouts": SimpleNamespace(collect=self.collect, settle=nothing, stream=self.stream),
            "evaluator": SimpleNamespace(student=self.does("evaluate")),
            "reporter": SimpleNamespace(step=lambda record: None, checkpoint=lambda *_: None, note=self.notes.append),
        }
        state = RunState(kl_coef=1.0)
        return Run(cfg=cfg, scorer=None, state=state, stop=self.stop, keep=lambda: 2, **parts)


def collected(failures: tuple[str, ...]) -> Collected:
    prompt = Prompt(index=0, text="", token_ids=(1,), label=None, record={})
    return Collected(
        samples=[Sample(prompt=prompt, group=0, failure=failure) for failure in (*failures, "")],
        wall_seconds=0.0,
        generate_seconds=0.0,
        score_seconds=0.0,
        hidden_share=0.0,
        groups_rejected=0,
        unscored=0,
        degraded=False,
    )


STEP = ["train", "settle", "sync"]


@pytest.mark.parametrize(
    ("during", "want"),
    [
        pytest.param("train", ["train", "settle", "save"], id="training: the engines are not needed any more"),
        pytest.param("settle", ["train", "settle", "save"], id="the generation of the next step"),
        pytest.param("evaluate", [*STEP, *STEP, "evaluate", "save"], id="an evaluation"),
        pytest.param("save", [*STEP, *STEP, "evaluate", "save"], id="a save: one is enough"),
    ],
)
async def test_a_stop_ends_the_step_it_comes_in_with_one_save(during, want):
    played = Played(during)
    assert await train(played.run()) is False
    assert played.did == want


async def test_without_a_stop_the_job_is_complete():
    played = Played()
    assert await train(played.run()) is True
    assert played.did == 2 * [*STEP, *STEP, "evaluate", "save"]


async def test_a_stop_in_the_last_step_completes_the_job():
    played = Played("train")
    run = played.run()
    run.state.step = STEPS - 1
    assert await train(run) is True
    assert played.did == [*STEP, "evaluate", "save"]


async def test_nothing_is_generated_ahead_of_a_stop():
    played = Played()
    played.stop.set()
    await train(played.run())
    assert played.asked_last == [True]


async def test_a_stop_in_the_last_save_leaves_the_job_complete():
    played = Played()
    run = played.run()
    run.state.step = STEPS - 1
    played.during = "save"
    assert await train(run) is True


async def test_why_rewards_fail_is_said_once():
    rare, common = "reward: status 500", "reward: KeyError: 'level'"
    steps = ((common, rare, common, "teacher: NaN"), (common,), (rare,), ())
    played = Played(failures=steps)
    await train(played.run())
    assert played.notes == [
        "step 1: no reward for 2 samples: KeyError: 'level'",
        "step 3: no reward for 1 samples: status 500",
    ]
