"""Rewards a finished sample: asks the job's verifier, weighs its number, masks what failed.

A verifier that cannot judge a sample never becomes a made-up number: the sample is masked with the reason.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from opd_api.spec import Reward

from ...errors import UserError
from ..hooks import POST_PROCESS, REWARD, load_hook
from ..sample import Sample
from .custom_verifier import CustomVerifier
from .exact_verifier import ExactVerifier
from .failure import RewardFailed
from .math_verifier import MathVerifier
from .remote_verifier import RemoteVerifier

NEEDS_LABEL = ("Math", "Exact")
"""Reward types that compare with the record's label."""
REWARD_FAILURE = "reward: "
"""How the failure of a sample without a reward begins."""


class Verifier(Protocol):
    """Judges one response. Raises RewardFailed when it cannot."""

    async def verify(self, sample: Sample) -> float: ...
    async def close(self) -> None: ...


class Rewarder:
    """What the loop calls. Without a verifier every reward stays 0 and `raw_reward` None: pure distillation."""

    def __init__(
        self,
        verifier: Verifier | None,
        *,
        weight: float,
        post_process: Callable[..., Any] | None = None,
        args: object = None,
    ) -> None:
        self._verifier, self._weight, self._post_process, self._args = verifier, weight, post_process, args

    async def reward(self, sample: Sample) -> None:
        """Sets `raw_reward` and `reward`, or `failure`. A sample that failed before is left alone."""
        if self._verifier is None or sample.failure:
            return
        try:
            raw = float(await self._verifier.verify(sample))
            if not math.isfinite(raw):
                raise RewardFailed(f"the reward is {raw}")
        except RewardFailed as error:
            sample.failure = f"{REWARD_FAILURE}{error}"
            return
        sample.raw_reward = raw
        sample.reward = self._weight * raw

    async def reward_all(self, samples: Sequence[Sample]) -> None:
        """`reward` of many samples side by side."""
        await asyncio.gather(*(self.reward(sample) for sample in samples))

    def post_process(self, samples: Sequence[Sample]) -> None:
        """The user's `reward.postProcess` over a whole step; nothing without one. Raises UserError when it fails."""
        if self._post_process is None:
            return
        rewarded = [sample for sample in samples if not sample.failure]
        try:
            raws, processed = self._post_process(self._args, rewarded)
            pairs = [(float(raw), float(value)) for raw, value in zip(raws, processed, strict=True)]
            _check_pairs(pairs, rewarded)
        except Exception as error:  # the user's function may raise and return anything
            raise UserError(
                f"failed: {type(error).__name__}: {error}",
                path=POST_PROCESS.field,
                hint=f"it must be: {POST_PROCESS.signature}",
            ) from error
        for sample, (raw, value) in zip(rewarded, pairs, strict=True):
            sample.raw_reward = raw
            sample.reward = self._weight * value

    async def close(self) -> None:
        if self._verifier is not None:
            await self._verifier.close()


def _check_pairs(pairs: Sequence[tuple[float, float]], samples: Sequence[Sample]) -> None:
    if len(pairs) != len(samples):
        raise ValueError(f"{len(pairs)} rewards for {len(samples)} samples")
    if not all(math.isfinite(number) for pair in pairs for number in pair):
        raise ValueError("a reward that is not finite")


def build_rewarder(reward: Reward, *, args: object = None) -> Rewarder:
    """`args` is what the user's hooks get first: the run's configuration. Raises UserError for a bad hook."""
    post_process = load_hook(reward.post_process, POST_PROCESS) if reward.post_process else None
    return Rewarder(_build_verifier(reward, args), weight=reward.weight, post_process=post_process, args=args)


def build_eval_rewarder(reward: Reward, *, args: object = None) -> Rewarder:
    """The verifier alone, unweighted: evaluation's own path. Pure distillation is held to its labels (Exact)."""
    verifier = _build_verifier(reward, args) or ExactVerifier()
    return Rewarder(verifier, weight=1.0, args=args)


def _build_verifier(reward: Reward, args: object) -> Verifier | None:
    match reward.type:
        case "None":
            return None
        case "Exact":
            return ExactVerifier()
        case "Math":
            return MathVerifier(timeout_seconds=reward.timeout_seconds)
        case "Remote":
            return RemoteVerifier(reward.url, timeout_seconds=reward.timeout_seconds)
        case "Custom":
            return CustomVerifier(load_hook(reward.function, REWARD), args, timeout_seconds=reward.timeout_seconds)
