"""The runtime's mailbox against a real API server, with the token and the Role of a job's head pod.

No pod runs: the token is one the API server gives out, not one that a kubelet renews.
"""

from collections.abc import Iterator

import pytest
from cluster_namespace import Namespace
from mailbox_account import RealMailbox, make_mailbox
from waiting import wait_until

from opd_api.documents import Progress, Request
from opd_api.load import job_from_document
from opd_api.names import PROGRESS_KEY, REQUEST_KEY, config, mailbox
from opd_api.spec import OPDJob
from opd_runtime.report.mailbox import Mailbox

SECONDS = 30.0
STOP = Request(attempt=1, stop="Suspend", time="2026-01-02T03:04:05Z")


def make_job(namespace: str) -> OPDJob:
    return job_from_document(
        {
            "apiVersion": "opd.dev/v1alpha1",
            "kind": "OPDJob",
            "metadata": {"name": "arithmetic", "namespace": namespace, "uid": "0f5c9a57-3f0e-4a51-9d3e-6a7a6a3c1f10"},
            "spec": {
                "student": {"model": "pvc://models/student"},
                "teachers": [{"mode": "SGLang", "model": "pvc://models/teacher"}],
                "data": {"prompts": [{"uri": "pvc://models/prompts.jsonl"}]},
                "steps": 10,
            },
        }
    )


def report(step: int) -> Progress:
    return Progress(attempt=1, phase="Training", step=step, total_steps=10, time="2026-01-02T03:04:05Z")


@pytest.fixture
def real(namespace: Namespace, tmp_path) -> RealMailbox:
    return make_mailbox(namespace.cluster, make_job(namespace.name), tmp_path)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def box(real: RealMailbox, said: list[str]) -> Iterator[Mailbox]:
    url = real.url(mailbox("arithmetic"))
    box = Mailbox(url, attempt=1, service_account=real.service_account, say=said.append, interval_seconds=0)
    yield box
    box.close(timeout_seconds=0)


def test_reports_arrive_and_requests_come_back_whoever_writes_first(real, box, said):
    box.put(report(1))
    wait_until(lambda: real.progress() == report(1), SECONDS, "the first report")
    assert not box.stop_requested.is_set()
    real.ask(STOP)
    assert real.progress() == report(1), "the operator's request leaves the runtime's report"
    box.put(report(2))
    wait_until(box.stop_requested.is_set, SECONDS, "the stop request")
    assert real.progress() == report(2)
    real.ask(None)
    assert not real.data()[REQUEST_KEY] and PROGRESS_KEY in real.data()
    assert said == []


def test_the_heads_account_reaches_no_other_configmap(real, said):
    other = real.url(config("arithmetic"))
    box = Mailbox(other, attempt=1, service_account=real.service_account, say=said.append, interval_seconds=0)
    box.put(report(1))
    wait_until(lambda: said, SECONDS, "the refusal")
    box.close(timeout_seconds=0)
    assert "cannot be used (403: " in said[0]
    assert PROGRESS_KEY not in real.cluster.http.get(other).json()["data"]


def test_a_mailbox_that_is_gone_ends_nothing(real, box, said):
    real.cluster.http.delete(real.url(mailbox("arithmetic"))).raise_for_status()
    box.put(report(1))
    wait_until(lambda: said, SECONDS, "the complaint")
    assert "(404: " in said[0]
    real.ask(None)
    wait_until(lambda: real.progress() == report(1), SECONDS, "the report, once there is a mailbox again")
