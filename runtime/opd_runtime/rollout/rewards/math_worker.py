"""The process that runs math-verify: one JSON line in, one out. Started by file name, so it imports nothing of ours.

A response may hold `9**9**9`: time is the parent's to limit (it kills this process), memory is limited here.
"""

import ctypes
import json
import os
import resource
import signal
import sys

MEMORY_LIMIT_BYTES = 4 * 2**30
PR_SET_PDEATHSIG = 1


def judge(label: str, response: str, timeout_seconds: int) -> float:
    """1.0 when the last answer in the response equals the label as mathematics."""
    from math_verify import parse, verify

    # Without delimiters math-verify reads LaTeX as plain text: a bare label is meant as a formula.
    gold = label if "$" in label or "\\boxed" in label else f"\\boxed{{{label}}}"
    wanted = parse(gold, parsing_timeout=timeout_seconds)
    answered = parse(response, parsing_timeout=timeout_seconds)
    return float(verify(wanted, answered, timeout_seconds=timeout_seconds))


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which closes this pipe
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    import math_verify  # noqa: F401  slow; the first reply below says that it is done

    print("ready", file=replies)
    for line in sys.stdin:
        try:
            score = judge(**json.loads(line))
        except Exception:  # whatever sympy makes of a wild response, it is not the right answer
            score = 0.0
        print(score, file=replies)


if __name__ == "__main__":
    main()
