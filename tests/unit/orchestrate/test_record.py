"""A run's memory: what survives in a checkpoint, what a step's seconds are, what the summary says."""

import json
from typing import Any

import pytest

from opd_runtime.orchestrate.record import RunState, eval_metrics, rollout_metrics, time_metrics
from opd_runtime.rollout.evaluate import result_of
from opd_runtime.rollout.generate import Collected
from opd_runtime.rollout.sample import Finish, Prompt, Sample


def collected(samples: list[Sample] | None = None, **changes: Any) -> Collected:
    fields: dict[str, Any] = {
        "samples": samples or [],
        "wall_seconds": 1.0,
        "generate_seconds": 0.8,
        "score_seconds": 0.5,
        "hidden_share": 0.6,
        "groups_rejected": 0,
        "unscored": 0,
        "degraded": False,
    }
    return Collected(**(fields | changes))


def sample(reward: float | None, *, finish: Finish = Finish.STOP, failure: str = "") -> Sample:
    prompt = Prompt(index=0, text="1+1=", token_ids=(1, 2, 3), label="2", record={})
    return Sample(
        prompt=prompt,
        group=0,
        response_ids=[4, 5],
        loss_mask=[True, True],
        raw_reward=reward,
        reward=reward or 0.0,
        finish=finish,
        failure=failure,
    )


def test_a_state_survives_its_journey_through_json() -> None:
    state = RunState(kl_coef=0.5, cursor={"index": 3}, pass_at_1={"before": 0.1, "after": None, "teacher": 1.0})
    state.advance(0.4, {"index": 7})
    assert RunState.from_json(json.loads(json.dumps(state.to_json()))) == state


def test_fields_of_a_newer_version_are_left_alone() -> None:
    assert RunState.from_json({"kl_coef": 1.0, "step": 3, "invented_later": 1}).step == 3


def test_the_summary_compares_the_first_step_with_the_mean_of_the_last_five() -> None:
    state = RunState(kl_coef=1.0)
    for reverse_kl in [8.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]:
        state.advance(reverse_kl, {})
    assert state.summary("SGLang")["reverse_kl"] == {"first": 8.0, "last": 3.0}
    assert state.summary("SGLang")["steps"] == 7


def test_a_step_without_usable_samples_counts_and_has_no_reverse_kl() -> None:
    state = RunState(kl_coef=1.0)
    state.advance(None, {})
    assert state.summary("Megatron")["reverse_kl"] == {"first": None, "last": None}
    state.advance(2.0, {})
    assert (state.step, state.first_reverse_kl) == (2, 2.0)


def test_rewards_are_means_over_valid_samples() -> None:
    samples = [sample(1.0), sample(0.0, finish=Finish.LENGTH), sample(None, failure="teacher: NaN")]
    metrics = rollout_metrics(collected(samples), dropped_prompts=4)
    assert metrics["reward/raw"] == 0.5
    assert metrics["rollout/failed"] == 1
    assert metrics["rollout/dropped_prompts"] == 4
    assert metrics["tokens/response"] == 4, "of the samples that train"
    assert metrics["tokens/truncated_share"] == 0.5


def test_without_a_verifier_there_is_no_reward_to_report() -> None:
    assert "reward/mean" not in rollout_metrics(collected([sample(None)]), 0)


def test_the_parts_of_a_step_add_up_to_what_the_driver_waited_for() -> None:
    laps = {"rollout": 1.0, "train": 0.7, "sync": 0.1, "save": 0.2}
    seconds = time_metrics(collected(), laps, {"logprobs": 0.1, "teacher": 0.2, "update": 0.3})
    assert seconds["time/step"] == pytest.approx(2.0)
    assert seconds["time/rollout"] == pytest.approx(0.8)
    assert seconds["time/score"] == pytest.approx(0.2 + 0.2), "exposed at the engines, and in the trainer"
    assert (seconds["time/save"], "time/train" in seconds) == (0.2, False)


def test_scoring_that_ran_ahead_is_not_charged_to_the_step() -> None:
    laps = {"rollout": 0.05, "train": 1.0}
    seconds = time_metrics(collected(), laps, {"logprobs": 0.0, "teacher": 0.0, "update": 1.0})
    assert seconds["time/rollout"] + seconds["time/score"] == pytest.approx(0.05)


def test_an_evaluation_without_a_verdict_has_no_pass_at_1() -> None:
    judged, failed = sample(1.0), sample(None, failure="reward: no answer")
    assert eval_metrics(result_of([judged, failed]))["eval/pass@1"] == 1.0
    assert eval_metrics(result_of([failed])) == {"eval/n": 0.0, "eval/failed": 1.0, "eval/mean_tokens": 2.0}
