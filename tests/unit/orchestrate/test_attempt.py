"""What an attempt asks before its first step. Trainers and teacher are played."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from opd_runtime.errors import TeacherUnavailable
from opd_runtime.orchestrate import attempt
from opd_runtime.orchestrate.attempt import _teacher_is_another

QUESTIONS = SimpleNamespace(probe_ids=[1, 2, 3, 4])
STUDENT = np.array([-1.0, -2.0, -3.0])


class Trainers:
    """Scores of the probe's text by model."""

    def __init__(self, teacher: np.ndarray) -> None:
        self.scores = {"student": STUDENT, "teacher": teacher}

    async def logprobs(self, batch: Any, model: str) -> np.ndarray:
        assert batch.tokens_S.tolist() == QUESTIONS.probe_ids
        return self.scores[model]


@pytest.fixture(autouse=True)
def questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "teacher_questions", lambda path: QUESTIONS)


CFG: Any = SimpleNamespace(student_path=Path())


async def test_a_teacher_in_the_trainers_that_is_the_student_is_refused_by_name() -> None:
    """From the hub nobody can compare their files before anything starts."""
    with pytest.raises(TeacherUnavailable, match="is the student") as refused:
        await _teacher_is_another(CFG, None, Trainers(STUDENT.copy()))  # type: ignore[arg-type]
    assert refused.value.reason == "SameAsStudent"
    await _teacher_is_another(CFG, None, Trainers(STUDENT - 0.5))  # type: ignore[arg-type]


async def test_every_server_is_compared_with_the_student_whatever_its_document_names() -> None:
    asked: list[Any] = []

    async def prove(student_logprobs: Any) -> None:
        asked.append(student_logprobs)

    teacher: Any = SimpleNamespace(questions=QUESTIONS, prove=prove, teacher=SimpleNamespace(model_path=Path("known")))
    await _teacher_is_another(CFG, teacher, Trainers(STUDENT))  # type: ignore[arg-type]
    assert asked == [list(STUDENT)]
