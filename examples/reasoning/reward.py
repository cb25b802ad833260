"""The reward of this example: reasoning-gym's own verifier, for any of its tasks that judges by the answer alone."""

from functools import cache

from reasoning_gym import get_score_answer_fn

from opd_runtime.rollout.sample import Sample

verifier = cache(get_score_answer_fn)
"""Of a task, by its name; made once, because some tasks read word lists."""


def score(args: object, sample: Sample, **kw: object) -> float:
    """1 for a full score, else 0: some verifiers give part of it to an answer that is nearly right."""
    record = sample.record
    verify = verifier(record["task"])
    return float(verify(sample.response.strip(), {"answer": record["label"]}) >= 1.0)
