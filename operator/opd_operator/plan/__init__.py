"""Decisions: what is known in, what to do out. No I/O, no clock, no randomness."""
