"""What `helm test` runs, against servers of the standard library: an operator that answers, and ones that do not."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import certifi
import pytest

OPERATOR = {"/healthz": "ok", "/readyz": "ok", "/metrics": "opd_jobs 1"}
OPDJOBS = {"/apis/opd.dev/v1alpha1": json.dumps({"resources": [{"kind": "OPDJob"}]})}


@contextmanager
def serving(pages: dict[str, str]) -> Iterator[str]:
    """Base URL of a server that has these pages and answers 404 elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path)
            self.send_response(200 if page is not None else 404)
            self.end_headers()
            self.wfile.write((page or "").encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("operator", "api", "said"),
    [
        pytest.param(OPERATOR, OPDJOBS, "", id="all is well"),
        pytest.param({}, OPDJOBS, "/healthz: HTTP Error 404", id="something else answers"),
        pytest.param({"/healthz": "ok"}, OPDJOBS, "/readyz: HTTP Error 404", id="healthy and never ready"),
        pytest.param(OPERATOR | {"/metrics": ""}, OPDJOBS, "shows no metric of the operator", id="no metrics"),
        pytest.param(OPERATOR, {}, "/apis/opd.dev/v1alpha1: HTTP Error 404", id="no such group"),
        pytest.param(
            OPERATOR,
            {"/apis/opd.dev/v1alpha1": json.dumps({"resources": []})},
            "hint: install the CRD (crds.install: true)",
            id="the group without the kind",
        ),
    ],
)
def test_helm_test_fails_with_one_reason_or_not_at_all(chart: Path, account: Path, operator, api, said):
    with serving(operator) as operator_url, serving(api) as api_url:
        command = [sys.executable, "-I", chart / "files" / "answers.py", operator_url, api_url, account]
        done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode != 0) == bool(said)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """A mounted ServiceAccount: any CA will do, the servers speak no TLS."""
    (tmp_path / "token").write_text("t")
    (tmp_path / "ca.crt").write_text(Path(certifi.where()).read_text())
    return tmp_path
