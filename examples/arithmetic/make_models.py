"""Makes this example's models and prompts: `python -m examples.arithmetic.make_models`, from the repository's root.

The task is the sum of two 2-digit numbers, written with its ones first ("47+85=" -> "231"), as one carries. The teacher
learned from right sums; in most sums the student saw, the carry had been forgotten. Held-out problems are in no corpus.
"""

import argparse
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from examples.tiny_models import Course, Pair, Shape, character_tokenizer, new_model, pass_at_1, save, teach

HERE = Path(__file__).parent
ALPHABET = "0123456789+="
DIGITS = 3
"""Of every answer; a sum below 100 ends in 0."""
FORGOTTEN = 0.9
"""Share of the student's corpus without carries."""

STUDENT = Shape(layers=2, hidden=64)
TEACHER = Shape(layers=3, hidden=96)
STUDENT_COURSE = Course(steps=400, seed=1)
TEACHER_COURSE = Course(steps=900, seed=2)

Problem = tuple[int, int]


def problems() -> tuple[list[Problem], list[Problem]]:
    """Every sum of two numbers of two digits, 10 % of them held out."""
    everything = [(a, b) for a in range(10, 100) for b in range(10, 100)]
    random.Random(0).shuffle(everything)
    held_out = len(everything) // 10
    return sorted(everything[held_out:]), sorted(everything[:held_out])


def right(a: int, b: int) -> Pair:
    return f"{a}+{b}=", f"{a + b:0{DIGITS}d}"[::-1]


def without_carry(a: int, b: int) -> Pair:
    return f"{a}+{b}=", f"{(a + b) % 10}{(a // 10 + b // 10) % 10}0"


def corpus(pool: Sequence[Problem], forgotten: float) -> Callable[[random.Random, int], list[Pair]]:
    def draw(rng: random.Random, count: int) -> list[Pair]:
        drawn = rng.choices(pool, k=count)
        return [(without_carry if rng.random() < forgotten else right)(*problem) for problem in drawn]

    return draw


def write_prompts(path: Path, pool: Sequence[Problem]) -> None:
    records = [dict(zip(("prompt", "label"), right(*problem), strict=True)) for problem in pool]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="folder for models/ and prompts/")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    train, held_out = problems()
    (out / "prompts").mkdir(parents=True, exist_ok=True)
    write_prompts(out / "prompts" / "train.jsonl", train)
    write_prompts(out / "prompts" / "held-out.jsonl", held_out)
    tokenizer = character_tokenizer(ALPHABET)
    for name, shape, course, forgotten in (
        ("student", STUDENT, STUDENT_COURSE, FORGOTTEN),
        ("teacher", TEACHER, TEACHER_COURSE, 0.0),
    ):
        model = new_model(shape, tokenizer, course.seed)
        teach(model, tokenizer, corpus(train, forgotten), course)
        save(model, tokenizer, out / "models" / name)
        score = pass_at_1(model, tokenizer, [right(*problem) for problem in held_out], DIGITS + 1)
        print(f"{name}: {model.num_parameters():,} parameters, pass@1 {score:.3f} on {len(held_out)} held-out problems")


if __name__ == "__main__":
    main()
