"""What a run remembers: the state a checkpoint carries, the numbers of a step, the summary at the end. Plain data."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from statistics import fmean
from typing import Any

from ..rollout.evaluate import EvalResult
from ..rollout.generate import Collected
from ..rollout.rewards.rewarder import REWARD_FAILURE
from ..rollout.sample import Finish, Sample
from ..teacher.stats import ScorerStats

LAST_STEPS = 5
"""The summary compares the first step's reverse KL with the mean of so many last ones."""


@dataclass(slots=True, kw_only=True)
class RunState:
    """Everything beside the weights that a resumed run continues from."""

    step: int = 0
    """Completed steps."""
    kl_coef: float
    cursor: dict[str, Any] = field(default_factory=dict)
    """State of the prompt stream after the completed steps."""
    seconds: float = 0.0
    """Wall time of the run so far, over all attempts."""
    first_reverse_kl: float | None = None
    last_reverse_kls: list[float] = field(default_factory=list)
    pass_at_1: dict[str, float | None] = field(default_factory=lambda: {"before": None, "after": None, "teacher": None})

    def advance(self, reverse_kl: float | None, cursor: dict[str, Any]) -> None:
        """One more step is done. A step whose samples were all masked has no reverse KL."""
        self.step += 1
        self.cursor = cursor
        if reverse_kl is None:
            return
        if self.first_reverse_kl is None:
            self.first_reverse_kl = reverse_kl
        self.last_reverse_kls = [*self.last_reverse_kls, reverse_kl][-LAST_STEPS:]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "RunState":
        return cls(**{f.name: document[f.name] for f in fields(cls) if f.name in document})

    def summary(self, teacher_mode: str) -> dict[str, Any]:
        """The document `summary.json`."""
        last = fmean(self.last_reverse_kls) if self.last_reverse_kls else None
        return {
            "teacher_mode": teacher_mode,
            "steps": self.step,
            "seconds": round(self.seconds, 1),
            "reverse_kl": {"first": self.first_reverse_kl, "last": last},
            "pass_at_1": self.pass_at_1,
        }


def rollout_metrics(collected: Collected, dropped_prompts: int) -> dict[str, float]:
    """Rewards, tokens and what was lost on the way to a batch."""
    samples = collected.samples
    valid = [sample for sample in samples if not sample.failure]
    raws = [sample.raw_reward for sample in valid if sample.raw_reward is not None]
    truncated = sum(sample.finish is Finish.LENGTH for sample in valid)
    metrics = {
        "rollout/failed": float(len(samples) - len(valid)),
        "rollout/filtered": float(collected.groups_rejected),
        "rollout/dropped_prompts": float(dropped_prompts),
        "tokens/prompt": float(sum(len(sample.prompt.token_ids) for sample in valid)),
        "tokens/response": float(response_tokens(samples)),
        "tokens/truncated_share": truncated / max(len(valid), 1),
    }
    if raws:
        metrics |= {"reward/mean": fmean(sample.reward for sample in valid), "reward/raw": fmean(raws)}
    return metrics


def commonest_reward_failure(collected: Collected) -> tuple[str, int]:
    """What happened and to how many samples; ("", 0) when every reward is there."""
    failures = [sample.failure for sample in collected.samples if sample.failure.startswith(REWARD_FAILURE)]
    [(failure, count)] = Counter(failures).most_common(1) or [("", 0)]
    return failure.removeprefix(REWARD_FAILURE), count


def response_tokens(samples: list[Sample]) -> int:
    """Of samples that train."""
    return sum(sum(sample.loss_mask) for sample in samples if not sample.failure)


def teacher_metrics(collected: Collected, stats: ScorerStats) -> dict[str, float]:
    """How an SGLang teacher did in one step."""
    scored = sum(len(sample.response_ids) for sample in collected.samples if sample.teacher_logprobs is not None)
    return {
        "teacher/latency_p95": stats.latency_p95_seconds,
        "teacher/failed": float(collected.unscored),
        "teacher/tokens_per_second": scored / max(collected.score_seconds, 1e-9),
        "teacher/hidden_share": collected.hidden_share,
    }


def time_metrics(collected: Collected, laps: Mapping[str, float], trainer: Mapping[str, float]) -> dict[str, float]:
    """Seconds of a step by what they were spent on; `laps` are the driver's, `trainer` what rank 0 says of its part."""
    exposed = min(laps["rollout"], collected.score_seconds * (1 - collected.hidden_share))
    seconds = {
        **{name: value for name, value in laps.items() if name != "train"},
        "rollout": laps["rollout"] - exposed,
        "score": exposed + trainer["teacher"],
        "logprobs": trainer["logprobs"],
        "update": trainer["update"],
        "step": sum(laps.values()),
    }
    return {f"time/{name}": value for name, value in seconds.items()}


def eval_metrics(result: EvalResult) -> dict[str, float]:
    """Without a verdict there is no pass@1: a made-up 0 would be plotted and believed."""
    counted = {
        "eval/n": float(result.n),
        "eval/failed": float(result.failed),
        "eval/mean_tokens": result.mean_tokens,
    }
    if result.pass_at_1 is None:
        return counted
    return {"eval/pass@1": result.pass_at_1, "eval/pass@1_low": result.low, "eval/pass@1_high": result.high} | counted
