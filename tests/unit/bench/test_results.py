"""What benchmarks write, and that the results in git are of that form. Proves no figure."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[3] / "bench"
KEYS = {"what", "ours", "peer", "ratio", "goal", "unit"}
RESULTS = sorted((BENCH / "results").glob("*.json"))


@pytest.fixture(scope="module")
def results() -> ModuleType:
    """bench/results.py, which belongs to no package."""
    spec = importlib.util.spec_from_file_location("bench_results", BENCH / "results.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def check(document: dict) -> None:
    assert set(document) == {"rows", "date", "machine", "command"}
    assert all(isinstance(document[key], str) and document[key] for key in ("date", "machine", "command"))
    assert document["rows"]
    for row in document["rows"]:
        assert set(row) == KEYS
        assert row["what"] and row["unit"] and isinstance(row["ours"], float)
        assert all(row[key] is None or isinstance(row[key], float) for key in ("peer", "ratio", "goal"))
        assert (row["peer"] is None) == (row["ratio"] is None)


def test_report_writes_rows_and_where_they_come_from(results, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    rows = [
        results.compared("rate", 12345.678, 5000.0, unit="tokens/s", goal=3.0),
        results.Row(what="share", ours=0.5, unit="share"),
    ]
    document = json.loads(results.report("some", rows, peer="other").read_text())
    check(document)
    assert document["rows"][0]["ratio"] == 2.469
    assert "rate" in capsys.readouterr().out


@pytest.mark.parametrize("file", RESULTS, ids=[file.stem for file in RESULTS])
def test_results_in_git_have_the_form(file):
    check(json.loads(file.read_text()))
