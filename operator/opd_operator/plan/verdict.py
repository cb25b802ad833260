"""A judgement: one word for programs, one sentence for people."""

from dataclasses import dataclass

from opd_api.conditions import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Why a condition is what it is."""

    reason: Reason
    message: str
