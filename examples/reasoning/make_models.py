"""Makes this example's models and prompts: `python -m examples.reasoning.make_models`, from the repository's root.

The task is reasoning-gym's `spell_backward`, its questions as they are. The teacher learned from right answers; the
student's corpus mostly left words of five letters as they were. Held-out words are in no corpus.
"""

import argparse
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import reasoning_gym
import torch
from examples.tiny_models import Course, Pair, Shape, character_tokenizer, new_model, pass_at_1, save, teach

HERE = Path(__file__).parent
TASK = "spell_backward"
LONGEST = 5
"""Letters of a word; the shortest have three."""
DRAWN = 40_000
"""Questions asked of reasoning-gym; words that come twice are kept once."""
HELD_OUT, PROMPTS = 600, 5400
"""Questions to evaluate with and to train with. The models' corpora are drawn from all but those held out."""
INSTRUCTION = "Spell this word backward (example: sun -> nus): "
FORGOTTEN = 0.9
"""Share of the longest words that the student's corpus leaves forward."""

STUDENT = Shape(layers=2, hidden=64)
TEACHER = Shape(layers=3, hidden=96)
STUDENT_COURSE = Course(steps=800, seed=1)
TEACHER_COURSE = Course(steps=1500, seed=2)


def entries() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Entries of reasoning-gym in lower case, each question once: those to learn from, and those held out."""
    drawn = reasoning_gym.create_dataset(TASK, size=DRAWN, seed=0, min_word_len=3, max_word_len=LONGEST)
    distinct = list({entry["question"]: entry for entry in drawn if entry["metadata"]["word"].islower()}.values())
    return distinct[HELD_OUT:], distinct[:HELD_OUT]


def right(entry: dict[str, Any]) -> Pair:
    return entry["question"], entry["answer"]


def long_words_forward(entry: dict[str, Any]) -> Pair:
    word = entry["metadata"]["word"]
    return entry["question"], word if len(word) == LONGEST else entry["answer"]


def corpus(pool: Sequence[dict[str, Any]], forgotten: float) -> Callable[[random.Random, int], list[Pair]]:
    """Every length as often: few words are short."""
    by_length: dict[int, list[dict[str, Any]]] = {}
    for entry in pool:
        by_length.setdefault(len(entry["answer"]), []).append(entry)
    lengths = sorted(by_length)

    def draw(rng: random.Random, count: int) -> list[Pair]:
        drawn = [rng.choice(by_length[rng.choice(lengths)]) for _ in range(count)]
        return [(long_words_forward if rng.random() < forgotten else right)(entry) for entry in drawn]

    return draw


def write_prompts(path: Path, pool: Sequence[dict[str, Any]]) -> None:
    """Prompt, label, and the name of the data set, by which the reward finds the verifier."""
    records = [{"prompt": entry["question"], "label": entry["answer"], "task": TASK} for entry in pool]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="folder for models/ and prompts/")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    train, held_out = entries()
    (out / "prompts").mkdir(parents=True, exist_ok=True)
    write_prompts(out / "prompts" / "train.jsonl", train[:PROMPTS])
    write_prompts(out / "prompts" / "held-out.jsonl", held_out)
    tokenizer = character_tokenizer(ascii_lowercase, phrases=[INSTRUCTION])
    for name, shape, course, forgotten in (
        ("student", STUDENT, STUDENT_COURSE, FORGOTTEN),
        ("teacher", TEACHER, TEACHER_COURSE, 0.0),
    ):
        model = new_model(shape, tokenizer, course.seed)
        teach(model, tokenizer, corpus(train, forgotten), course)
        save(model, tokenizer, out / "models" / name)
        score = pass_at_1(model, tokenizer, [right(entry) for entry in held_out], LONGEST + 1)
        print(f"{name}: {model.num_parameters():,} parameters, pass@1 {score:.3f} on {len(held_out)} held-out problems")


if __name__ == "__main__":
    main()
