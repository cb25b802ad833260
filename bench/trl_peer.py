"""The peer: on-policy distillation with TRL, transformers generating and the KL taken over the whole vocabulary.

A process of its own, started with `python -P` because bench/trl.py would hide the library. Prints one JSON line: for
every step its seconds, their parts, and the response tokens that were trained.
"""

import argparse
import json
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DistillationConfig, DistillationTrainer


class Steps(TrainerCallback):
    """Wall time from the end of one optimizer step to the end of the next, and of the parts inside."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.parts: dict[str, float] = defaultdict(float)
        self.last = time.perf_counter()

    @contextmanager
    def part(self, name: str):
        started = time.perf_counter()
        yield
        self.parts[name] += time.perf_counter() - started

    def on_step_end(self, args, state, control, **_) -> None:
        now = time.perf_counter()
        self.steps.append({"seconds": now - self.last, **self.parts})
        self.last = now
        self.parts.clear()


def timed(clock: Steps, name: str, function):
    def call(*arguments, **options):
        with clock.part(name):
            return function(*arguments, **options)

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pair", type=Path, help="folder with student and teacher")
    parser.add_argument("prompts", type=Path, help="JSONL with a `prompt`")
    parser.add_argument("--batch", type=int, required=True, help="samples of a step")
    parser.add_argument("--tokens", type=int, required=True, help="longest answer")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    options = parser.parse_args()

    texts = [json.loads(line)["prompt"] for line in options.prompts.read_text().splitlines()]
    config = DistillationConfig(
        output_dir=str(options.pair / "trl"),
        per_device_train_batch_size=options.batch,
        max_steps=options.steps,
        max_completion_length=options.tokens,
        learning_rate=options.lr,
        beta=1.0,
        temperature=1.0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=options.steps,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    clock = Steps()
    trainer = DistillationTrainer(
        model=AutoModelForCausalLM.from_pretrained(options.pair / "student"),
        teacher_model=AutoModelForCausalLM.from_pretrained(options.pair / "teacher"),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": texts}),
        processing_class=AutoTokenizer.from_pretrained(options.pair / "student"),
        callbacks=[clock],
    )
    generate = timed(clock, "generate", trainer._generate_and_score_completions)

    def counted(inputs):
        output = generate(inputs)
        clock.parts["tokens"] += float(output["completion_mask"].sum())
        return output

    trainer._generate_and_score_completions = counted
    backbone = trainer.teacher_model.base_model
    backbone.forward = timed(clock, "teacher", backbone.forward)
    trainer.train()
    print(json.dumps(clock.steps))


if __name__ == "__main__":
    main()
