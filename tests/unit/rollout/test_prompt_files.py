"""Every way a prompt file can be wrong is found when it is opened, with file and line."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from opd_runtime.errors import UserError
from opd_runtime.rollout.records import Keys, open_rows

KEYS = Keys(prompt="prompt")
GOOD = '{"prompt": "1+1="}'


@pytest.mark.parametrize(
    ("lines", "want"),
    [
        pytest.param(
            [GOOD, "", '{"prompt": '],
            r"x.jsonl line 3: is not JSON: .*\nhint: one JSON object a line",
            id="cut-off line",
        ),
        pytest.param([GOOD, '["prompt"]'], r"x.jsonl line 2: is list, not an object", id="a list instead of an object"),
        pytest.param(
            ['{"text": "a", "answer": 1}'],
            r"line 1: has no 'prompt'; it has answer, text\nhint: set data.promptKey",
            id="another key",
        ),
        pytest.param(['{"prompt": null}'], r"line 1: has no 'prompt'", id="null prompt"),
        pytest.param([GOOD, '{"prompt": 3}'], r"line 2, key 'prompt': the prompt is int, neither text", id="a number"),
        pytest.param([GOOD, '{"prompt": "  "}'], r"line 2, key 'prompt': the prompt is empty", id="only spaces"),
        pytest.param(['{"prompt": []}'], r"line 1, key 'prompt': the prompt is empty", id="no messages"),
        pytest.param(
            ['{"prompt": [{"role": "user"}]}'], r"line 1, .* lacks role or content", id="message without content"
        ),
        pytest.param([], r"x.jsonl: has no prompts", id="empty file"),
        pytest.param(["", " "], r"x.jsonl: has no prompts", id="only blank lines"),
        pytest.param(
            ['{"prompt": "\udc80"}'.encode("utf-8", "surrogateescape")], r"line 1: is not JSON", id="not UTF-8"
        ),
    ],
)
def test_a_bad_jsonl_file_is_refused_with_its_line(tmp_path, lines, want):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    with pytest.raises(UserError, match=want):
        open_rows(str(path), KEYS)


@pytest.mark.parametrize(
    ("columns", "want"),
    [
        pytest.param({"text": ["a"]}, r"x.parquet: has no 'prompt'; it has text", id="another column"),
        pytest.param({"prompt": ["a", None]}, r"x.parquet row 2: has no 'prompt'", id="null prompt"),
        pytest.param({"prompt": ["a", " "]}, r"x.parquet row 2, key 'prompt': the prompt is empty", id="only spaces"),
        pytest.param({"prompt": [1, 2]}, r"x.parquet: column 'prompt' is int64\nhint: text, or a list", id="numbers"),
        pytest.param(
            {"prompt": [[{"role": "user", "content": "a"}], []]},
            r"row 2, key 'prompt': the prompt is empty",
            id="no messages",
        ),
        pytest.param({"prompt": pa.array([], pa.string())}, r"x.parquet: has no prompts", id="no rows"),
    ],
)
def test_a_bad_parquet_file_is_refused_with_its_row(tmp_path, columns, want):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(UserError, match=want):
        open_rows(str(path), KEYS)


@pytest.mark.parametrize(
    ("name", "want"),
    [
        pytest.param("broken.parquet", "broken.parquet: cannot be read", id="not Parquet inside"),
        pytest.param("prompts.csv", "prompts.csv: is neither .jsonl nor .parquet", id="unknown kind"),
    ],
)
def test_an_unreadable_file_is_refused(tmp_path, name, want):
    (tmp_path / name).write_text(GOOD)
    with pytest.raises(UserError, match=want):
        open_rows(str(tmp_path / name), KEYS)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"gone.jsonl: cannot be read"):
        open_rows(str(tmp_path / "gone.jsonl"), KEYS)


def test_a_folder_without_prompt_files_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no prompts"):
        open_rows(str(tmp_path), KEYS)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_record_without_the_label_a_verifier_needs_is_refused(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    records = [{"prompt": "a", "label": "1"}, {"prompt": "b", "label": None}]
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        pq.write_table(pa.Table.from_pylist(records), path)
    with pytest.raises(UserError, match=r"(line|row) 2: has no 'label'"):
        open_rows(str(path), Keys(prompt="prompt", label="label"))
    assert len(open_rows(str(path), KEYS)) == 2


def test_a_folder_is_read_in_the_order_of_its_names_and_rows_keep_their_places(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.jsonl").write_text('\n{"prompt": "b1"}\n\n{"prompt": "b2"}\n')
    (tmp_path / "README.md").write_text("no prompts here")
    (tmp_path / "sub/empty.jsonl").write_text("")
    pq.write_table(pa.table({"prompt": ["c1"], "extra": [1]}), tmp_path / "sub/c.parquet")
    (tmp_path / "a.jsonl").write_text('{"prompt": "a1"}')
    rows = open_rows(str(tmp_path), KEYS)
    assert [rows.record(i)["prompt"] for i in (3, 2, 1, 0)] == ["c1", "b2", "b1", "a1"]
    assert [rows.where(i).rsplit("/", 1)[1] for i in range(4)] == [
        "a.jsonl line 1",
        "b.jsonl line 2",
        "b.jsonl line 4",
        "c.parquet row 1",
    ]


def test_text_beyond_ascii_survives(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"prompt": "Zürich 東京 🙂\\n"}\n{"prompt": "b"}\n', encoding="utf-8")
    rows = open_rows(str(tmp_path / "x.jsonl"), KEYS)
    assert [rows.record(1)["prompt"], rows.record(0)["prompt"]] == ["b", "Zürich 東京 🙂\n"]
