"""`progress.json`: where the run stands, for `opd get` and, through the mailbox, for the operator.

Written at most every five seconds, unless forced; makes up no number.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opd_api.documents import REPORT_INTERVAL_SECONDS, Progress

from .files import replace_file

FILE_NAME = "progress.json"
JOB_FILE = "opdjob.yaml"
"""Beside it: the job as it runs, everything filled in."""


class ProgressFile:
    """Keeps the document and writes it. What is taken between two writes goes out with the next one."""

    def __init__(
        self,
        path: Path,
        document: Progress,
        clock: Callable[[], float] = time.monotonic,
        *,
        also: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        """`also` is given every document, written or not, and sees to its own pace."""
        self.path, self.document, self._clock, self._also = path, document, clock, also
        self._last_write = float("-inf")

    def update(self, *, force: bool = False, **fields: Any) -> None:
        """Replaces fields of the document, by their Python names; pydantic's ValidationError when one does not fit."""
        self.document = Progress(**{name: getattr(self.document, name) for name in Progress.model_fields} | fields)
        self._also(self.document)
        if force or self._clock() - self._last_write >= REPORT_INTERVAL_SECONDS:
            replace_file(self.path, self.document.model_dump_json(exclude_none=True, indent=1).encode())
            self._last_write = self._clock()
