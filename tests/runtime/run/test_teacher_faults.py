"""A teacher that is none ends `opd run` by name before the first step; one that dies comes back."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from .conftest import ARITHMETIC, StartRun


class WrongTeacher(BaseHTTPRequestHandler):
    """Healthy, and answers every question with `status` and `answer`."""

    status, answer = 200, b"[]"

    def do_GET(self) -> None:
        self._reply(200, b"{}")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if "tokenize" in self.path:
            self._reply(404, b"{}")
        else:
            self._reply(self.status, self.answer)

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def wrong_teacher() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Garbage", (WrongTeacher,), {"answer": b'{"text": "hello"}'}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()


def endpoint_job(folder: Path, endpoint: str) -> Path:
    text = (ARITHMETIC / "opdjob.yaml").read_text()
    start, end = text.index("  teachers:"), text.index("  data:")
    teacher = f"  teachers:\n    - mode: SGLang\n      sglang: {{endpoint: '{endpoint}', startupTimeoutSeconds: 1}}\n"
    path = folder / "opdjob.yaml"
    path.write_text(text[:start] + teacher + text[end:])
    return path


def test_an_unreachable_teacher_is_named_before_anything_trains(start_run: StartRun, tmp_path: Path) -> None:
    run = start_run(endpoint_job(tmp_path, "http://127.0.0.1:9"), tmp_path / "run")
    code, output = run.end()
    run.all_gone()
    assert code == 1
    assert "http://127.0.0.1:9" in output and "does not answer" in output
    assert "Traceback" not in output
    assert run.progress()["error"]["reason"] == "TeacherUnavailable"
    assert not run.steps()


def test_a_teacher_that_answers_garbage_never_trains_a_student(
    start_run: StartRun, tmp_path: Path, wrong_teacher: str
) -> None:
    run = start_run(endpoint_job(tmp_path, wrong_teacher), tmp_path / "run")
    code, output = run.end()
    run.all_gone()
    assert code == 1
    assert wrong_teacher in output
    assert run.progress()["error"]["reason"] == "LogprobsUnavailable"
    assert not run.steps()


def test_a_teacher_server_that_dies_is_started_again_and_training_goes_on(start_run: StartRun, tmp_path: Path) -> None:
    run = start_run(ARITHMETIC / "opdjob.yaml", tmp_path / "run", steps=30)
    run.wait_for_step(5)
    run.server("teacher").kill()
    code, output = run.end()
    assert code == 0, output
    assert "teacher server 0 died" in output
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 30
