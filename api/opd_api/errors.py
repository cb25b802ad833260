"""Errors about documents. The tree goes on in the runtime (`opd_runtime.errors`)."""

from collections.abc import Sequence
from dataclasses import dataclass


class OPDError(Exception):
    """Everything we raise on purpose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with a document."""

    path: str
    """Where, as in `spec.teachers[0].mode`."""
    message: str
    """What is wrong, and why."""
    hint: str = ""
    """What to do about it."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" + (f"\nhint: {self.hint}" if self.hint else "")


class InvalidJob(OPDError):
    """A document with problems, all of them at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
