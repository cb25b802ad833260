"""A job, and made-up steps of a run that goes well."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from opd_api.spec import OPDJob
from opd_runtime.report.metrics import StepRecord


@pytest.fixture
def make_job() -> Callable[..., OPDJob]:
    def make(*, steps: int = 10, mode: str = "SGLang", tensorboard: bool = False) -> OPDJob:
        job: dict[str, Any] = {
            "apiVersion": "opd.dev/v1alpha1",
            "kind": "OPDJob",
            "metadata": {"name": "arithmetic"},
            "spec": {
                "student": {"model": "pvc://models/student"},
                "teachers": [{"mode": mode, "model": "pvc://models/teacher"}],
                "data": {"prompts": [{"uri": "pvc://data/train.jsonl"}]},
                "tracking": {"tensorboard": tensorboard},
                "steps": steps,
            },
        }
        return OPDJob.model_validate(job, strict=False)

    return make


@pytest.fixture
def make_record() -> Callable[..., StepRecord]:
    def make(step: int, *, total_steps: int = 10, evaluated: bool = False, **more: float) -> StepRecord:
        metrics = {
            "opd/reverse_kl": 1.5 * math.exp(-step / 4),
            "opd/reverse_kl_p95": 4.0 * math.exp(-step / 4),
            "reward/mean": step / total_steps,
            "reward/raw": step / total_steps,
            "tokens/response": 100.0,
            "time/step": 2.0,
            "time/rollout": 1.25,
            "time/update": 0.5,
        }
        if evaluated:
            share = 0.4 + 0.5 * step / total_steps
            metrics |= {"eval/pass@1": share, "eval/pass@1_low": share - 0.1, "eval/pass@1_high": share + 0.1}
        if step == 0:
            metrics = {name: value for name, value in metrics.items() if name.startswith("eval/")}
        return StepRecord(
            step=step,
            total_steps=total_steps,
            metrics=metrics | more,
            weight_version=step,
            time="2026-01-02T03:04:05Z",
        )

    return make
