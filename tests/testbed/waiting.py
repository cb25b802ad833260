"""Waiting for a condition with a deadline, as every test of a cluster does. Nobody waits for a time."""

import time
from collections.abc import Callable

POLL_SECONDS = 0.1


def wait_until[T](check: Callable[[], T], deadline_seconds: float, what: str | Callable[[], str]) -> T:
    """The first true answer of `check`. Raises TimeoutError, which says `what` and the last answer."""
    deadline = time.monotonic() + deadline_seconds
    while not (answer := check()):
        if time.monotonic() > deadline:
            said = what if isinstance(what, str) else what()
            raise TimeoutError(f"not after {deadline_seconds:g} s: {said}; last seen: {answer!r}")
        time.sleep(POLL_SECONDS)
    return answer
