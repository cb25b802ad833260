"""Response tokens per second of a whole training step, ours and TRL's: same models, prompts, lengths, samples, FP32.

    python bench/trl.py [tiny-4] [tiny-256] [smollm2] [--rounds 2] [--peer-threads 1]

Every round runs TRL, ours, and TRL again, so that what else the machine does falls on all of them. A process of ours
has one thread, and so has TRL's. In two cases the models are so small that everything is overhead, in one they are not.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models import ARITHMETIC, WORK, endless, prompts, smollm2
from opd_run import Step, job, quiet, run, seconds, typical
from results import Row, compared, report

GOAL = 3.0
VARIANTS = {
    "SGLang teacher": ("SGLang", 0),
    "Megatron teacher": ("Megatron", 0),
    "SGLang teacher, 1 step ahead": ("SGLang", 1),
    "Megatron teacher, 1 step ahead": ("Megatron", 1),
}
"""Teacher mode and rollout.maxStalenessSteps: 0 is as on-policy as TRL, 1 samples while the step before trains."""
UNIT = "response tokens/s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    title: str
    tokens: int
    """Of the longest answer; the tiny models never stop earlier."""
    samples: int
    """Of a step."""
    steps: int
    warm_up: int
    folder: Callable[[], Path] = endless
    prompts: Callable[[], Path] = lambda: ARITHMETIC / "prompts" / "train.jsonl"
    prompt_tokens: int = 8
    lr: float = 1e-4
    spec: Mapping[str, Any] = field(default_factory=dict)


CASES = {
    "tiny-4": Case(title="4 tokens x 256", tokens=4, samples=256, steps=40, warm_up=5),
    "tiny-256": Case(title="256 tokens x 32", tokens=256, samples=32, steps=12, warm_up=3),
    "smollm2": Case(
        title="SmolLM2-135M, up to 32 tokens x 16",
        tokens=32,
        samples=16,
        steps=5,
        warm_up=1,
        folder=smollm2,
        prompts=lambda: prompts(WORK / "questions.jsonl", 64),
        prompt_tokens=64,
        lr=1e-6,
        spec={"student": {"maxTokensPerGPU": 1024}},
    ),
}


def ours(name: str, case: Case, variant: str) -> list[Step]:
    mode, staleness = VARIANTS[variant]
    document = job(
        f"trl-{name}-{mode.lower()}-{staleness}",
        mode=mode,
        prompts=case.prompts(),
        rollout={
            "batchSize": case.samples,
            "samplesPerPrompt": 1,
            "maxPromptTokens": case.prompt_tokens,
            "maxResponseTokens": case.tokens,
            "maxStalenessSteps": staleness,
        },
        steps=case.steps,
        optimizer={"lr": case.lr},
        **case.spec,
    )
    return run(document, case.folder())[case.warm_up :]


def peers(case: Case, threads: int) -> list[Step]:
    script = str(Path(__file__).parent / "trl_peer.py")
    options = {"batch": case.samples, "tokens": case.tokens, "steps": case.steps, "lr": case.lr}
    flat = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    output = quiet([sys.executable, "-P", script, str(case.folder()), str(case.prompts()), *flat], threads)
    return json.loads(output.splitlines()[-1])[case.warm_up :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=CASES, metavar="|".join(CASES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--peer-threads", type=int, default=1)
    options = parser.parse_args()
    rows: list[Row] = []
    for name in options.cases or CASES:
        case = CASES[name]
        theirs: list[Step] = []
        runs: dict[str, list[Step]] = {variant: [] for variant in VARIANTS}
        for _ in range(options.rounds):
            theirs += peers(case, options.peer_threads)
            for variant in VARIANTS:
                runs[variant] += ours(name, case, variant)
            theirs += peers(case, options.peer_threads)
        rows += compare(case, runs, theirs)
    report("trl", rows, peer="TRL")


def compare(case: Case, runs: Mapping[str, Sequence[Step]], peer: Sequence[Step]) -> list[Row]:
    """Tokens a second, then the seconds of the on-policy steps by what they go into."""
    peer_rate = typical(peer, "tokens") / typical(peer, "seconds")
    rows = [
        compared(f"{case.title}, {variant}", _rate(steps), peer_rate, unit=UNIT, goal=GOAL)
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
            what = f"{case.title}, {variant}: {part}"
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
