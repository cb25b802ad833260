"""`metrics.jsonl`: one line a step, only ever appended to, but that a resumed run takes back what it will do again."""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import orjson

from ..errors import UserError
from .files import replace_file
from .metrics import StepRecord

FILE_NAME = "metrics.jsonl"


def read_records(path: Path) -> list[StepRecord]:
    """All records, oldest first; none when there is no file.

    A last line without its end is what a killed process leaves, and is not there. Raises UserError for any other line
    that is no record.
    """
    if not path.exists():
        return []
    *lines, _torn = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(StepRecord.from_json(orjson.loads(line)))
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"line {number} is no step's record ({error})", path=str(path), hint="remove the line"
            ) from error
    return records


class MetricsLog:
    """Appends records. Every line is with the operating system when `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def start(self, completed_steps: int) -> Sequence[StepRecord]:
        """Opens the file for step `completed_steps` + 1 and returns the records that stay.

        What was written after the checkpoint that a run resumes from will be written again, so it goes; a run that
        starts from nothing keeps nothing.
        """
        kept = [record for record in read_records(self.path) if completed_steps and record.step <= completed_steps]
        replace_file(self.path, b"".join(_line(record) for record in kept))
        self._file = self.path.open("ab", buffering=0)
        return kept

    def append(self, record: StepRecord) -> None:
        assert self._file is not None, "start() comes first"
        self._file.write(_line(record))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _line(record: StepRecord) -> bytes:
    return orjson.dumps(record.to_json(), option=orjson.OPT_SERIALIZE_NUMPY) + b"\n"
