"""A real SGLang server through our engine client and scorer, held against transformers in FP32.

Shows the numbers on a CPU; says nothing of BF16, CUDA or tensor parallelism.
"""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from opd_runtime.errors import LogprobsUnusable, UserError
from opd_runtime.rollout.engine import EngineClient
from opd_runtime.rollout.sample import Finish
from opd_runtime.teacher.probe import probe
from opd_runtime.teacher.scorer import TeacherScorer

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def reference(tiny_model: Path):
    """log p of each response token by transformers, one sequence at a time; at a temperature."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)

    @torch.no_grad()
    def logprobs(prompt: Sequence[int], response: Sequence[int], temperature: float = 1.0) -> list[float]:
        ids = torch.tensor([[*prompt, *response]])
        every = (model(ids).logits[0, :-1] / temperature).log_softmax(-1)
        return every.gather(-1, ids[0, 1:, None])[len(prompt) - 1 :, 0].tolist()

    return logprobs


def random_pairs(vocab_size: int, count: int = 40, longest: int = 60) -> list[tuple[list[int], list[int]]]:
    """Ragged: prompts of 1 to 60 ids, responses of 1 to `longest`, every third prompt that of its predecessor."""
    rng = random.Random(3)
    pairs: list[tuple[list[int], list[int]]] = []
    for n in range(count):
        prompt = pairs[-1][0] if n % 3 == 2 else [rng.randrange(vocab_size) for _ in range(rng.randint(1, 60))]
        pairs.append((prompt, [rng.randrange(vocab_size) for _ in range(rng.randint(1, longest))]))
    return pairs


def score(url: str, vocab_size: int, pairs, **options):
    async def run():
        async with TeacherScorer([url], vocab_size=vocab_size, **options) as scorer:
            return await scorer.score(pairs)

    return asyncio.run(run())


def generate(url: str, vocab_size: int, prompts, **sampling):
    async def run():
        async with EngineClient(url, vocab_size=vocab_size) as client:
            return await client.generate(prompts, sampling)

    return asyncio.run(run())


@pytest.mark.parametrize(
    "longest",
    [
        pytest.param(60, id="short sequences: attention over many of them at once"),
        pytest.param(300, id="long sequences: attention one by one"),
    ],
)
def test_teacher_scores_are_those_of_transformers(sglang_server, vocab_size, reference, longest):
    """Includes id V-1, which SGLang echoes as 0, and prompts that come from the cache the second time."""
    pairs = random_pairs(vocab_size, longest=longest)
    assert any(vocab_size - 1 in response for _, response in pairs)
    for _ in range(2):
        scores = score(sglang_server.url, vocab_size, pairs)
        for (prompt, response), ours in zip(pairs, scores, strict=True):
            assert ours == pytest.approx(reference(prompt, response), abs=TOLERANCE)


def test_a_score_does_not_depend_on_its_neighbours(sglang_server, vocab_size):
    pairs = random_pairs(vocab_size, 12)
    together = score(sglang_server.url, vocab_size, pairs)
    alone = score(sglang_server.url, vocab_size, pairs, max_tokens_in_flight=1)
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=TOLERANCE)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_of_generated_tokens_are_those_of_transformers(sglang_server, vocab_size, reference, temperature):
    prompts = [prompt for prompt, _ in random_pairs(vocab_size)]
    generations = generate(
        sglang_server.url, vocab_size, prompts, temperature=temperature, max_new_tokens=24, stop_token_ids=[1]
    )
    for prompt, generation in zip(prompts, generations, strict=True):
        assert generation.logprobs == pytest.approx(reference(prompt, generation.ids, temperature), abs=TOLERANCE)
        assert generation.weight_version == 5
        assert (generation.finish is Finish.STOP) == (generation.ids[-1] == 1)
        assert generation.finish is Finish.STOP or len(generation.ids) == 24
    assert {generation.finish for generation in generations} == {Finish.STOP, Finish.LENGTH}


def test_greedy_generation_follows_the_most_likely_token(sglang_server, vocab_size, reference):
    prompts = [prompt for prompt, _ in random_pairs(vocab_size, 6)]
    sampling = {"temperature": 0.0, "max_new_tokens": 5, "ignore_eos": True}
    for prompt, generation in zip(prompts, generate(sglang_server.url, vocab_size, prompts, **sampling), strict=True):
        for n, token in enumerate(generation.ids):
            before = generation.ids[:n]
            best = max(range(vocab_size), key=lambda i: reference(prompt, [*before, i])[-1])
            assert token == best


def test_a_response_of_zero_tokens_has_zero_scores_and_zero_generated_tokens_are_no_error(sglang_server, vocab_size):
    assert score(sglang_server.url, vocab_size, [([2, 3], [])]) == [[]]
    [generation] = generate(sglang_server.url, vocab_size, [[2, 3]], temperature=1.0, max_new_tokens=0)
    assert (generation.ids, generation.logprobs) == ([], [])


def test_an_id_outside_the_vocabulary_never_reaches_the_server(sglang_server, vocab_size):
    [result] = score(sglang_server.url, vocab_size, [([2], [vocab_size])])
    assert isinstance(result, LogprobsUnusable)
    with pytest.raises(UserError, match=f"token id {vocab_size} is outside"):
        generate(sglang_server.url, vocab_size, [[vocab_size]], max_new_tokens=1)
    assert score(sglang_server.url, vocab_size, [([2], [3])])[0]


def test_a_sequence_that_is_too_long_is_refused_alone(sglang_server, vocab_size):
    good, bad = score(sglang_server.url, vocab_size, [([2], [3, 4]), ([2], [3] * 2000)])
    assert len(good) == 2 and isinstance(bad, LogprobsUnusable) and "refused" in str(bad)
    with pytest.raises(UserError, match="refused a request"):
        generate(sglang_server.url, vocab_size, [[2] * 2000], max_new_tokens=4)


def test_the_probe_passes_a_real_teacher_and_knows_the_student_in_it(sglang_server, vocab_size, reference):
    ids = random_pairs(vocab_size)[4][1][:20]
    itself = reference(ids[:1], ids[1:])

    def ask(student_logprobs):
        return asyncio.run(
            probe(sglang_server.url, probe_ids=ids, vocab_size=vocab_size, student_logprobs=student_logprobs)
        )

    report = ask([value - 0.1 for value in itself])
    report.raise_if_failed()
    assert report.mean_logprob == pytest.approx(sum(itself) / len(itself), abs=TOLERANCE)
    assert ask(itself).reason == "SameAsStudent"
