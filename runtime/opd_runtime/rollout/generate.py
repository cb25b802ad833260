"""Samples of a step: engines answer; rewards and teacher scores follow as each request comes back. No weights, no Ray.

With short answers calls are what costs, so one request carries as many samples as fit its token target; with long ones
each sample travels alone, and is scored while its neighbours still generate.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import batched, chain
from typing import Any

import numpy as np

from opd_api.spec import Rollout

from ..batch import Batch
from ..concurrency import together
from ..errors import EngineUnavailable, LogprobsUnusable, UserError
from ..teacher.logprobs import degraded
from ..teacher.scorer import TeacherScorer
from .clock import WorkClock
from .engine import EngineClient, Generation, check_ids
from .engine_pool import EnginePool
from .filters import GroupFilter
from .hooks import GENERATE, load_hook
from .rewards import Rewarder
from .sample import Finish, Prompt, Sample
from .tokenizer import PromptTokenizer

REQUEST_TOKENS = 2048
"""Response tokens one request may ask for: with more, its first samples would wait long for the slowest."""
TEACHER_FAILURE = "teacher: "
"""How the failure of a sample without a usable score begins."""

Sampling = dict[str, Any]
"""SGLang's sampling parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """One step's samples, in group order, and where the time went."""

    samples: list[Sample]
    wall_seconds: float
    generate_seconds: float
    """Time with at least one request at an engine."""
    score_seconds: float
    """Time with at least one sample waiting for its score."""
    hidden_share: float
    """Share of score_seconds inside generate_seconds; 1 when nothing was scored."""
    groups_rejected: int
    """By the filter; others took their place."""
    unscored: int
    """Samples masked because their teacher score is unusable."""
    degraded: bool
    """More than 5 % are unscored."""


class RolloutGenerator:
    """Generates, rewards and scores. One for the life of a job; bound to one event loop."""

    def __init__(
        self,
        engines: EnginePool,
        *,
        tokenizer: PromptTokenizer,
        rollout: Rollout,
        rewarder: Rewarder,
        scorer: TeacherScorer | None,
        hook_args: object = None,
    ) -> None:
        """`scorer` is None when the teacher sits in the trainers. `hook_args` goes first to the user's functions."""
        self.engines, self.tokenizer, self.rollout = engines, tokenizer, rollout
        self.rewarder, self.scorer = rewarder, scorer
        self._filter = GroupFilter(rollout.filter, hook_args) if rollout.filter else None
        self._function = load_hook(rollout.function, GENERATE) if rollout.function else None
        self._hook_args = hook_args

    async def collect(self, take: Callable[[int], Sequence[Prompt]], count: int) -> Collected:
        """`count` groups of samplesPerPrompt samples, rewarded and (with a scorer) scored. `take` gives more prompts.

        Raises TeacherUnavailable when more than half of the scores are unusable, EngineUnavailable, UserError.
        """
        clock = WorkClock()
        rejected_before = self._filter.rejected if self._filter else 0
        if self._filter:
            groups = await self._collect_filtered(self._filter, take, count, clock)
        else:
            groups = self._new_groups(take(count))
            await self._answer(groups, clock, then=self._reward_and_score)
        samples = list(chain.from_iterable(groups))
        self.rewarder.post_process(samples)
        unscored = sum(sample.failure.startswith(TEACHER_FAILURE) for sample in samples)
        return Collected(
            samples=samples,
            wall_seconds=clock.wall,
            generate_seconds=clock.generating,
            score_seconds=clock.scoring,
            hidden_share=clock.both / clock.scoring if clock.scoring else 1.0,
            groups_rejected=self._filter.rejected - rejected_before if self._filter else 0,
            unscored=unscored,
            degraded=degraded(unscored, len(samples)),
        )

    async def generate(
        self, prompts: Sequence[Prompt], samples_per_prompt: int, temperature: float, max_tokens: int
    ) -> list[Sample]:
        """Samples and nothing else, for evaluation: the whole distribution at `temperature`; 0 is greedy."""
        samples = [
            Sample(prompt=prompt, group=group)
            for group, prompt in enumerate(prompts)
            for _ in range(samples_per_prompt)
        ]
        sampling, clock = self._sampling(temperature, max_tokens), WorkClock()
        chunks = self._chunks(samples, samples_per_prompt, max_tokens)
        await together(self._fill(chunk, sampling, clock) for chunk in chunks)
        return samples

    async def close(self) -> None:
        await self.engines.close()

    async def _collect_filtered(
        self, group_filter: GroupFilter, take: Callable[[int], Sequence[Prompt]], count: int, clock: WorkClock
    ) -> list[list[Sample]]:
        """Rounds of generation until `count` groups passed the filter; only those are scored."""
        kept: list[list[Sample]] = []
        while len(kept) < count:
            groups = self._new_groups(take(count - len(kept)))
            await self._answer(groups, clock, then=self._reward)
            kept += group_filter.apply(groups)
        for index, group in enumerate(kept):
            for sample in group:
                sample.group = index
        await self._score(list(chain.from_iterable(kept)), clock)
        return kept

    def _new_groups(self, prompts: Sequence[Prompt]) -> list[list[Sample]]:
        n = self.rollout.samples_per_prompt
        return [[Sample(prompt=prompt, group=group) for _ in range(n)] for group, prompt in enumerate(prompts)]

    async def _answer(
        self,
        groups: Sequence[list[Sample]],
        clock: WorkClock,
        *,
        then: Callable[[Sequence[Sample], WorkClock], Awaitable[None]],
    ) -> None:
        """Fills all samples; `then` follows for each request's samples as soon as they are there."""
        rollout, fill = self.rollout, self._fill_by_function if self._function else self._fill
        sampling = self._sampling(rollout.temperature, rollout.max_response_tokens, rollout.top_p, rollout.top_k)
        samples = list(chain.from_iterable(groups))

        async def one_request(chunk: list[Sample]) -> None:
            await fill(chunk, sampling, clock)
            await then(chunk, clock)

        chunks = self._chunks(samples, rollout.samples_per_prompt, rollout.max_response_tokens)
        await together(one_request(chunk) for chunk in chunks)

    def _chunks(self, samples: list[Sample], group_size: int, max_tokens: int) -> Iterable[list[Sample]]:
        """Samples of one request each: up to REQUEST_TOKENS, a request for each engine, groups whole if they fit."""
        size = min(REQUEST_TOKENS // max_tokens, -(-len(samples) // len(self.engines.clients)))
        size = 1 if self._function else max(1, size // group_size * group_size or size)
        return (list(chunk) for chunk in batched(samples, size))

    def _sampling(self, temperature: float, max_tokens: int, top_p: float = 1.0, top_k: int = -1) -> Sampling:
        return {
            "temperature": temperature,
            "max_new_tokens": max_tokens,
            "top_p": top_p,
            "top_k": top_k,
            "stop_token_ids": self.tokenizer.eos_ids,
        }

    async def _fill(self, samples: list[Sample], sampling: Sampling, clock: WorkClock) -> None:
        """One request to an engine."""
        prompts = [sample.prompt.token_ids for sample in samples]

        async def ask(engine: EngineClient) -> list[Generation]:
            with clock.generate():
                return await engine.generate(prompts, sampling)

        tokens = sum(map(len, prompts)) + len(samples) * sampling["max_new_tokens"]
        for sample, generation in zip(samples, await self.engines.run(ask, tokens), strict=True):
            sample.response_ids = generation.ids
            sample.response = self.tokenizer.decode(generation.ids)
            sample.engine_logprobs = generation.logprobs
            sample.loss_mask = [True] * len(generation.ids)
            sample.weight_version = generation.weight_version
            sample.finish = generation.finish
            sample.failure = _failure(sample)

    async def _fill_by_function(self, samples: list[Sample], sampling: Sampling, clock: WorkClock) -> None:
        """The user's `rollout.function`, once a sample."""
        [sample] = samples
        assert self._function is not None
        function = self._function

        async def ask(engine: EngineClient) -> Sample:
            try:
                with clock.generate():
                    made = await function(
                        self._hook_args, sample.prompt, engine, sampling=dict(sampling), group=sample.group
                    )
                _check_made(made, self.tokenizer.vocab_size)
                return made
            except EngineUnavailable:
                raise
            except Exception as error:  # the user's function may raise and return anything
                raise UserError(
                    f"{self.rollout.function!r} failed: {type(error).__name__}: {error}",
                    path=GENERATE.field,
                    hint=f"it must be: {GENERATE.signature}",
                ) from error

        made = await self.engines.run(ask, len(sample.prompt.token_ids) + sampling["max_new_tokens"])
        for name in ("response_ids", "response", "engine_logprobs", "loss_mask", "weight_version", "finish", "failure"):
            setattr(sample, name, getattr(made, name))
        sample.failure = sample.failure or _failure(sample)

    async def _reward(self, samples: Sequence[Sample], clock: WorkClock) -> None:
        await self.rewarder.reward_all(samples)

    async def _reward_and_score(self, samples: Sequence[Sample], clock: WorkClock) -> None:
        """Side by side: neither needs the other."""
        await together([self.rewarder.reward_all(samples), self._score(samples, clock)])

    async def _score(self, samples: Sequence[Sample], clock: WorkClock) -> None:
        """Sets `teacher_logprobs`, or `failure` where the teacher's answer is unusable."""
        wanted = [sample for sample in samples if not sample.failure]
        if self.scorer is None or not wanted:
            return
        with clock.score():
            scores = await self.scorer.score([(sample.prompt.token_ids, sample.response_ids) for sample in wanted])
        for sample, score in zip(wanted, scores, strict=True):
            if isinstance(score, LogprobsUnusable):
                sample.failure = sample.failure or f"{TEACHER_FAILURE}{score}"
            else:
                sample.teacher_logprobs = score


def to_batch(samples: Sequence[Sample], kl_coef: float) -> Batch:
    """Flat arrays of a step's samples. Pure. A failed sample stays in, masked throughout: nothing of it trains.

    `teacher_logprobs_N` is None when no sample has a score (the teacher sits in the trainers), NaN where one lacks it.
    """
    lengths = [len(sample.response_ids) for sample in samples]
    for sample, length in zip(samples, lengths, strict=True):
        assert len(sample.engine_logprobs) == len(sample.loss_mask) == length
        assert sample.teacher_logprobs is None or len(sample.teacher_logprobs) == length
    valid_B = np.array([not sample.failure for sample in samples], dtype=np.bool_)
    scored = any(sample.teacher_logprobs is not None for sample in samples)
    teacher = (sample.teacher_logprobs or [np.nan] * n for sample, n in zip(samples, lengths, strict=True))
    tokens = chain.from_iterable(chain(sample.prompt.token_ids, sample.response_ids) for sample in samples)
    return Batch(
        tokens_S=np.fromiter(tokens, np.int32),
        prompt_lengths_B=np.array([len(sample.prompt.token_ids) for sample in samples], dtype=np.int32),
        response_lengths_B=np.array(lengths, dtype=np.int32),
        mask_N=np.fromiter(chain.from_iterable(s.loss_mask for s in samples), np.bool_) & np.repeat(valid_B, lengths),
        engine_logprobs_N=np.fromiter(chain.from_iterable(s.engine_logprobs for s in samples), np.float32),
        teacher_logprobs_N=np.fromiter(chain.from_iterable(teacher), np.float32) if scored else None,
        rewards_B=np.array([sample.reward for sample in samples], dtype=np.float32),
        groups_B=np.array([sample.group for sample in samples], dtype=np.int32),
        valid_B=valid_B,
        kl_coef=kl_coef,
    )


def _failure(sample: Sample) -> str:
    if sample.finish is Finish.ABORT:
        return "engine: the request was aborted"
    return "" if sample.response_ids else "engine: a response of zero tokens"


def _check_made(made: Any, vocab_size: int) -> None:
    """Raises for a Sample that the user's function left inconsistent."""
    if not isinstance(made, Sample):
        raise TypeError(f"it returned {type(made).__name__}, not Sample")
    lengths = {len(made.response_ids), len(made.engine_logprobs), len(made.loss_mask)}
    if len(lengths) != 1:
        raise ValueError("response_ids, engine_logprobs and loss_mask have different lengths")
    if made.response_ids:
        check_ids([made.response_ids], vocab_size)
