"""SGLang beside a trainer on one GPU: its log-probs, and the trainer's weights in it with their proof."""

import asyncio
import dataclasses

import numpy as np
import pytest
from trainer_fixtures import SMALL_VOCABULARY

from opd_api.spec import Optimizer
from opd_runtime.errors import WeightSyncFailed
from opd_runtime.rollout.engine import EngineClient
from opd_runtime.rollout.server import SGLangServer
from opd_runtime.teacher.scorer import TeacherScorer

pytestmark = pytest.mark.gpu

BF16 = 3e-2
LENGTHS = [(1, 40), (30, 100), (3, 7), (60, 190), (9, 33)]


@pytest.fixture(scope="module")
def server(small_model, tmp_path_factory):
    server = SGLangServer(
        small_model(),
        device="cuda",
        bf16=True,
        memory_fraction=0.3,
        log_path=tmp_path_factory.mktemp("sglang") / "server.log",
    )
    server.start()
    try:
        server.wait_ready(600)
        yield server
    finally:
        server.stop()


@pytest.fixture
def batch(make_batch):
    return make_batch(LENGTHS, vocabulary=SMALL_VOCABULARY)


@pytest.fixture
def sender(server, tmp_path):
    from opd_runtime.orchestrate.weight_sync import WeightSender

    made = []

    def connect(transport: str) -> WeightSender:
        made.append(WeightSender(transport, [server.url], scratch_dir=tmp_path, kv_heads=2, deadline_seconds=120))
        made[-1].connect()
        return made[-1]

    yield connect
    for each in made:
        each.close()


def scores(url: str, batch) -> np.ndarray:
    """log p of every response token by the server, asked as a teacher is."""
    ends = np.cumsum(batch.prompt_lengths_B + batch.response_lengths_B)
    samples = np.split(batch.tokens_S, ends[:-1])
    pairs = [
        (ids[:prompt].tolist(), ids[prompt:].tolist())
        for ids, prompt in zip(samples, batch.prompt_lengths_B, strict=True)
    ]

    async def ask():
        async with TeacherScorer([url], vocab_size=SMALL_VOCABULARY) as scorer:
            return await scorer.score(pairs)

    return np.concatenate(asyncio.run(ask()))


def test_the_engine_holds_what_it_loaded_and_scores_as_transformers(
    server, small_model, batch, hf_logprobs, start_trainer, sender, record_property
):
    sender("Tensor").verify(start_trainer(small_model()).named_weights(), 0)
    difference = np.abs(scores(server.url, batch) - hf_logprobs(small_model(), batch)).max()
    record_property("largest difference", float(difference))
    assert difference < BF16


@pytest.mark.parametrize("transport", ["Tensor", "Disk"])
def test_the_engine_computes_with_the_weights_it_was_sent(
    transport, server, small_model, batch, hf_logprobs, start_trainer, sender, tmp_path, record_property
):
    trainer = start_trainer(small_model(), optimizer=Optimizer(lr=1e-3))
    for step in range(3):
        trainer.train_step(batch, step)
    trainer.export_hf(tmp_path / "export")
    want = hf_logprobs(tmp_path / "export", batch)
    report = sender(transport).send(trainer.named_weights(), 3)
    difference = np.abs(scores(server.url, batch) - want).max()
    record_property("largest difference", float(difference))
    record_property("seconds", report.seconds)
    assert np.abs(want - hf_logprobs(small_model(), batch)).max() > 0.1
    assert difference < BF16


def test_one_flipped_bit_is_found(small_model, start_trainer, sender):
    trainer = start_trainer(small_model())
    connected = sender("Tensor")
    deliver = connected.transport.publish

    def flipped(part):
        import torch

        (name, tensor), *rest = part.named
        changed = tensor.clone()
        changed.view(torch.int16).view(-1)[7] ^= 1
        return dataclasses.replace(part, named=((name, changed), *rest))

    connected.transport.publish = lambda parts, version: deliver(map(flipped, parts), version)
    with pytest.raises(
        WeightSyncFailed, match=r"model\.embed_tokens\.weight: trainer [0-9a-f]{16}, engine [0-9a-f]{16}"
    ):
        connected.send(trainer.named_weights(), 1)
    connected.transport.publish = deliver
    connected.send(trainer.named_weights(), 2)


def test_the_trainer_finds_the_sampler_s_log_probs(
    server, small_model, make_batch, start_trainer, sender, record_property
):
    """What a rollout says of its own tokens and what the trainer recomputes: both are BF16, by other kernels."""
    trainer = start_trainer(small_model())
    sender("Tensor").send(trainer.named_weights(), 4)
    prompts = [[5, 7, 11, 2], [40, 33, 9], [21] * 60]

    async def ask():
        async with EngineClient(server.url, vocab_size=SMALL_VOCABULARY) as client:
            return await client.generate(
                prompts, {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 64, "ignore_eos": True}
            )

    answers = asyncio.run(ask())
    tokens = np.concatenate([[*prompt, *answer.ids] for prompt, answer in zip(prompts, answers, strict=True)])
    batch = make_batch(
        [(len(prompt), len(answer.ids)) for prompt, answer in zip(prompts, answers, strict=True)],
        vocabulary=SMALL_VOCABULARY,
        tokens_S=tokens.astype(np.int32),
    )
    sampled = np.concatenate([answer.logprobs for answer in answers])
    difference = np.abs(trainer.logprobs(batch) - sampled).max()
    record_property("largest difference", float(difference))
    assert len(sampled) == 3 * 64
    assert difference < BF16
