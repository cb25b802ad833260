"""Response tokens per second of a whole training step, ours and TRL's: same models, prompts, lengths, samples, FP32.

    python bench/trl.py [--rounds 2] [--peer-threads 1]

Every round runs TRL, ours, and TRL again, so that what else the machine does falls on all of them. A process
of ours has one thread, and so has TRL's.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models import ARITHMETIC, endless
from opd_run import Step, job, quiet, run, seconds, typical
from results import Row, compared, report

GOAL = 3.0
PROMPTS = ARITHMETIC / "prompts" / "train.jsonl"
VARIANTS = {
    "SGLang teacher": ("SGLang", 0),
    "Megatron teacher": ("Megatron", 0),
    "SGLang teacher, 1 step ahead": ("SGLang", 1),
    "Megatron teacher, 1 step ahead": ("Megatron", 1),
}
"""Teacher mode and rollout.maxStalenessSteps: 0 is as on-policy as TRL, 1 samples while the step before trains."""
UNIT = "response tokens/s"


@dataclass(frozen=True, slots=True)
class Case:
    tokens: int
    """Of every answer."""
    samples: int
    """Of a step."""
    steps: int
    warm_up: int

    @property
    def name(self) -> str:
        return f"{self.tokens} tokens x {self.samples}"


CASES = (Case(tokens=4, samples=256, steps=40, warm_up=5), Case(tokens=256, samples=32, steps=12, warm_up=3))


def ours(case: Case, variant: str) -> list[Step]:
    mode, staleness = VARIANTS[variant]
    rollout = {
        "batchSize": case.samples,
        "samplesPerPrompt": 1,
        "maxPromptTokens": 8,
        "maxResponseTokens": case.tokens,
        "maxStalenessSteps": staleness,
    }
    name = f"trl-{case.tokens}-{mode.lower()}-{staleness}"
    document = job(name, mode=mode, prompts=PROMPTS, rollout=rollout, steps=case.steps)
    return run(document, endless())[case.warm_up :]


def peers(case: Case, threads: int) -> list[Step]:
    script = str(Path(__file__).parent / "trl_peer.py")
    options = (("--batch", case.samples), ("--tokens", case.tokens), ("--steps", case.steps))
    flat = [str(word) for pair in options for word in pair]
    output = quiet([sys.executable, "-P", script, str(endless()), str(PROMPTS), *flat], threads)
    return json.loads(output.splitlines()[-1])[case.warm_up :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--peer-threads", type=int, default=1)
    options = parser.parse_args()
    rows: list[Row] = []
    for case in CASES:
        theirs: list[Step] = []
        runs: dict[str, list[Step]] = {variant: [] for variant in VARIANTS}
        for _ in range(options.rounds):
            theirs += peers(case, options.peer_threads)
            for variant in VARIANTS:
                runs[variant] += ours(case, variant)
            theirs += peers(case, options.peer_threads)
        rows += compare(case, runs, theirs)
    report("trl", rows, peer="TRL")


def compare(case: Case, runs: Mapping[str, Sequence[Step]], peer: Sequence[Step]) -> list[Row]:
    """Tokens a second, then the seconds of the on-policy steps by what they go into."""
    peer_rate = typical(peer, "tokens") / typical(peer, "seconds")
    rows = [
        compared(f"{case.name}, {variant}", _rate(steps), peer_rate, unit=UNIT, goal=GOAL)
        for variant, steps in runs.items()
    ]
    generate, teacher, whole = (typical(peer, name) for name in ("generate", "teacher", "seconds"))
    theirs = {"generate": generate, "teacher": teacher, "update": whole - generate - teacher, "step": whole}
    for variant, steps in runs.items():
        if VARIANTS[variant][1]:
            continue
        split = seconds(steps)
        mine = {"generate": split["rollout"], "teacher": split["score"], "update": split["logprobs"] + split["update"]}
        pairs = {**mine, "sync": split["sync"], "driver": split["driver"], "step": split["step"]}
        for part, value in pairs.items():
            what = f"{case.name}, {variant}: {part}"
            unit = "s/step"
            rows.append(
                compared(what, value, theirs[part], unit=unit)
                if part in theirs
                else Row(what=what, ours=value, unit=unit)
            )
    return rows


def _rate(steps: Sequence[Step]) -> float:
    return typical(steps, "tokens/response") / typical(steps, "time/step")


if __name__ == "__main__":
    main()
