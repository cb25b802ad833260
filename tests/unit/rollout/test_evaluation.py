"""pass@1 and its interval."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opd_api.spec import Evaluation, Reward, Rollout
from opd_runtime.rollout.evaluate import evaluate, result_of, wilson_interval
from opd_runtime.rollout.rewards import build_eval_rewarder
from opd_runtime.rollout.sample import Prompt, Sample


@pytest.mark.parametrize(
    ("successes", "n", "want"),
    [
        # Wilson score without continuity correction, from Newcombe, Stat. Med. 17 (1998), table I.
        pytest.param(81, 263, (0.2553, 0.3662), id="81 of 263"),
        pytest.param(15, 148, (0.0624, 0.1605), id="15 of 148"),
        pytest.param(0, 20, (0.0, 0.1611), id="none of 20"),
        pytest.param(1, 29, (0.0061, 0.1718), id="1 of 29"),
        pytest.param(0, 0, (0.0, 1.0), id="nothing tried says nothing"),
    ],
)
def test_the_interval_is_the_published_one(successes, n, want):
    assert wilson_interval(successes, n) == pytest.approx(want, abs=1e-4)


@given(n=st.integers(1, 5000), data=st.data())
def test_the_interval_holds_the_share_and_stays_between_0_and_1(n, data):
    successes = data.draw(st.integers(0, n))
    low, high = wilson_interval(successes, n)
    assert 0.0 <= low <= successes / n + 1e-12 and successes / n - 1e-12 <= high <= 1.0


def answer(prompt: Prompt, text: str) -> Sample:
    return Sample(prompt=prompt, group=prompt.index, response=text, response_ids=[2] * len(text))


@pytest.fixture
def prompts() -> list[Prompt]:
    return [Prompt(index=i, text=f"{i}+1=", token_ids=(1,), label=str(i + 1), record={}) for i in range(4)]


def run_evaluation(prompts, evaluation: Evaluation, texts: dict[int, str]):
    asked = []

    async def generate(prompts, samples_per_prompt, temperature, max_response_tokens):
        asked.append((len(prompts), samples_per_prompt, temperature, max_response_tokens))
        return [answer(prompt, texts[prompt.index]) for prompt in prompts for _ in range(samples_per_prompt)]

    rewarder = build_eval_rewarder(Reward())
    result = asyncio.run(evaluate(prompts, generate, rewarder, evaluation, Rollout(max_response_tokens=9)))
    return result, asked


def test_every_prompt_is_asked_as_often_as_the_job_says_and_judged_by_its_label(prompts):
    texts = {0: "1", 1: " 2 ", 2: "4", 3: "44"}
    result, asked = run_evaluation(prompts, Evaluation(samples_per_prompt=2, temperature=0.5), texts)
    assert asked == [(4, 2, 0.5, 9)]
    assert (result.pass_at_1, result.n, result.failed) == (0.5, 8, 0)
    assert result.mean_tokens == pytest.approx((1 + 3 + 1 + 2) / 4)
    assert (result.low, result.high) == wilson_interval(4, 8)


def test_evaluation_may_allow_another_length(prompts):
    _, asked = run_evaluation(prompts, Evaluation(max_response_tokens=3), dict.fromkeys(range(4), "1"))
    assert asked == [(4, 1, 0.0, 3)]


def test_a_sample_that_failed_is_counted_and_neither_right_nor_wrong(prompts):
    right, failed = answer(prompts[0], "1"), answer(prompts[1], "")
    right.raw_reward, failed.failure = 1.0, "engine: gone"
    result = result_of([right, failed])
    assert (result.pass_at_1, result.n, result.failed) == (1.0, 1, 1)


def test_nothing_judged_is_no_success():
    result = result_of([])
    assert (result.pass_at_1, result.low, result.high, result.n) == (None, 0.0, 1.0, 0)
