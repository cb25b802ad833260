"""`opd train` and `opd serve` as far as nothing is started: what they refuse, and whom they tell."""

import json
import os
import subprocess
import sys
import tempfile

import psutil
import pytest
from api_server import api_server

from opd_runtime.errors import UserError


@pytest.fixture
def api(tmp_path, monkeypatch):
    with api_server(tmp_path / "api", "ml", "tiny") as api:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
        yield api


def change(job_file, **fields):
    document = json.loads(job_file.read_text())
    document["metadata"] |= {"namespace": "ml", "uid": "u"}
    document["spec"] |= fields
    job_file.write_text(json.dumps(document))
    return job_file


def test_outside_of_a_pod_there_is_another_verb(opd, job_file, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    result = opd("train", change(job_file), "--attempt", 1)
    assert result.code == 1 and "this is no pod" in result.err and "`opd run FILE`" in result.err


def test_a_job_without_a_namespace_has_no_mailbox(opd, job_file, api):
    result = opd("train", job_file, "--attempt", 1)
    assert result.code == 1 and "metadata: names no job and namespace" in result.err


def test_a_document_that_this_version_cannot_read_is_told_to_the_operator(opd, job_file, api):
    change(job_file, colour="blue")
    result = opd("train", job_file, "--attempt", 4, "--service-account", api.service_account)
    assert result.code == 1 and "spec.colour" in result.err
    [told] = api.documents
    assert (told.attempt, told.phase) == (4, "Failed")
    assert (told.error.actor, told.error.path) == ("User", "spec.colour")


SERVED = {"mode": "SGLang", "model": "pvc://models/teacher", "sglang": {"args": ["--x"], "gpusPerReplica": 2}}


def test_serve_becomes_the_server_with_the_jobs_settings(opd, job_file, models, monkeypatch, tmp_path):
    became = []

    def execvpe(file, argv, env):
        became.append((argv, env))
        raise UserError("became")

    monkeypatch.setattr(os, "execvpe", execvpe)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # the guardian, who would empty it, is never there
    monkeypatch.setenv("OPD_TEACHER_API_KEY", "s3cret")
    change(job_file, teachers=[SERVED])
    opd("serve", job_file, "--host", "0.0.0.0", "--volume", f"models={models}")
    [(argv, env)] = became
    assert "guardian.py" in argv[2] and argv[3] == str(os.getppid())
    command = " ".join(argv)
    for words in (f"--model-path {models}/teacher", "--host 0.0.0.0 --port 30000", "--tp-size 2", "--dtype float32"):
        assert words in command
    assert argv[-1] == "--x" and "s3cret" not in command and env["OPD_TEACHER_API_KEY"] == "s3cret"


@pytest.mark.parametrize(
    ("teacher", "name", "words"),
    [
        pytest.param(SERVED, "other", "has no teacher 'other'", id="an unknown name"),
        pytest.param(
            {"mode": "Megatron", "model": "pvc://models/teacher"}, "teacher", "trainers", id="in the trainers"
        ),
        pytest.param(
            {"mode": "SGLang", "sglang": {"endpoint": "http://h:1"}}, "teacher", "runs at http://h:1", id="elsewhere"
        ),
    ],
)
def test_a_teacher_that_has_no_server_of_ours_is_refused(opd, job_file, models, teacher, name, words):
    change(job_file, teachers=[teacher])
    result = opd("serve", job_file, "--teacher", name, "--volume", f"models={models}")
    assert result.code == 1 and words in result.err and "hint: " in result.err


DRIVER = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), print("saved"), sys.exit(3)))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def processes(tmp_path, monkeypatch):
    """Starts a stand-in; of all processes, `opd drain` sees these alone."""
    started = []

    def start(*command, executable=None):
        process = subprocess.Popen(command, executable=executable, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    monkeypatch.setattr(psutil, "process_iter", lambda _: [_seen(each.pid) for each in started])
    yield start
    for process in started:
        process.kill()
        process.communicate()


def _seen(pid):
    process = psutil.Process(pid)
    process.info = {"cmdline": process.cmdline()}
    return process


def test_drain_asks_the_driver_to_stop_and_waits_until_it_has_saved(opd, processes, tmp_path):
    (tmp_path / "opd").write_text(DRIVER)
    driver = processes(sys.executable, str(tmp_path / "opd"), "train", "job.yaml")
    assert driver.stdout.readline() == "ready\n"
    assert opd("drain", "--timeout", 30).code == 0
    assert driver.stdout.read() == "saved\n"


def test_drain_leaves_trainers_alone_and_says_who_outlived_it(opd, processes):
    trainer = processes("ray::TrainerActor", "60", executable="/bin/sleep")
    processes("sh", "-c", ": opd train; kill -STOP $$")
    result = opd("drain", "--timeout", 0.2)
    assert result.code == 0 and "still running after 0.2 s: sleep" in result.err
    assert trainer.poll() is None


def test_drain_of_a_pod_where_nothing_runs_is_done(opd, processes):
    assert opd("drain").code == 0
