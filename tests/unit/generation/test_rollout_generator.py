"""Generation, reward and score put together, with engines and a teacher inside this process."""

import asyncio
from typing import Any

import pytest

from opd_api.spec import Reward, Rollout
from opd_runtime.errors import EngineUnavailable, LogprobsUnusable, TeacherUnavailable, TrainerLost, UserError
from opd_runtime.rollout.engine_pool import EnginePool
from opd_runtime.rollout.generate import RolloutGenerator, to_batch
from opd_runtime.rollout.rewards import build_rewarder


class Scorer:
    """Stands in for TeacherScorer: -1 for every token, or what `judge(pair)` says."""

    def __init__(self, judge=None) -> None:
        self.judge, self.calls = judge, []

    async def score(self, pairs) -> list[Any]:
        self.calls.append(list(pairs))
        await asyncio.sleep(0)
        return [self.judge(pair) if self.judge else [-1.0] * len(pair[1]) for pair in pairs]


async def no_recovery(index: int) -> str:
    raise EngineUnavailable("gone for good")


@pytest.fixture
def collect(digits, make_prompts):
    """Runs one `collect`; returns (Collected, engines, scorer, prompts taken)."""

    def run(engines, *, count=4, scorer=None, reward="None", recover=None, **rollout) -> Any:
        taken: list[int] = []

        def take(n: int):
            prompts = make_prompts(n, start=len(taken))
            taken.extend(prompt.index for prompt in prompts)
            return prompts

        async def inner():
            generator = RolloutGenerator(
                EnginePool(engines, recover or no_recovery),
                tokenizer=digits,
                rollout=Rollout(**({"samples_per_prompt": 2, "max_response_tokens": 8} | rollout)),
                rewarder=build_rewarder(Reward(type=reward)),
                scorer=scorer,
            )
            return await generator.collect(take, count)

        return asyncio.run(inner()), taken

    return run


def test_samples_come_in_group_order_complete_and_scored(collect, make_engine):
    engine, scorer = make_engine(), Scorer()
    engine.version = 7
    collected, taken = collect([engine], scorer=scorer, reward="Exact")
    assert taken == [0, 1, 2, 3]
    assert [sample.group for sample in collected.samples] == [0, 0, 1, 1, 2, 2, 3, 3]
    for sample in collected.samples:
        assert sample.response_ids == [sample.prompt.token_ids[0], 1]
        assert sample.response == sample.prompt.label and sample.reward == 1.0
        assert sample.teacher_logprobs == [-1.0, -1.0] and sample.engine_logprobs == [-0.5, -0.5]
        assert sample.loss_mask == [True, True] and sample.weight_version == 7 and sample.failure == ""
    assert collected.unscored == 0 and not collected.degraded
    assert 0 <= collected.hidden_share <= 1 and collected.wall_seconds >= collected.generate_seconds
    assert to_batch(collected.samples, 1.0).mask_N.all()


def test_an_answer_is_scored_while_others_are_still_generated(collect, make_engine):
    scored = asyncio.Event()

    class Teacher(Scorer):
        async def score(self, pairs) -> list[Any]:
            scores = await super().score(pairs)
            scored.set()
            return scores

    class SlowEngine(make_engine):
        async def generate(self, prompts, sampling):
            await asyncio.wait_for(scored.wait(), timeout=10)
            return await super().generate(prompts, sampling)

    scorer = Teacher()
    collected, _ = collect([make_engine(), SlowEngine()], scorer=scorer)
    assert [[prompt[0] for prompt, _ in call] for call in scorer.calls] == [[2, 2, 3, 3], [4, 4, 5, 5]]
    assert 0 < collected.hidden_share < 1


def test_no_more_requests_are_under_way_than_the_engines_may_have(make_engine):
    under_way, most = 0, 0

    async def work(engine) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1

    async def main() -> None:
        pool = EnginePool([make_engine(), make_engine()], no_recovery, pieces_per_engine=3)
        await asyncio.gather(*(pool.run(work, tokens=10) for _ in range(20)))

    asyncio.run(main())
    assert most == 6


@pytest.mark.parametrize(
    ("engines", "max_tokens", "want_sizes"),
    [
        pytest.param(1, 4, [64], id="short answers travel all in one request"),
        pytest.param(2, 4, [32, 32], id="every engine gets a request"),
        pytest.param(1, 100, [20, 20, 20, 4], id="a request asks for 2048 tokens at most, groups kept whole"),
        pytest.param(1, 600, [3] * 21 + [1], id="a group that is too long for one request is split"),
        pytest.param(1, 4096, [1] * 64, id="long answers travel alone"),
    ],
)
def test_samples_per_request_follow_the_length_of_answers(collect, make_engine, engines, max_tokens, want_sizes):
    made = [make_engine() for _ in range(engines)]
    collect(made, count=16, samples_per_prompt=4, max_response_tokens=max_tokens)
    sizes = [len(request) for engine in made for request in engine.requests]
    assert sorted(sizes, reverse=True) == want_sizes


def test_sampling_parameters_are_the_jobs(collect, make_engine):
    engine = make_engine()
    collect([engine], temperature=0.7, top_p=0.9, top_k=5)
    assert engine.samplings[0] == {
        "temperature": 0.7,
        "max_new_tokens": 8,
        "top_p": 0.9,
        "top_k": 5,
        "stop_token_ids": (1,),
    }


def test_a_response_of_zero_tokens_is_masked_and_not_scored(collect, make_engine):
    engine, scorer = (
        make_engine(lambda number, prompts: [[] if n == 0 else [5, 1] for n, _ in enumerate(prompts)]),
        Scorer(),
    )
    collected, _ = collect([engine], scorer=scorer)
    assert collected.samples[0].failure == "engine: a response of zero tokens"
    assert [len(call) for call in scorer.calls] == [7]
    assert to_batch(collected.samples, 1.0).valid_B.tolist() == [False] + [True] * 7


def test_a_sample_without_a_usable_score_is_masked_and_counted(collect, make_engine):
    scorer = Scorer(lambda pair: LogprobsUnusable("NaN") if pair[0][0] == 2 else [-1.0, -1.0])
    collected, _ = collect([make_engine()], scorer=scorer)
    assert [sample.failure for sample in collected.samples[:2]] == ["teacher: NaN"] * 2
    assert collected.unscored == 2 and collected.degraded


def test_more_than_half_without_a_score_ends_the_step(collect, make_engine):
    scorer = Scorer(lambda pair: LogprobsUnusable("NaN") if pair[0][0] != 2 else [-1.0, -1.0])
    with pytest.raises(TeacherUnavailable, match="6 of the step's 8"):
        collect([make_engine()], scorer=scorer)


def test_a_dead_engine_is_brought_back_once_and_its_work_done_again(collect, make_engine):
    def dies_once(number, prompts):
        if not recovered:
            raise EngineUnavailable("died")
        return [[5, 1] for _ in prompts]

    recovered: list[int] = []

    async def recover(index: int) -> str:
        await asyncio.sleep(0)
        recovered.append(index)
        return "http://elsewhere"

    engine = make_engine(dies_once)
    collected, _ = collect([engine], recover=recover, count=8, max_response_tokens=2048)
    assert recovered == [0]
    assert engine.url == "http://elsewhere"
    assert all(sample.response_ids == [5, 1] for sample in collected.samples)


def test_an_engine_that_dies_of_every_request_ends_the_step(collect, make_engine):
    async def recover(index: int) -> str:
        return "http://again"

    def always(number, prompts):
        raise EngineUnavailable("died again")

    engine = make_engine(always)
    with pytest.raises(EngineUnavailable, match="died again"):
        collect([engine], recover=recover, count=1)
    assert len(engine.requests) == 3


def test_an_engine_that_does_not_come_back_ends_the_step(collect, make_engine):
    def always(number, prompts):
        raise EngineUnavailable("died")

    with pytest.raises(EngineUnavailable, match="gone for good"):
        collect([make_engine(always)])


def keep_even(args, samples, **kw) -> bool:
    return samples[0].prompt.index % 2 == 0


def keep_none(args, samples, **kw) -> bool:
    return False


def test_filtered_groups_are_replaced_from_the_stream_and_only_kept_ones_scored(collect, make_engine):
    scorer = Scorer()
    collected, taken = collect([make_engine()], scorer=scorer, filter=f"{__file__}:keep_even")
    assert [sample.prompt.index for sample in collected.samples[::2]] == [0, 2, 4, 6]
    assert [sample.group for sample in collected.samples] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(taken) == 7 and collected.groups_rejected == 3
    assert sum(len(call) for call in scorer.calls) == 8


def test_a_filter_that_keeps_nothing_is_the_users_error(collect, make_engine):
    with pytest.raises(UserError, match="kept none"):
        collect([make_engine()], filter=f"{__file__}:keep_none")


async def twice(args, prompt, engine, **kw):
    """A rollout function that asks the engine itself and adds a token that is not trained on."""
    from opd_runtime.rollout.sample import Sample

    [generation] = await engine.generate([prompt.token_ids], kw["sampling"])
    return Sample(
        prompt=prompt,
        group=0,
        response_ids=[*generation.ids, 9],
        engine_logprobs=[*generation.logprobs, 0.0],
        loss_mask=[True] * len(generation.ids) + [False],
        weight_version=generation.weight_version,
    )


async def crooked(args, prompt, engine, **kw):
    from opd_runtime.rollout.sample import Sample

    return Sample(prompt=prompt, group=0, response_ids=[1, 2], engine_logprobs=[0.0], loss_mask=[True])


async def outside(args, prompt, engine, **kw):
    from opd_runtime.rollout.sample import Sample

    return Sample(prompt=prompt, group=0, response_ids=[20], engine_logprobs=[0.0], loss_mask=[True])


async def nothing(args, prompt, engine, **kw):
    return None


def test_a_rollout_function_makes_each_sample(collect, make_engine):
    collected, _ = collect([make_engine()], function=f"{__file__}:twice", scorer=Scorer())
    assert [sample.group for sample in collected.samples] == [0, 0, 1, 1, 2, 2, 3, 3]
    for sample in collected.samples:
        assert sample.response_ids == [sample.prompt.token_ids[0], 1, 9] and sample.loss_mask == [True, True, False]
        assert sample.teacher_logprobs == [-1.0] * 3


@pytest.mark.parametrize(
    ("function", "want_message"),
    [
        pytest.param("crooked", "different lengths", id="lengths that differ"),
        pytest.param("outside", "token id 20 is outside", id="an id outside the vocabulary"),
        pytest.param("nothing", "NoneType, not Sample", id="no sample"),
    ],
)
def test_a_rollout_function_that_misbehaves_is_the_users_error(collect, make_engine, function, want_message):
    with pytest.raises(UserError, match=want_message) as caught:
        collect([make_engine()], function=f"{__file__}:{function}")
    assert caught.value.path == "spec.rollout.function"


def test_an_engine_that_cannot_come_back_is_not_the_functions_fault(collect, make_engine):
    def dies(number, prompts):
        raise EngineUnavailable("gone")

    async def recover(index: int) -> str:
        raise TrainerLost("a trainer process died")

    with pytest.raises(TrainerLost):
        collect([make_engine(dies)], function=f"{__file__}:twice", recover=recover)


def test_evaluation_asks_for_its_own_sampling_and_neither_rewards_nor_scores(digits, make_engine, make_prompts):
    engine, scorer = make_engine(), Scorer()

    async def recover(index: int) -> str:
        raise AssertionError("no engine died")

    async def run():
        generator = RolloutGenerator(
            EnginePool([engine], recover),
            tokenizer=digits,
            rollout=Rollout(top_p=0.5),
            rewarder=build_rewarder(Reward(type="Exact")),
            scorer=scorer,
        )
        return await generator.generate(make_prompts(3), 2, 0.0, 16)

    samples = asyncio.run(run())
    assert [sample.group for sample in samples] == [0, 0, 1, 1, 2, 2]
    assert all(sample.raw_reward is None and sample.teacher_logprobs is None for sample in samples)
    sampling = engine.samplings[0]
    assert (sampling["temperature"], sampling["top_p"], sampling["max_new_tokens"]) == (0.0, 1.0, 16)
    assert scorer.calls == []
