"""Decisions: what is known in, what to do out. No I/O, no clock, no randomness."""

from .decision import Plan
from .plan import plan

__all__ = ["Plan", "plan"]
