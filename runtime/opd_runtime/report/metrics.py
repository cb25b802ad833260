"""The record of one step, and the table of what its numbers mean. Computes none of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Metric:
    """What a number is."""

    unit: str
    """Empty for plain numbers and shares of 1."""
    sentence: str


_S, _NATS = "s", "nats/token"

METRICS: Mapping[str, Metric] = {
    "opd/reverse_kl": Metric(
        _NATS, "Mean of log p_student - log p_teacher over the step's tokens: what is distilled away."
    ),
    "opd/reverse_kl_first": Metric(_NATS, "The same of the job's first step."),
    "opd/reverse_kl_p95": Metric(_NATS, "95 % of the tokens are below."),
    "opd/reverse_kl_max": Metric(_NATS, "The token the teacher dislikes most."),
    "opd/reverse_kl_negative_share": Metric("", "Share of tokens that the teacher likes better than the student does."),
    "opd/reverse_kl_q1": Metric(_NATS, "Mean over the first quarter of every response."),
    "opd/reverse_kl_q2": Metric(_NATS, "Mean over the second quarter of every response."),
    "opd/reverse_kl_q3": Metric(_NATS, "Mean over the third quarter of every response."),
    "opd/reverse_kl_q4": Metric(_NATS, "Mean over the last quarter of every response."),
    "opd/clamped_share": Metric("", "Share of tokens whose term distillation.maxLogRatio has cut."),
    "opd/kl_coef": Metric("", "Coefficient of the OPD term in this step."),
    "reward/mean": Metric(
        "", "Mean task reward of the valid samples as it enters the advantage, after post-processing and weight."
    ),
    "reward/raw": Metric("", "Mean verdict of the verifier, whatever its weight; the REWARD column."),
    "reward/raw_first": Metric("", "The same of the job's first step."),
    "policy/loss": Metric("", "Loss that was minimised, mean over the step's updates."),
    "policy/clip_frac": Metric("", "Share of tokens where the clip decided."),
    "policy/ppo_kl": Metric(_NATS, "Mean of log p_old - log p_new: how far the updates of the step moved the student."),
    "policy/entropy": Metric(_NATS, "Entropy of the student's next-token distribution."),
    "policy/kl_ref": Metric(_NATS, "Estimated KL to the reference model."),
    "policy/grad_norm": Metric("", "Gradient norm before clipping, mean over the step's updates."),
    "policy/lr": Metric("", "Learning rate."),
    "logprob/engine_vs_trainer_abs_mean": Metric(_NATS, "Mean distance of the engine's log-probs to the trainer's."),
    "logprob/engine_vs_trainer_abs_max": Metric(_NATS, "Largest such distance."),
    "teacher/latency_p95": Metric(_S, "95 % of the teacher's answers came faster."),
    "teacher/failed": Metric("samples", "Samples that got no usable score and were masked."),
    "teacher/tokens_per_second": Metric("tokens/s", "Response tokens scored a second while scoring."),
    "teacher/hidden_share": Metric("", "Share of the scoring time during which engines still generated."),
    "rollout/failed": Metric("samples", "Samples masked for any reason."),
    "rollout/filtered": Metric("groups", "Groups that the sample filter turned away."),
    "rollout/dropped_prompts": Metric("prompts", "Prompts dropped for their length."),
    "time/step": Metric(_S, "Wall time of the whole step."),
    "time/left": Metric(_S, "Estimated time to the end, by the last steps."),
    "time/rollout": Metric(_S, "Waiting for samples: generation, rewards, and the scoring that hides behind them."),
    "time/score": Metric(_S, "Teacher scoring that hides behind nothing."),
    "time/logprobs": Metric(
        _S, "Log-probs before the update: the student's, unless the update itself gives them, and the reference's."
    ),
    "time/update": Metric(_S, "Forward, backward, optimizer."),
    "time/sync": Metric(_S, "New weights into the engines, with their proof."),
    "time/save": Metric(_S, "Checkpoint of the step before."),
    "time/eval": Metric(_S, "Evaluation."),
    "tokens/prompt": Metric("tokens", "Prompt tokens of the samples that train."),
    "tokens/response": Metric("tokens", "Response tokens that train."),
    "tokens/truncated_share": Metric("", "Share of the samples that train whose responses reached maxResponseTokens."),
    "tokens/per_second": Metric("tokens/s", "Response tokens of the step over its wall time."),
    "eval/pass@1": Metric("", "Share of right answers on held-out prompts."),
    "eval/pass@1_low": Metric("", "Lower end of its 95 % Wilson interval."),
    "eval/pass@1_high": Metric("", "Upper end of its 95 % Wilson interval."),
    "eval/step": Metric("steps", "After which step the newest evaluation was made."),
    "eval/n": Metric("samples", "Answers judged."),
    "eval/failed": Metric("samples", "Answers that could not be judged."),
    "eval/mean_tokens": Metric("tokens", "Mean length of an answer."),
    "eval/teacher_pass@1": Metric("", "The teacher's share of right answers on the same prompts."),
}
"""Every metric a run writes, in the order people read them."""

TIME_PARTS = ("rollout", "score", "logprobs", "update", "sync", "save", "eval")
"""`time/…` names that add up to a step; what is missing to `time/step` is the driver's own work."""


def now() -> str:
    """UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """What one step leaves behind."""

    step: int
    """Completed steps, this one included; 0 is the evaluation before training."""
    total_steps: int
    metrics: dict[str, float]
    """By the names of METRICS; what a step has not measured is absent."""
    weight_version: int = 0
    """Of the weights in the engines after this step."""
    time: str = field(default_factory=now)

    def with_metrics(self, more: Mapping[str, float]) -> "StepRecord":
        return replace(self, metrics={**self.metrics, **more})

    def to_json(self) -> dict[str, Any]:
        """One flat object: a line of `metrics.jsonl`."""
        return {
            "step": self.step,
            "total_steps": self.total_steps,
            "time": self.time,
            "weight_version": self.weight_version,
            **self.metrics,
        }

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "StepRecord":
        return cls(
            step=line["step"],
            total_steps=line["total_steps"],
            time=line["time"],
            weight_version=line["weight_version"],
            # A number that was not finite is null in JSON: absent is what it says.
            metrics={name: value for name, value in line.items() if "/" in name and value is not None},
        )
