"""The mailbox against a small API server: reports arrive, requests come back, and no trouble reaches the caller."""

import threading
import time
from collections.abc import Callable

import pytest
from api_server import api_server

from opd_api.documents import PROGRESS_LIMIT_BYTES, ErrorReport, Progress, TeacherReport, parse_progress
from opd_api.names import PROGRESS_KEY, REQUEST_KEY
from opd_runtime.errors import UserError
from opd_runtime.report.mailbox import Mailbox, mailbox_url
from opd_runtime.report.metrics import METRICS
from opd_runtime.report.reporter import MESSAGE_LIMIT

DEADLINE_SECONDS = 30


@pytest.fixture
def api(tmp_path):
    with api_server(tmp_path, "ml", "arithmetic") as api:
        yield api


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def mailbox(api, said):
    """As attempt 2 has it, but without waiting between reports."""
    box = Mailbox(api.url, attempt=2, service_account=api.service_account, say=said.append, interval_seconds=0)
    yield box
    api.status = 200
    box.close()


def report(step: int, **more) -> Progress:
    return Progress(attempt=2, phase="Training", step=step, total_steps=10, time="2026-01-02T03:04:05Z", **more)


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"no {what} after {DEADLINE_SECONDS} s"
        time.sleep(0.01)


def test_a_report_arrives_as_the_contracts_reader_reads_it(mailbox, api):
    mailbox.put(report(3, metrics={"opd/reverse_kl": 0.25}))
    wait_until(lambda: api.documents, "report")
    assert api.documents == [report(3, metrics={"opd/reverse_kl": 0.25})]


def test_what_is_reported_between_two_sendings_travels_with_the_second(api):
    box = Mailbox(api.url, attempt=2, service_account=api.service_account, interval_seconds=3600)
    box.put(report(1))
    wait_until(lambda: api.documents, "first report")
    for step in range(2, 9):
        box.put(report(step))
    box.close()
    assert [document.step for document in api.documents] == [1, 8]


def test_the_last_report_is_left_before_close_returns(mailbox, api):
    mailbox.put(report(10))
    mailbox.close()
    assert api.documents[-1].step == 10


def test_the_request_comes_back_with_a_report(mailbox, api):
    stopped = threading.Event()
    mailbox.on_stop(stopped.set)
    mailbox.put(report(1))
    wait_until(lambda: api.documents, "report")
    assert not stopped.is_set()
    api.ask_to_stop(attempt=2)
    mailbox.put(report(2))
    assert stopped.wait(DEADLINE_SECONDS) and mailbox.stop_requested.is_set()


def test_whoever_listens_late_hears_of_an_earlier_request(mailbox, api):
    api.ask_to_stop(attempt=2)
    assert mailbox.read().request.stop == "Suspend"
    stopped = threading.Event()
    mailbox.on_stop(stopped.set)
    assert stopped.is_set()


@pytest.mark.parametrize("attempt", [1, 3])
def test_a_request_to_another_attempt_is_none(mailbox, api, attempt):
    api.ask_to_stop(attempt)
    assert mailbox.read().request.attempt == attempt
    assert not mailbox.stop_requested.is_set()


def test_a_request_that_cannot_be_read_is_said_once_and_left_alone(mailbox, api, said):
    api.data[REQUEST_KEY] = '{"attempt": "two"}'
    assert mailbox.read().request is None
    assert not mailbox.stop_requested.is_set()
    assert len(said) == 1 and "request.json cannot be used" in said[0]


def test_an_earlier_attempts_report_can_be_read(mailbox, api):
    assert mailbox.read().progress is None
    api.data[PROGRESS_KEY] = report(7).model_dump_json()
    assert mailbox.read().progress == report(7)
    api.data[PROGRESS_KEY] = "garbage"
    assert mailbox.read().progress is None


@pytest.mark.parametrize("status", [403, 404, 409, 429, 500, 503])
def test_a_report_that_is_refused_is_left_later(mailbox, api, said, status):
    api.status = status
    mailbox.put(report(1))
    wait_until(lambda: len(api.tokens) >= 2, "second try")
    mailbox.put(report(2))
    api.status = 200
    wait_until(lambda: api.documents, "report")
    assert api.documents[0].step == 2
    wait_until(lambda: len(said) == 2, "end of the trouble")
    assert f"({status}: " in said[0] and "training goes on" in said[0]
    assert said[1] == "the job's mailbox can be used again"


def test_a_renewed_token_is_used_at_once(mailbox, api):
    mailbox.put(report(1))
    wait_until(lambda: api.documents, "report")
    api.renew_token("second-token")
    mailbox.put(report(2))
    wait_until(lambda: len(api.documents) == 2, "second report")
    assert api.tokens == ["first-token", "second-token"]


def test_a_server_with_another_certificate_is_not_told_the_token(api, tmp_path, said):
    with api_server(tmp_path / "other", "ml", "arithmetic") as other:
        box = Mailbox(api.url, attempt=2, service_account=other.service_account, say=said.append, interval_seconds=0)
        box.put(report(1))
        wait_until(lambda: said, "complaint")
        box.close(timeout_seconds=0)
    assert api.tokens == [] and "CERTIFICATE_VERIFY_FAILED" in said[0]


def test_a_server_that_is_gone_stops_nobody(tmp_path, said):
    with api_server(tmp_path, "ml", "arithmetic") as api:
        pass
    box = Mailbox(api.url, attempt=2, service_account=api.service_account, say=said.append)
    assert box.read().progress is None
    box.put(report(1))
    box.close(timeout_seconds=0.1)
    assert len(said) == 1 and "cannot be used" in said[0]


def test_the_largest_report_is_one_the_reader_accepts():
    longest = "€" * MESSAGE_LIMIT
    largest = report(
        10,
        metrics=dict.fromkeys(METRICS, -1.2345678901234567e-300),
        message=longest,
        error=ErrorReport(actor="User", reason="UserError", path="p" * 1000, message=longest),
        teachers=tuple(TeacherReport(name="t" * 20, mode="SGLang") for _ in range(8)),
    )
    document = largest.model_dump_json(exclude_none=True).encode()
    assert len(document) < PROGRESS_LIMIT_BYTES
    assert parse_progress(document) == largest


def test_the_address_is_the_one_every_pod_is_given(monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    assert mailbox_url("ml", "arithmetic") == (
        "https://[fd00::1]:443/api/v1/namespaces/ml/configmaps/arithmetic-mailbox"
    )
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    with pytest.raises(UserError, match="this is no pod") as refused:
        mailbox_url("ml", "arithmetic")
    assert "opd run" in refused.value.hint
