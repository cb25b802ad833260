"""`opd probe` from its command line: exit codes and what is printed."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from opd_runtime.cli import probe as verb
from opd_runtime.errors import UserError
from opd_runtime.teacher.probe import probe_when_ready


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer of single characters and the fake teacher's vocabulary size."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("student")
    words = {character: number for number, character in enumerate("?0123456789+=abcdefghijklmnopqrstuvwxyz")}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="?").save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"vocab_size": 50, "eos_token_id": 0}))
    return folder


@contextmanager
def in_background(fake, teacher) -> Iterator[str]:
    """The fake server in a thread of its own: the verb runs an event loop of its own."""
    loop, started, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with fake.running(teacher):
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert started.wait(10)
        yield teacher.url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def invoke(*arguments: object) -> SimpleNamespace:
    app = typer.Typer()
    app.command()(verb.probe)
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])
    return SimpleNamespace(code=result.exit_code, output=result.output, error=result.exception)


def test_a_good_teacher_exits_0_and_shows_its_figures(fake, student):
    with in_background(fake, fake.Teacher()) as url:
        result = invoke(url, "--model", student)
    assert result.code == 0, result.output
    for word in ("✓", "repeatable", "informed", "latency", "tokens/s", "mean log-prob"):
        assert word in result.output


def test_a_bad_teacher_exits_1_with_the_reason_and_a_hint(fake, student):
    with in_background(fake, fake.Teacher(reply=lambda answers: "x")) as url:
        result = invoke(url, "--model", student)
    assert result.code == 1
    assert "✗" in result.output and "LogprobsUnavailable" in result.output and "hint: " in result.output


def test_a_url_needs_the_students_folder(fake):
    result = invoke("http://127.0.0.1:1")
    assert result.code == 2 and "--model" in result.output


def test_a_job_without_an_endpoint_has_nothing_to_probe(tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text(
        json.dumps(
            {
                "apiVersion": "opd.dev/v1alpha1",
                "kind": "OPDJob",
                "metadata": {"name": "a"},
                "spec": {
                    "student": {"model": "file:///a"},
                    "teachers": [{"mode": "SGLang", "model": "file:///b"}],
                    "data": {"prompts": [{"uri": "file:///c.jsonl"}]},
                    "steps": 1,
                },
            }
        )
    )
    result = invoke(job)
    assert isinstance(result.error, UserError) and "names no running teacher" in str(result.error)


def test_a_starting_teacher_is_waited_for(fake):
    async def run():
        teacher = fake.Teacher(health=503)
        async with fake.running(teacher):
            waiting = asyncio.create_task(
                probe_when_ready(teacher.url, startup_timeout_seconds=30, probe_ids=[1, 2, 3], vocab_size=50)
            )
            while teacher.health_checks == 0:
                await asyncio.sleep(0.01)
            teacher.health = 200
            return await waiting

    assert asyncio.run(run()).passed


def test_a_teacher_that_never_starts_is_reported_after_the_timeout(fake, unused_tcp_port_url):
    report = asyncio.run(
        probe_when_ready(unused_tcp_port_url, startup_timeout_seconds=0.0, probe_ids=[1, 2, 3], vocab_size=50)
    )
    assert report.reason == "TeacherUnavailable"
