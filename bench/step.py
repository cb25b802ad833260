"""Where the time of a training step goes, and the whole of it beside the sum of its unavoidable parts.

    python bench/step.py [tiny] [smollm2]

Runs `opd run` with both teacher modes, and before and after it the parts alone (`bare.py`). The medians of both sides
come from the same minutes; the first steps, which warm up, are left out.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from models import ARITHMETIC, MODELS, WORK, prompts, smollm2
from opd_run import Step, job, quiet, run, seconds, typical, written
from results import Row, compared, report

MODES = ("SGLang", "Megatron")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    title: str
    folder: Callable[[], Path]
    """Makes the models; where they are."""
    prompts: Callable[[], Path]
    rollout: Mapping[str, Any]
    spec: Mapping[str, Any]
    steps: int
    warm_up: int
    rounds: int
    """Of the bare parts, before the runs and again after them."""


def arithmetic() -> Path:
    shutil.copytree(ARITHMETIC / "models", MODELS / "arithmetic", dirs_exist_ok=True)
    return MODELS / "arithmetic"


CASES = {
    "tiny": Case(
        title="tiny (75k), 256 x 4 tokens",
        folder=arithmetic,
        prompts=lambda: ARITHMETIC / "prompts" / "train.jsonl",
        rollout={"batchSize": 64, "samplesPerPrompt": 4, "maxPromptTokens": 8, "maxResponseTokens": 5},
        spec={
            "reward": {"type": "Exact", "weight": 0.0},
            "distillation": {"maxLogRatio": 5.0},
            "algorithm": {"normalizeAdvantages": True, "updatesPerStep": 4},
        },
        steps=40,
        warm_up=5,
        rounds=15,
    ),
    "smollm2": Case(
        title="SmolLM2-135M, 16 x 32 tokens",
        folder=smollm2,
        prompts=lambda: prompts(WORK / "questions.jsonl", 64),
        rollout={"batchSize": 4, "samplesPerPrompt": 4, "maxPromptTokens": 64, "maxResponseTokens": 32},
        spec={"student": {"maxTokensPerGPU": 1024}, "optimizer": {"lr": 1.0e-6}},
        steps=5,
        warm_up=1,
        rounds=2,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=CASES, metavar="|".join(CASES))
    rows = [row for name in parser.parse_args().cases or CASES for row in compare(name, CASES[name])]
    report("step", rows, peer="bare parts")


def compare(name: str, case: Case) -> list[Row]:
    folder, documents = case.folder(), {mode: document(name, case, mode) for mode in MODES}
    before = bare(documents["SGLang"], folder, case.rounds)
    runs = {mode: run(documents[mode], folder)[case.warm_up :] for mode in MODES}
    after = bare(documents["SGLang"], folder, case.rounds)
    parts = {part: median(before[part] + after[part]) for part in before}
    return [row for mode in MODES for row in table(f"{case.title}, {mode} teacher", mode, runs[mode], parts)]


def document(name: str, case: Case, mode: str) -> dict[str, Any]:
    return job(
        f"step-{name}-{mode.lower()}",
        mode=mode,
        prompts=case.prompts(),
        rollout=case.rollout,
        steps=case.steps,
        **case.spec,
    )


def bare(document: Mapping[str, Any], folder: Path, rounds: int) -> dict[str, list[float]]:
    script = str(Path(__file__).parent / "bare.py")
    output = quiet([sys.executable, script, str(written(document)), str(folder), "--rounds", str(rounds)])
    return json.loads(output.splitlines()[-1])


def table(title: str, mode: str, steps: Sequence[Step], parts: Mapping[str, float]) -> list[Row]:
    """A row for each part of the step, then what the teacher hid, then the whole."""
    split = seconds(steps)
    scoring = parts["score" if mode == "SGLang" else "teacher"]
    unavoidable = {
        "generate": (split["rollout"], parts["generate"] + parts["rewards"] + parts["json"]),
        "score": (split["score"], scoring),
        **({"log-probs": (split["logprobs"], parts["logprobs"])} if "logprobs" in parts else {}),
        "update": (split["update"], parts["update"]),
        "sync": (split["sync"], parts["sync"]),
    }
    rows = [compared(f"{title}: {part}", ours, peer, unit="s/step") for part, (ours, peer) in unavoidable.items()]
    if mode == "SGLang":
        hidden = typical(steps, "teacher/hidden_share")
        rows.append(Row(what=f"{title}: share of scoring hidden behind generation", ours=hidden, unit="share"))
    rows.append(Row(what=f"{title}: driver, the rest", ours=split["driver"], unit="s/step"))
    rows.append(
        compared(f"{title}: whole step", split["step"], sum(peer for _, peer in unavoidable.values()), unit="s/step")
    )
    return rows


if __name__ == "__main__":
    main()
