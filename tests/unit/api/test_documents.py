"""Documents of the mailbox: a reader survives whatever is in it. Columns, names and reasons made from them."""

import json

import pytest

from opd_api import names
from opd_api.columns import columns
from opd_api.conditions import REASONS, ConditionType, Reason
from opd_api.documents import PROGRESS_LIMIT_BYTES, DocumentError, Progress, Request, parse_progress, parse_request
from opd_api.errors import InvalidJob, OPDError, Problem

REPORT = {
    "attempt": 1,
    "phase": "Training",
    "step": 120,
    "totalSteps": 300,
    "time": "2026-11-24T15:00:00Z",
    "metrics": {"opd/reverse_kl": 0.18249, "reward/raw": 0.62, "eval/pass@1": 0.8125},
    "trend": "Falling",
    "teachers": [{"name": "teacher", "mode": "SGLang", "ready": True, "readyReplicas": 1, "replicas": 1}],
    "checkpoint": {"step": 100, "uri": "pvc://checkpoints/x"},
}


def make_progress(**changes: object) -> Progress:
    parsed = parse_progress(json.dumps(REPORT | changes).encode())
    assert isinstance(parsed, Progress), parsed
    return parsed


def test_report_survives_a_round_trip():
    progress = make_progress()
    assert parse_progress(progress.model_dump_json().encode()) == progress
    assert json.loads(progress.model_dump_json())["totalSteps"] == 300


@pytest.mark.parametrize(
    ("data", "want_words"),
    [
        pytest.param(b"", "EOF", id="nothing"),
        pytest.param(b"{", "EOF", id="half a document"),
        pytest.param(b"\xff\x00", "expected value", id="no text"),
        pytest.param(b"[]", "object", id="a list"),
        pytest.param(json.dumps(REPORT | {"step": "120"}).encode(), "step", id="text for a number"),
        pytest.param(json.dumps(REPORT | {"step": -1}).encode(), "step", id="negative step"),
        pytest.param(json.dumps(REPORT | {"attempt": True}).encode(), "attempt", id="bool for a number"),
        pytest.param(json.dumps(REPORT | {"phase": "Dreaming"}).encode(), "phase", id="unknown phase"),
        pytest.param(json.dumps(REPORT | {"conditions": []}).encode(), "conditions", id="forged condition"),
        pytest.param(json.dumps(REPORT | {"metrics": {"x": float("nan")}}).encode(), "metrics.x", id="NaN metric"),
        pytest.param(json.dumps(REPORT | {"message": "x" * 5000}).encode(), "message", id="endless sentence"),
        pytest.param(b'{"a":' * 2000, "", id="nested too deep"),
    ],
)
def test_report_that_cannot_be_used_is_a_value_not_an_exception(data, want_words):
    parsed = parse_progress(data)
    assert isinstance(parsed, DocumentError)
    assert parsed.reason == "Unreadable"
    assert want_words in parsed.message


def test_report_over_the_limit_is_not_parsed():
    parsed = parse_progress(b" " * (PROGRESS_LIMIT_BYTES + 1))
    assert isinstance(parsed, DocumentError)
    assert parsed.reason == "TooLarge"


def test_request_is_read():
    parsed = parse_request(b'{"attempt": 2, "stop": "Suspend", "time": "2026-11-24T15:00:00Z"}')
    assert isinstance(parsed, Request)
    assert parsed.stop == "Suspend"
    assert isinstance(parse_request(b'{"attempt": 2, "stop": "Now", "time": ""}'), DocumentError)


def make_teacher(mode: str, ready: int = 0, replicas: int = 0) -> dict[str, object]:
    return {"name": "t", "mode": mode, "readyReplicas": ready, "replicas": replicas}


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        pytest.param({}, ("120/300", "0.182", "0.62", "SGLang 1/1", "0.81"), id="all is known"),
        pytest.param({"metrics": {}, "teachers": []}, ("120/300", None, None, None, None), id="nothing is known yet"),
        pytest.param(
            {"metrics": {"opd/reverse_kl": 0.0}}, ("120/300", "0.000", None, "SGLang 1/1", None), id="zero is zero"
        ),
        pytest.param(
            {"metrics": {"opd/reverse_kl": 4e-5}},
            ("120/300", "4e-05", None, "SGLang 1/1", None),
            id="small is not zero",
        ),
        pytest.param(
            {"metrics": {"reward/raw": -0.5}}, ("120/300", None, "-0.50", "SGLang 1/1", None), id="negative reward"
        ),
        pytest.param(
            {"metrics": {}, "teachers": [make_teacher("Megatron")]},
            ("120/300", None, None, "Megatron", None),
            id="in process",
        ),
        pytest.param(
            {"metrics": {}, "teachers": [make_teacher("SGLang", 3, 4), make_teacher("Megatron")]},
            ("120/300", None, None, "Mixed 3/4", None),
            id="both modes",
        ),
    ],
)
def test_columns_are_short_strings(changes, want):
    shown = columns(make_progress(**changes))
    assert (shown.step, shown.kl, shown.reward, shown.teacher, shown.pass_at_1) == want


def test_names_of_the_longest_job_stay_within_what_kubernetes_and_kuberay_allow():
    job = "j" * names.JOB_NAME_LENGTH
    assert len(names.rayjob(job, 99999)) <= 47
    assert len(names.teacher(job, "t" * names.TEACHER_NAME_LENGTH)) <= 63
    for name in (names.models_job(job), names.mailbox(job), names.service_account(job)):
        assert len(name) <= 63
    assert all(len(value) <= 63 for value in names.labels(job, "teacher", attempt=99999).values())


def test_children_of_a_job_have_different_names():
    children = [names.models_job("x"), names.mailbox("x"), names.rayjob("x", 1), names.teacher("x", "teacher"), "x"]
    assert len(set(children)) == len(children)


def test_every_reason_belongs_to_a_condition():
    assert {reason for reasons in REASONS.values() for reason in reasons} == set(Reason)
    assert set(REASONS) <= set(ConditionType)


def test_problems_read_as_path_message_hint():
    error = InvalidJob(
        [Problem(path="spec.a", message="is wrong", hint="fix it"), Problem(path="spec.b", message="is gone")]
    )
    assert isinstance(error, OPDError)
    assert str(error) == "spec.a: is wrong\nhint: fix it\nspec.b: is gone"
