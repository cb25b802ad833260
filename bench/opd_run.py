"""Runs an OPDJob with the real `opd run`, as a user would, and reads back what every step took."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

from models import REPOSITORY, WORK

VOLUME = "bench"
"""Claim under which a job finds the folder given to `run`."""

Step = Mapping[str, float]
"""One line of metrics.jsonl."""


def job(
    name: str,
    *,
    mode: str,
    prompts: Path,
    rollout: Mapping[str, Any],
    steps: int,
    student: Mapping[str, Any] = MappingProxyType({}),
    **spec: Any,
) -> dict[str, Any]:
    """A job that only distils: models VOLUME/student and VOLUME/teacher, nothing saved or evaluated on the way."""
    teacher: dict[str, Any] = {"mode": mode, "model": f"pvc://{VOLUME}/teacher"}
    if mode == "SGLang":
        teacher["sglang"] = {"args": ["--disable-radix-cache"]}
    return {
        "apiVersion": "opd.dev/v1alpha1",
        "kind": "OPDJob",
        "metadata": {"name": name},
        "spec": {
            "device": "CPU",
            "student": {"model": f"pvc://{VOLUME}/student", **student},
            "teachers": [teacher],
            "data": {"prompts": [{"uri": prompts.absolute().as_uri()}], "applyChatTemplate": False},
            "rollout": {**rollout, "engines": {"args": ["--disable-radix-cache"]}},
            "reward": {"type": "None"},
            "optimizer": {"lr": 1.0e-4},
            "checkpoint": {"everySteps": steps + 1, "exportHuggingFace": False},
            "evaluation": {"everySteps": 0},
            "steps": steps,
            **spec,
        },
    }


def written(document: Mapping[str, Any]) -> Path:
    """The job as a file (JSON is YAML)."""
    file = WORK / f"{document['metadata']['name']}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=1))
    return file


def run(document: Mapping[str, Any], folder: Path) -> list[Step]:
    """Metrics of every step of a fresh run. `folder`: what the job calls pvc://bench."""
    run_dir = WORK / str(document["metadata"]["name"])
    opd = Path(sys.executable).with_name("opd")
    arguments = ["run", "--fresh", str(written(document)), "--volume", f"{VOLUME}={folder}", "--run-dir", str(run_dir)]
    output = quiet([str(opd), *arguments])
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    steps = [step for step in map(json.loads, lines) if step["step"]]
    assert len(steps) == document["spec"]["steps"], output[-2000:]
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
    return steps


def quiet(command: Sequence[str], threads: int = 1) -> str:
    """What the command printed to stdout; ends the benchmark, with what it said, when it fails."""
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=REPOSITORY)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def typical(steps: Sequence[Step], metric: str) -> float:
    """Median over the steps; a metric that a step lacks is 0 there."""
    return median(step.get(metric) or 0.0 for step in steps)


def seconds(steps: Sequence[Step]) -> dict[str, float]:
    """Where a step's time goes: the parts that add up to it, and `driver`, what is missing."""
    parts = ("rollout", "score", "logprobs", "update", "sync")
    split = {part: typical(steps, f"time/{part}") for part in parts}
    whole = typical(steps, "time/step")
    return {**split, "driver": max(0.0, whole - sum(split.values())), "step": whole}
