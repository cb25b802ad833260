"""`opd run` ends before the first step: a teacher that is none is named, Ctrl-C is obeyed."""

import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from .conftest import ARITHMETIC, OpdRun, StartRun, wait_until

NOBODY = "http://127.0.0.1:9"


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


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def runs(start_run: StartRun, wrong_teacher: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, OpdRun]:
    """One for each end, side by side: most of each is imports, on one core."""

    def start(job: Path) -> OpdRun:
        return start_run(job, tmp_path_factory.mktemp("run") / "run")

    jobs = {endpoint: endpoint_job(tmp_path_factory.mktemp("job"), endpoint) for endpoint in (NOBODY, wrong_teacher)}
    return {name: start(job) for name, job in {**jobs, "Ctrl-C": ARITHMETIC / "opdjob-megatron-teacher.yaml"}.items()}


def test_ctrl_c_ends_at_once_and_leaves_nothing(runs: dict[str, OpdRun]) -> None:
    run = runs["Ctrl-C"]
    wait_until(lambda: (run.run_dir / "logs" / "engine-0.log").exists(), "the engine to start", run)
    run.signal(signal.SIGINT)
    code, output = run.end()
    run.all_gone()
    assert code == 130, output
    assert "Traceback" not in output
    assert run.progress()["phase"] == "Stopped"


def test_an_unreachable_teacher_is_named_before_anything_trains(runs: dict[str, OpdRun]) -> None:
    run = runs[NOBODY]
    code, output = run.end()
    run.all_gone()
    assert code == 1
    assert NOBODY in output and "does not answer" in output
    assert "Traceback" not in output
    assert run.progress()["error"]["reason"] == "TeacherUnavailable"
    assert not run.steps()


def test_a_teacher_that_answers_garbage_never_trains_a_student(runs: dict[str, OpdRun], wrong_teacher: str) -> None:
    run = runs[wrong_teacher]
    code, output = run.end()
    run.all_gone()
    assert code == 1
    assert wrong_teacher in output
    assert run.progress()["error"]["reason"] == "LogprobsUnavailable"
    assert not run.steps()
