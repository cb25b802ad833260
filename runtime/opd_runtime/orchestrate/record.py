"""What a run remembers: the state a checkpoint carries, the record of a step, the summary at the end. Plain data, no I/O."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

LAST_STEPS = 5
"""The summary compares the first step's reverse KL with the mean of so many last ones."""


@dataclass(slots=True, kw_only=True)
class RunState:
    """Everything beside the weights that a resumed run continues from."""

    step: int = 0
    """Completed steps."""
    kl_coef: float
    cursor: dict[str, Any] = field(default_factory=dict)
    """State of the prompt stream after the completed steps."""
    seconds: float = 0.0
    """Wall time of the completed steps, over all attempts."""
    first_reverse_kl: float | None = None
    last_reverse_kls: list[float] = field(default_factory=list)
    pass_at_1: dict[str, float | None] = field(default_factory=lambda: {"before": None, "after": None, "teacher": None})
    trend: dict[str, Any] = field(default_factory=dict)

    def advance(self, reverse_kl: float, cursor: dict[str, Any], seconds: float) -> None:
        """One more step is done."""
        self.step += 1
        self.cursor = cursor
        self.seconds += seconds
        if self.first_reverse_kl is None:
            self.first_reverse_kl = reverse_kl
        self.last_reverse_kls = [*self.last_reverse_kls, reverse_kl][-LAST_STEPS:]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "RunState":
        return cls(**{f.name: document[f.name] for f in fields(cls) if f.name in document})

    def summary(self, teacher_mode: str) -> dict[str, Any]:
        """The document `summary.json`."""
        last = sum(self.last_reverse_kls) / len(self.last_reverse_kls) if self.last_reverse_kls else None
        return {
            "teacher_mode": teacher_mode,
            "steps": self.step,
            "seconds": round(self.seconds, 1),
            "reverse_kl": {"first": self.first_reverse_kl, "last": last},
            "pass_at_1": self.pass_at_1,
        }
