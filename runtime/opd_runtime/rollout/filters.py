"""The user's own sample filter (`rollout.filter`): which groups of samples train. Knows no reward and no teacher."""

from collections.abc import Sequence

from ..errors import UserError
from .hooks import FILTER, load_hook
from .sample import Sample

EMPTY_ROUNDS_ALLOWED = 10


class GroupFilter:
    """Without a dotted path it keeps everything."""

    rejected: int
    """Groups refused so far."""

    def __init__(self, dotted: str, args: object) -> None:
        self._keep = load_hook(dotted, FILTER) if dotted else None
        self._name, self._args = dotted, args
        self._empty_rounds = 0
        self.rejected = 0

    def apply(self, groups: Sequence[list[Sample]]) -> list[list[Sample]]:
        """One round of generated groups -> those that train.

        Raises UserError when the filter fails, or has kept nothing for ten rounds: it would reject for ever.
        """
        if self._keep is None:
            return list(groups)
        kept = [group for group in groups if self._keeps(group)]
        self.rejected += len(groups) - len(kept)
        self._empty_rounds = 0 if kept else self._empty_rounds + 1
        if self._empty_rounds >= EMPTY_ROUNDS_ALLOWED:
            raise UserError(
                f"{self._name!r} kept none of the groups of {self._empty_rounds} rounds",
                path=FILTER.field,
                hint="loosen the filter: a step needs groups to train on",
            )
        return kept

    def _keeps(self, group: list[Sample]) -> bool:
        assert self._keep is not None
        try:
            return bool(self._keep(self._args, group))
        except Exception as error:  # the user's function may raise anything
            raise UserError(
                f"{self._name!r} failed: {type(error).__name__}: {error}",
                path=FILTER.field,
                hint=f"it must be: {FILTER.signature}",
            ) from error
