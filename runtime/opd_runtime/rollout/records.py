"""Prompt files as rows that can be read in any order: JSONL, Parquet, data sets of the hub. Knows no tokenizer.

Opening checks every row once (well-formed, has its prompt, not empty) and says the line of the first that is not.
A JSONL file is kept as byte offsets, Parquet and hub data as Arrow columns: a large file costs little memory.
"""

import bisect
import itertools
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import UserError
from ..remote import dataset_errors
from ..uri import parse_uri

SUFFIXES = (".jsonl", ".parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Names of the fields a job reads from each record."""

    prompt: str
    label: str = ""
    """"" when nothing needs a label; else every record must have it."""


class Rows(Protocol):
    """Records by number. `where` names one for an error message."""

    def __len__(self) -> int: ...
    def record(self, row: int) -> dict[str, Any]: ...
    def where(self, row: int) -> str: ...


def open_rows(path: str, keys: Keys) -> Rows:
    """A file, a folder of files (sorted, sub-folders too) or `hf://datasets/…`. Raises UserError, also when empty."""
    if path.startswith("hf://"):
        rows: Rows = ArrowRows(load_hub_table(path), path, keys)
    elif Path(path).is_dir():
        files = sorted(file for file in Path(path).rglob("*") if file.suffix in SUFFIXES)
        rows = JoinedRows([_open_file(file, keys) for file in files])
    else:
        rows = _open_file(Path(path), keys)
    if len(rows) == 0:
        raise UserError(
            "has no prompts", path=path, hint="a .jsonl or .parquet file, or a folder of them, with one record a prompt"
        )
    return rows


def load_hub_table(uri: str) -> pa.Table:
    """`hf://datasets/ORG/NAME[@REVISION][#SPLIT]`, memory-mapped from the cache of the datasets library."""
    import datasets

    parsed = parse_uri(uri)
    split = parsed.split or "train"
    with dataset_errors(parsed):
        return datasets.load_dataset(parsed.place, revision=parsed.revision, split=split).data.table


def _open_file(path: Path, keys: Keys) -> Rows:
    if path.suffix not in SUFFIXES:
        raise UserError(
            "is neither .jsonl nor .parquet", path=str(path), hint="JSON Lines (one record a line) or Parquet, named so"
        )
    try:
        if path.suffix == ".jsonl":
            return JsonLines(path, keys)
        return ArrowRows(pq.read_table(path), str(path), keys)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot be read: {error}", path=str(path)) from error


class JsonLines:
    """One JSON object a line; blank lines are skipped."""

    def __init__(self, path: Path, keys: Keys) -> None:
        self._path = path
        self._offsets = array("q")
        self._lines = array("q")
        self._file = path.open("rb")
        offset = 0
        for number, line in enumerate(self._file, start=1):
            if line.strip():
                self._check(line, number, keys)
                self._offsets.append(offset)
                self._lines.append(number)
            offset += len(line)

    def _check(self, line: bytes, number: int, keys: Keys) -> None:
        where = f"{self._path} line {number}"
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise UserError(f"is not JSON: {error}", path=where, hint="one JSON object a line") from error
        if not isinstance(record, dict):
            raise UserError(f"is {type(record).__name__}, not an object", path=where, hint="one JSON object a line")
        for key, field in ((keys.prompt, "promptKey"), (keys.label, "labelKey")):
            if key and record.get(key) is None:
                raise _missing(key, field, list(record), where)
        problem = prompt_problem(record[keys.prompt])
        if problem:
            raise UserError(problem, path=f"{where}, key {keys.prompt!r}")

    def __len__(self) -> int:
        return len(self._offsets)

    def record(self, row: int) -> dict[str, Any]:
        self._file.seek(self._offsets[row])
        return orjson.loads(self._file.readline())

    def where(self, row: int) -> str:
        return f"{self._path} line {self._lines[row]}"


class ArrowRows:
    """Rows of an Arrow table. Rows are counted from 1, as lines are."""

    def __init__(self, table: pa.Table, name: str, keys: Keys) -> None:
        self._table, self._name = table, name
        for key, field in ((keys.prompt, "promptKey"), (keys.label, "labelKey")):
            if key and key not in table.column_names:
                raise _missing(key, field, table.column_names, name)
            if key and table[key].null_count:
                row = pc.index(pc.is_null(table[key]), True).as_py()
                raise UserError(f"has no {key!r}", path=self.where(row))
        self._check_prompts(table[keys.prompt], keys.prompt)

    def _check_prompts(self, prompts: pa.ChunkedArray, key: str) -> None:
        kind = prompts.type
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if not (is_text or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            raise UserError(
                f"column {key!r} is {kind}", path=self._name, hint="text, or a list of messages {role, content}"
            )
        empty = pc.equal(
            pc.utf8_length(pc.utf8_trim_whitespace(prompts)) if is_text else pc.list_value_length(prompts), 0
        )
        row = pc.index(empty, True).as_py()
        if row >= 0:
            raise UserError("the prompt is empty", path=f"{self.where(row)}, key {key!r}")

    def __len__(self) -> int:
        return self._table.num_rows

    def record(self, row: int) -> dict[str, Any]:
        return self._table.slice(row, 1).to_pylist()[0]

    def where(self, row: int) -> str:
        return f"{self._name} row {row + 1}"


class JoinedRows:
    """Several files, one after the other."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts = parts
        self._starts = [0, *itertools.accumulate(len(part) for part in parts)]

    def _find(self, row: int) -> tuple[Rows, int]:
        part = bisect.bisect_right(self._starts, row) - 1
        return self._parts[part], row - self._starts[part]

    def __len__(self) -> int:
        return self._starts[-1]

    def record(self, row: int) -> dict[str, Any]:
        part, inner = self._find(row)
        return part.record(inner)

    def where(self, row: int) -> str:
        part, inner = self._find(row)
        return part.where(inner)


def prompt_problem(prompt: Any) -> str:
    """Why this value is no prompt; "" when it is one."""
    if isinstance(prompt, str):
        return "" if prompt.strip() else "the prompt is empty"
    if not isinstance(prompt, list):
        return f"the prompt is {type(prompt).__name__}, neither text nor a list of messages"
    if not prompt:
        return "the prompt is empty"
    if all(isinstance(message, dict) and "role" in message and "content" in message for message in prompt):
        return ""
    return "a message of the prompt lacks role or content"


def _missing(key: str, field: str, seen: Sequence[str], where: str) -> UserError:
    return UserError(
        f"has no {key!r}; it has {', '.join(sorted(seen)) or 'nothing'}",
        path=where,
        hint=f"set data.{field} to one of these",
    )
