"""The process that runs math-verify: one JSON line in, one word out. Started by file name: imports nothing of ours.

A response may hold `9**9**9`. An alarm ends what runs too long in Python, and this process goes on; what hangs inside C
never sees the alarm, so the parent kills the process some seconds later. Memory is limited here.
"""

import ctypes
import json
import os
import resource
import signal
import sys

MEMORY_LIMIT_BYTES = 4 * 2**30
PR_SET_PDEATHSIG = 1


class OutOfTime(BaseException):
    """No Exception: the libraries below catch those, and try something else that takes as long."""


def judge(label: str, response: str) -> float:
    """1.0 when the last answer in the response equals the label as mathematics."""
    from math_verify import parse, verify

    # Without delimiters math-verify reads LaTeX as plain text: a bare label is meant as a formula.
    gold = label if "$" in label or "\\boxed" in label else f"\\boxed{{{label}}}"
    return float(verify(parse(gold, parsing_timeout=0), parse(response, parsing_timeout=0), timeout_seconds=0))


def answer(label: str, response: str, limit_seconds: float) -> str:
    """The reward as text; what runs out of time is not the right answer."""
    signal.setitimer(signal.ITIMER_REAL, limit_seconds)
    try:
        return str(judge(label, response))
    except (Exception, OutOfTime):  # whatever sympy makes of a wild response, it is not the right answer
        return "0.0"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def raise_out_of_time(*_: object) -> None:
    raise OutOfTime


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which closes this pipe
    signal.signal(signal.SIGALRM, raise_out_of_time)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    import math_verify  # noqa: F401  slow; the first reply below says that it is done

    print("ready", file=replies)
    for line in sys.stdin:
        print(answer(**json.loads(line)), file=replies)


if __name__ == "__main__":
    main()
