"""The unavoidable parts of a step, each alone: two SGLang servers, plain transformers and torch, none of our driver.

    python bench/bare.py JOB.yaml FOLDER --rounds N

A process of its own. Reads the job's models and prompts (FOLDER is its pvc://bench), makes one step's samples, and
prints one JSON line: part -> seconds, one number a round.

Shapes: B samples of the step, s padded length, N response tokens packed.
"""

import argparse
import asyncio
import contextlib
import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import torch
from opd_run import VOLUME
from torch import Tensor
from transformers import AutoModelForCausalLM

from opd_runtime.cli.options import load
from opd_runtime.config import TrainConfig
from opd_runtime.megatron.objective import needs_old_logprobs
from opd_runtime.orchestrate.resolve import Places, resolve
from opd_runtime.orchestrate.weight_sync import BUCKET_BYTES
from opd_runtime.orchestrate.weight_transports import DistributedTransport, Engines, buckets
from opd_runtime.rollout.data import PromptStream
from opd_runtime.rollout.rewards import build_rewarder
from opd_runtime.rollout.sample import Sample
from opd_runtime.rollout.server import SGLangServer
from opd_runtime.rollout.tokenizer import PromptTokenizer
from opd_runtime.teacher.logprobs import request_body

STARTUP_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Padded:
    """A step's tokens for plain transformers; a causal model does not see the padding at the end."""

    tokens_Bs: Tensor
    rows_N: tuple[Tensor, Tensor]
    """Sample and position whose logits predict each response token."""
    targets_N: Tensor

    @classmethod
    def of(cls, samples: list[Sample]) -> "Padded":
        whole = [[*sample.prompt.token_ids, *sample.response_ids] for sample in samples]
        tokens = torch.zeros(len(whole), max(map(len, whole)), dtype=torch.long)
        rows, columns = [], []
        for row, (ids, sample) in enumerate(zip(whole, samples, strict=True)):
            tokens[row, : len(ids)] = torch.tensor(ids)
            positions = range(len(sample.prompt.token_ids) - 1, len(ids) - 1)
            rows += [row] * len(positions)
            columns += positions
        index = torch.tensor(rows), torch.tensor(columns)
        return cls(tokens[:, :-1], index, tokens[index[0], index[1] + 1])

    def logprobs_N(self, model) -> Tensor:
        """Only rows that predict a response token go through the head."""
        hidden = model.base_model(input_ids=self.tokens_Bs, use_cache=False).last_hidden_state[self.rows_N]
        logits = model.lm_head(hidden)
        return logits.gather(1, self.targets_N[:, None]).squeeze(1) - logits.logsumexp(1)


def parts(cfg: TrainConfig, teacher_path: Path, engine: str, teacher: str) -> dict[str, Callable[[], None]]:
    """One closure for each part, over the same samples."""
    tokenizer = PromptTokenizer(cfg.student_path, apply_chat_template=cfg.data.apply_chat_template)
    rollout = cfg.rollout
    stream = PromptStream(cfg.prompts, tokenizer, cfg.data, rollout.max_prompt_tokens, cfg.seed, needs_label=False)
    samples = [
        Sample(prompt=prompt, group=group)
        for group, prompt in enumerate(stream.take(rollout.batch_size))
        for _ in range(rollout.samples_per_prompt)
    ]
    sampling = {
        "temperature": rollout.temperature,
        "max_new_tokens": rollout.max_response_tokens,
        "stop_token_ids": tokenizer.eos_ids,
    }
    question = {
        "input_ids": [sample.prompt.token_ids for sample in samples],
        "sampling_params": sampling,
        "return_logprob": True,
    }
    generate_body = orjson.dumps(question)
    generated = orjson.loads(_post(f"{engine}/generate", generate_body))
    for sample, answer in zip(samples, generated, strict=True):
        sample.response_ids = answer["output_ids"]
        sample.response = tokenizer.decode(sample.response_ids)
    # Equal sequences have equal scores: one of each is what cannot be avoided.
    scores = request_body(list({(sample.prompt.token_ids, tuple(sample.response_ids)): None for sample in samples}))
    score_body = orjson.dumps(scores)
    answers = _post(f"{engine}/generate", generate_body), _post(f"{teacher}/generate", score_body)
    rewarder = build_rewarder(cfg.reward)

    def json_both() -> None:
        for body, answer in zip((question, scores), answers, strict=True):
            orjson.dumps(body)
            orjson.loads(answer)

    return {
        "generate": lambda: _post(f"{engine}/generate", generate_body),
        "score": lambda: _post(f"{teacher}/generate", score_body),
        "json": json_both,
        "rewards": lambda: asyncio.run(rewarder.reward_all(samples)),
        **_training(cfg, teacher_path, samples, engine),
    }


def _training(
    cfg: TrainConfig, teacher_path: Path, samples: list[Sample], engine: str
) -> dict[str, Callable[[], None]]:
    student = AutoModelForCausalLM.from_pretrained(cfg.student_path, dtype=torch.float32)
    teacher = AutoModelForCausalLM.from_pretrained(teacher_path, dtype=torch.float32)
    adam = torch.optim.AdamW(student.parameters(), lr=1e-6)
    step, updates = Padded.of(samples), cfg.algorithm.updates_per_step
    splits = [Padded.of(samples[part::updates]) for part in range(updates)]
    engines = Engines([engine], STARTUP_SECONDS)
    transport = DistributedTransport(engines, 1, cuda=False)
    transport.connect()

    def update() -> None:
        for split in splits:
            new_N = split.logprobs_N(student)
            (-(new_N - new_N.detach()).exp().mean()).backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            adam.step()
            adam.zero_grad()

    def sync() -> None:
        named = ((name, parameter.data) for name, parameter in student.named_parameters())
        transport.publish(buckets(named, BUCKET_BYTES["Distributed"]), "0")

    before = {"logprobs": torch.no_grad()(lambda: step.logprobs_N(student))}
    return {
        **(before if needs_old_logprobs(cfg.algorithm) else {}),
        "teacher": torch.no_grad()(lambda: step.logprobs_N(teacher)),
        "update": update,
        "sync": sync,
    }


def measure(cfg: TrainConfig, teacher_path: Path, engine: str, teacher: str, rounds: int) -> dict[str, list[float]]:
    """Every part once a round, so that a busy minute falls on all of them. The first round warms up."""
    work = parts(cfg, teacher_path, engine, teacher)
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, part in work.items():
            started = time.perf_counter()
            part()
            seconds[name].append(time.perf_counter() - started)
    return {name: taken[1:] for name, taken in seconds.items()}


@contextlib.contextmanager
def servers(cfg: TrainConfig, *paths: Path) -> Iterator[list[str]]:
    """One SGLang server for each folder; their URLs once they answer."""
    started = []
    try:
        for number, path in enumerate(paths):
            log = cfg.run_dir / f"bare-{number}.log"
            server = SGLangServer(
                path,
                device="cpu",
                bf16=False,
                memory_fraction=0.8,
                log_path=log,
                extra_args=cfg.rollout.engines.args,
            )
            server.start()
            started.append(server)
        for server in started:
            server.wait_ready(STARTUP_SECONDS)
        yield [server.url for server in started]
    finally:
        for server in started:
            server.stop()


def _post(url: str, body: bytes) -> bytes:
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=STARTUP_SECONDS) as reply:
        return reply.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    places = Places(
        run_dir=options.job.with_suffix(".bare"), volumes={VOLUME: options.folder}, cache_dir=options.folder
    )
    cfg = resolve(load(options.job, None), places)
    teacher_path = cfg.teacher.model_path
    assert teacher_path is not None, "the job names its teacher by a folder"
    with servers(cfg, cfg.student_path, teacher_path) as (engine, teacher):
        print(json.dumps(measure(cfg, teacher_path, engine, teacher, options.rounds)))


if __name__ == "__main__":
    main()
