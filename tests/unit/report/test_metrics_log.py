"""metrics.jsonl: what is written, what a killed run leaves, what a resumed run takes back."""

import orjson
import pytest

from opd_runtime.errors import UserError
from opd_runtime.report.jsonl import MetricsLog, read_records
from opd_runtime.report.metrics import METRICS, TIME_PARTS, StepRecord


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


@pytest.fixture
def write(path, make_record):
    def write(steps, completed_steps=0):
        log = MetricsLog(path)
        kept = log.start(completed_steps)
        for step in steps:
            log.append(make_record(step, evaluated=step == 0))
        log.close()
        return [record.step for record in kept]

    return write


def test_records_come_back_as_they_were_written(path, write, make_record):
    write(range(4))
    assert read_records(path) == [make_record(step, evaluated=step == 0) for step in range(4)]


def test_line_is_flat_json_that_other_tools_can_read(path, write):
    write([3])
    line = orjson.loads(path.read_bytes())
    assert line["step"] == 3
    assert line["opd/reverse_kl"] == pytest.approx(0.7085498)


def test_line_is_on_disk_before_the_log_is_closed(path, make_record):
    log = MetricsLog(path)
    log.start(0)
    log.append(make_record(1))
    assert [record.step for record in read_records(path)] == [1]
    log.close()


@pytest.mark.parametrize(
    ("completed_steps", "want"),
    [
        pytest.param(4, [0, 1, 2, 3, 4], id="what came after the checkpoint goes"),
        pytest.param(6, [0, 1, 2, 3, 4, 5, 6], id="nothing goes when nothing came after"),
        pytest.param(0, [], id="a run that starts over keeps nothing, not even the first evaluation"),
    ],
)
def test_resumed_run_takes_back_the_steps_it_will_do_again(path, write, completed_steps, want):
    write(range(7))
    kept = write([completed_steps + 1], completed_steps)
    assert kept == want
    assert [record.step for record in read_records(path)] == [*want, completed_steps + 1]


@pytest.mark.parametrize("torn", [b'{"step": 4, "to', b"\x00\x00", b""], ids=["half a line", "zeros", "nothing"])
def test_torn_last_line_is_not_there_and_is_gone_after_a_resume(path, write, torn):
    write(range(1, 4))
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert [record.step for record in read_records(path)] == [1, 2, 3]
    assert write([4], completed_steps=3) == [1, 2, 3]
    assert [record.step for record in read_records(path)] == [1, 2, 3, 4]
    assert path.read_bytes().startswith(whole)


@pytest.mark.parametrize("line", [b"nonsense", b"{}", b"[1]", b'"text"'])
def test_broken_line_in_the_middle_is_named(path, write, line):
    write([1])
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 is no step's record"):
        read_records(path)


def test_number_that_is_not_finite_is_absent_when_read_again(path, make_record):
    log = MetricsLog(path)
    log.start(0)
    log.append(make_record(1, **{"policy/loss": float("nan"), "policy/grad_norm": float("inf")}))
    log.close()
    (record,) = read_records(path)
    assert "policy/loss" not in record.metrics
    assert "policy/grad_norm" not in record.metrics
    assert "opd/reverse_kl" in record.metrics


def test_missing_file_has_no_records(path):
    assert read_records(path) == []


def test_every_metric_has_a_sentence_and_a_name_with_its_room():
    for name, metric in METRICS.items():
        room, _, rest = name.partition("/")
        assert room and rest, name
        assert metric.sentence.endswith("."), name
    assert {f"time/{part}" for part in TIME_PARTS} <= METRICS.keys()


def test_record_says_when_it_was_made_in_utc():
    assert StepRecord(step=1, total_steps=2, metrics={}).time.endswith("Z")
