"""The job's prompts in an order that the seed alone decides: several sources mixed by weight, shuffled anew each epoch.

A stream can stop anywhere and continue elsewhere from its small JSON state: same prompts as without the interruption.
Reading files is `records.py`, tokenizing `tokenizer.py`; nothing is tokenized before it is taken.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opd_api.spec import Data

from ..config import PromptSource
from ..errors import UserError
from .records import Keys, Rows, open_rows, prompt_problem
from .sample import Prompt
from .tokenizer import PromptTokenizer


class PromptStream:
    """Endless prompts. `index` counts those given out, over all epochs and sources; it never repeats."""

    def __init__(
        self,
        sources: Sequence[PromptSource],
        tokenizer: PromptTokenizer,
        data: Data,
        max_prompt_tokens: int,
        seed: int,
        *,
        needs_label: bool = False,
    ) -> None:
        """Opens and checks every source. Raises UserError with file and line of what is wrong."""
        uris = [source.uri for source in sources]
        if len(set(uris)) < len(uris):
            raise UserError(
                f"names a source twice: {', '.join(uris)}",
                path="spec.data.prompts",
                hint="give it a larger weight instead",
            )
        keys = Keys(prompt=data.prompt_key, label=data.label_key if needs_label else "")
        self._reader = Reader(tokenizer, data, max_prompt_tokens)
        self._sources = [_Source(source, open_rows(source.path, keys), data.shuffle, seed) for source in sources]
        self._shares = np.array([source.weight for source in sources]) / sum(source.weight for source in sources)
        self._index = 0

    @property
    def dropped(self) -> int:
        """Prompts left out so far because they are longer than `maxPromptTokens`."""
        return sum(source.dropped for source in self._sources)

    @property
    def epoch(self) -> float:
        """Passes over the sources so far, their mean by weight."""
        passes = [source.epoch + source.position / len(source.rows) for source in self._sources]
        return float(self._shares @ np.array(passes))

    def take(self, count: int) -> list[Prompt]:
        """The next prompts. Raises UserError when every prompt of a source is too long."""
        return [self._next() for _ in range(count)]

    def state(self) -> dict[str, Any]:
        """The cursor as small JSON."""
        return {"index": self._index, "sources": [source.state() for source in self._sources]}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues where `state` was taken. A source the job has gained since then starts at its beginning.

        Raises UserError when a file has another number of records than it had: positions would mean other prompts.
        """
        saved = {source["uri"]: source for source in state["sources"]}
        for source in self._sources:
            if source.spec.uri in saved:
                source.restore(saved[source.spec.uri])
        then = [(source["uri"], source["weight"]) for source in state["sources"]]
        if then != [(source.spec.uri, source.spec.weight) for source in self._sources]:
            for source in self._sources:
                source.taken = 0
        self._index = state["index"]

    def _next(self) -> Prompt:
        """From the source that is furthest behind its share, so that any window holds the weights' proportions."""
        taken = np.array([source.taken for source in self._sources])
        number = int(np.argmax(self._shares * (taken.sum() + 1) - taken))
        source = self._sources[number]
        for _ in range(len(source.rows)):
            row = source.advance()
            prompt = self._reader.read(source.rows, row, index=self._index, source=number)
            if prompt is not None:
                source.taken += 1
                self._index += 1
                return prompt
            source.dropped += 1
        raise UserError(
            f"all {len(source.rows)} prompts are longer than rollout.maxPromptTokens: {self._reader.max_prompt_tokens}",
            path=source.spec.uri,
            hint="raise rollout.maxPromptTokens",
        )


class Reader:
    """A record -> a tokenized Prompt, or None when it is longer than allowed."""

    def __init__(self, tokenizer: PromptTokenizer, data: Data, max_prompt_tokens: int) -> None:
        self._tokenizer, self._data = tokenizer, data
        self.max_prompt_tokens = max_prompt_tokens

    def read(self, rows: Rows, row: int, *, index: int, source: int) -> Prompt | None:
        """Raises UserError naming the record when its prompt cannot be rendered or has ids outside the vocabulary."""
        record = rows.record(row)
        prompt = record[self._data.prompt_key]
        try:
            problem = prompt_problem(prompt)
            if problem:
                raise UserError(problem)
            text = self._tokenizer.render(prompt)
            token_ids = self._tokenizer.encode(text)
            if not token_ids:
                raise UserError("the prompt has no tokens")
        except UserError as error:
            raise UserError(error.message, path=rows.where(row), hint=error.hint) from error
        if len(token_ids) > self.max_prompt_tokens:
            return None
        label = record.get(self._data.label_key)
        return Prompt(
            index=index,
            text=text,
            token_ids=token_ids,
            label=None if label is None else str(label),
            record=record,
            source=source,
        )


def held_out_prompts(
    sources: Sequence[PromptSource],
    tokenizer: PromptTokenizer,
    data: Data,
    max_prompt_tokens: int,
    *,
    needs_label: bool = False,
) -> list[Prompt]:
    """Every prompt of the evaluation's sources once, in file order. Raises UserError for one that is too long."""
    keys = Keys(prompt=data.prompt_key, label=data.label_key if needs_label else "")
    reader = Reader(tokenizer, data, max_prompt_tokens)
    prompts: list[Prompt] = []
    for number, source in enumerate(sources):
        rows = open_rows(source.path, keys)
        for row in range(len(rows)):
            prompt = reader.read(rows, row, index=len(prompts), source=number)
            if prompt is None:
                raise UserError(
                    f"is longer than rollout.maxPromptTokens: {max_prompt_tokens}",
                    path=rows.where(row),
                    hint="raise rollout.maxPromptTokens, or leave it out of evaluation.prompts",
                )
            prompts.append(prompt)
    return prompts


class _Source:
    """One source's place in its shuffled epochs."""

    def __init__(self, spec: PromptSource, rows: Rows, shuffle: bool, seed: int) -> None:
        self.spec, self.rows = spec, rows
        self._shuffle, self._seed = shuffle, seed
        self.epoch = self.position = self.taken = self.dropped = 0
        self._order = self._epoch_order()

    def advance(self) -> int:
        """The next row of this epoch, or the first of the next."""
        if self.position == len(self.rows):
            self.epoch, self.position = self.epoch + 1, 0
            self._order = self._epoch_order()
        row = int(self._order[self.position])
        self.position += 1
        return row

    def state(self) -> dict[str, Any]:
        return {
            "uri": self.spec.uri,
            "weight": self.spec.weight,
            "rows": len(self.rows),
            "epoch": self.epoch,
            "position": self.position,
            "taken": self.taken,
            "dropped": self.dropped,
        }

    def restore(self, state: dict[str, Any]) -> None:
        if state["rows"] != len(self.rows):
            raise UserError(
                f"has {len(self.rows)} records; it had {state['rows']} when the checkpoint was written",
                path=self.spec.uri,
                hint="put the old file back, or start over with --fresh",
            )
        self.epoch, self.position = state["epoch"], state["position"]
        self.taken, self.dropped = state["taken"], state["dropped"]
        self._order = self._epoch_order()

    def _epoch_order(self) -> NDArray[np.int64]:
        """The order depends on the source's name, not on its place in the list: editing the list keeps it."""
        rows = np.arange(len(self.rows))
        if not self._shuffle:
            return rows
        name = zlib.crc32(self.spec.uri.encode())
        return np.random.default_rng([self._seed, name, self.epoch]).permutation(rows)
