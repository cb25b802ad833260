"""What one SGLang request for log-probs looks like, and what in its answer can be believed. Pure; sends nothing.

For a prompt of P and a response of R ids the server is asked for input log-probs from position P-1 on. It answers R+1
rows [log p, id, text]; row 0 belongs to the prompt's last token and is never a number. Asking from P-1 instead of 0
lets the responses to one prompt share its KV cache.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import LogprobsUnusable, TeacherUnavailable

Pair = tuple[Sequence[int], Sequence[int]]
"""(prompt ids, response ids)."""

ROUNDING = 1e-4
"""A log-prob this little above zero is rounding; more is no log-prob."""
DEGRADED_SHARE = 0.05
FAILED_SHARE = 0.5


def check_pair(pair: Pair, vocab_size: int) -> None:
    """Raises LogprobsUnusable for what must not reach a server: an id outside its vocabulary kills it."""
    if not pair[0]:
        raise LogprobsUnusable("an empty prompt: its first response token would have no log-prob")
    for ids in pair:
        if ids and not (min(ids) >= 0 and max(ids) < vocab_size):
            wrong = next(i for i in ids if not 0 <= i < vocab_size)
            raise LogprobsUnusable(f"token id {wrong} is outside the teacher's vocabulary of {vocab_size}")


def request_body(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Body of POST /generate: no new tokens, input log-probs of every response."""
    return {
        "input_ids": [[*prompt_ids, *response_ids] for prompt_ids, response_ids in pairs],
        "sampling_params": {"max_new_tokens": 0, "temperature": 0},
        "return_logprob": True,
        "logprob_start_len": [len(prompt_ids) - 1 for prompt_ids, _ in pairs],
    }


def response_logprobs(answer: object, pair: Pair, vocab_size: int) -> list[float]:
    """log p of each response token (nats), R numbers. Raises LogprobsUnusable when any of them cannot be believed."""
    response_ids = list(pair[1])
    rows = _rows(answer)
    if len(rows) != len(response_ids) + 1:
        raise LogprobsUnusable(f"{len(rows)} rows for a response of {len(response_ids)} tokens, not one more")
    try:
        logprobs = [row[0] for row in rows[1:]]
        echoed = [row[1] for row in rows[1:]]
    except (TypeError, LookupError) as error:
        raise LogprobsUnusable(f"a row that is not [log p, id, text]: {error!r}") from error
    # SGLang reports the last id of the vocabulary as 0.
    quirk = [0 if i == vocab_size - 1 else i for i in response_ids]
    if echoed != response_ids and echoed != quirk:
        raise LogprobsUnusable("the rows are of other tokens than were sent: the ids echoed differ")
    for position, value in enumerate(logprobs):
        if isinstance(value, bool) or not isinstance(value, float | int) or not math.isfinite(value):
            raise LogprobsUnusable(f"the log-prob of response token {position} is {value!r}, not a finite number")
        if value > ROUNDING:
            raise LogprobsUnusable(f"the log-prob of response token {position} is {value}, above zero")
    return logprobs


def _rows(answer: object) -> list[Any]:
    if isinstance(answer, Mapping) and isinstance(meta := answer.get("meta_info"), Mapping):
        rows = meta.get("input_token_logprobs")
        if isinstance(rows, list):
            return rows
    raise LogprobsUnusable("an answer without meta_info.input_token_logprobs")


def degraded(failed: int, total: int) -> bool:
    """True when over 5 % of a step's samples have no usable score. Raises TeacherUnavailable above half of them."""
    if failed > FAILED_SHARE * total:
        raise TeacherUnavailable(
            f"{failed} of the step's {total} samples have no usable teacher log-probs",
            reason="LogprobsUnavailable",
            hint="`opd probe URL` shows what the teacher answers; nothing was trained on these samples",
        )
    return failed > DEGRADED_SHARE * total
