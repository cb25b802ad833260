"""What every verb shares: help, exit codes, the shape of an error."""

import os
import re
import subprocess
import sys

import pytest

VERBS = ("validate", "render", "run", "get", "plot", "eval", "fetch", "convert", "probe", "serve", "train", "drain")

HELP_OF_ALL = f"""
import sys
from opd_runtime.cli import main
for verb in {VERBS}:
    sys.argv = ["opd", verb, "--help"]
    try:
        main()
    except SystemExit as end:
        assert not end.code, verb
print("MODULES", *sys.modules)
"""


def test_help_lists_the_verbs_with_a_whole_sentence_each(opd):
    result = opd("--help")
    assert result.code == 0
    listed = re.findall(r"^  (\w+) +(.+)$", result.out.split("Commands:")[1], flags=re.M)
    assert [verb for verb, _ in listed] == list(VERBS)
    assert all(sentence.endswith(".") and not sentence.endswith("...") for _, sentence in listed)


def test_help_of_every_verb_answers_without_torch_ray_or_any_other_engine():
    done = subprocess.run(
        [sys.executable, "-c", HELP_OF_ALL],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split("MODULES")[1].split())
    assert not {"torch", "ray", "megatron", "sglang", "transformers", "datasets", "matplotlib", "numpy"} & loaded


def test_version_names_the_command(opd):
    result = opd("--version")
    assert result.code == 0
    assert re.fullmatch(r"opd \d+\.\d+\.\d+\n", result.out)


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        pytest.param(["prob"], "No such command 'prob'. Did you mean 'probe'?", id="a verb that is none"),
        pytest.param(["run"], "Missing argument 'file'.", id="a verb without its argument"),
        pytest.param(["run", "x.yaml", "--rezume"], "No such option: --rezume", id="an option that is none"),
        pytest.param(["render", "x.yaml", "--gpu-gib", "80"], "add --models", id="memory of a GPU without an estimate"),
        pytest.param(["fetch", "hf://a/b", "--set", "steps=1"], "URIs have no fields", id="a field of a URI"),
        pytest.param(["fetch", "x.yaml", "--report", "r", "--summary"], "one of the two", id="shapes to two places"),
        pytest.param(["probe", "http://h", "--model", ".", "--set", "steps=1"], "not for a URL", id="a field of a URL"),
        pytest.param(
            ["convert", "a", "b", "--step", "x"], "Invalid value for '--step'", id="a value of the wrong type"
        ),
    ],
)
def test_wrong_usage_exits_with_2(opd, arguments, want):
    result = opd(*arguments)
    assert result.code == 2
    assert want in result.err


@pytest.mark.parametrize("verb", ["validate", "render", "run", "fetch", "eval"])
def test_a_missing_file_is_one_line_and_a_hint(opd, tmp_path, verb):
    result = opd(verb, tmp_path / "no.yaml")
    assert result.code == 1
    assert result.err == f"error: {tmp_path}/no.yaml: No such file or directory\nhint: name the file of an OPDJob\n"


def test_verbose_adds_the_traceback_wherever_it_stands(opd, tmp_path):
    assert "Traceback" not in opd("validate", tmp_path / "no.yaml").err
    for arguments in (("--verbose", "validate", tmp_path / "no.yaml"), ("validate", tmp_path / "no.yaml", "--verbose")):
        result = opd(*arguments)
        assert result.code == 1
        assert "Traceback" in result.err and result.err.endswith("hint: name the file of an OPDJob\n")


@pytest.mark.parametrize("verb", ["validate", "render", "run", "fetch", "eval"])
def test_set_is_refused_alike_by_every_verb_that_takes_it(opd, job_file, verb):
    result = opd(verb, job_file, "--set", "rollout.batchsize=4", "--set", "steps")
    assert result.code == 1
    assert "spec.rollout.batchsize: is no field of an OPDJob" in result.err
    assert "batchSize" in result.err
    assert "--set steps: is not PATH=VALUE\nhint: write --set optimizer.lr=1.0e-3" in result.err


def test_a_volume_without_a_folder_is_wrong_usage(opd, job_file):
    result = opd("fetch", job_file, "--volume", "models")
    assert result.code == 2
    assert "--volume 'models': expected CLAIM=DIR" in result.err
