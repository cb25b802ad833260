"""pass@1 on held-out prompts, with its interval. On its own path: own prompts, own sampling, nothing of it trains.

Pure but for what it is given: who generates and who judges are callables.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from opd_api.spec import Evaluation, Rollout

from .rewards import Rewarder
from .sample import Prompt, Sample

PASS_THRESHOLD = 0.5
"""A raw reward above this counts as right; Math, Exact and most verifiers answer 0 or 1."""

Generate = Callable[[Sequence[Prompt], int, float, int], Awaitable[list[Sample]]]
"""(prompts, samples a prompt, temperature, most response tokens) -> samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult:
    """Of one evaluation."""

    pass_at_1: float | None
    """Share of right answers among the samples that could be judged; None when there is none."""
    low: float
    high: float
    """Wilson interval of pass_at_1, 95 %."""
    n: int
    """Samples judged."""
    mean_tokens: float
    """Response tokens a sample."""
    failed: int
    """Samples without an answer or a verdict: they count neither as right nor as wrong."""


def wilson_interval(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Confidence interval of a proportion that also holds near 0 and 1 (Wilson 1927); (0, 1) when n is 0."""
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = p + z * z / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


async def evaluate(
    prompts: Sequence[Prompt], generate: Generate, rewarder: Rewarder, evaluation: Evaluation, rollout: Rollout
) -> EvalResult:
    """Every prompt x samplesPerPrompt, judged. Never weighted, never post-processed."""
    samples = await generate(
        prompts,
        evaluation.samples_per_prompt,
        evaluation.temperature,
        evaluation.max_response_tokens or rollout.max_response_tokens,
    )
    await rewarder.reward_all(samples)
    return result_of(samples)


def result_of(samples: Sequence[Sample]) -> EvalResult:
    """Counts judged samples."""
    judged = [sample.raw_reward for sample in samples if not sample.failure and sample.raw_reward is not None]
    successes = sum(reward > PASS_THRESHOLD for reward in judged)
    low, high = wilson_interval(successes, len(judged))
    return EvalResult(
        pass_at_1=successes / len(judged) if judged else None,
        low=low,
        high=high,
        n=len(judged),
        mean_tokens=fmean(len(sample.response_ids) for sample in samples) if samples else 0.0,
        failed=len(samples) - len(judged),
    )
