"""The Dockerfiles, read as text: linted, pinned, without root. Shows nothing about an image that was built."""

import json
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
DOCKERFILES = ("operator/Dockerfile", "runtime/Dockerfile")
EXACT_TAG = re.compile(r"^ARG \w+_IMAGE=[\w./-]+:\d+\.\d+\.\d+[\w.-]*$")

every_dockerfile = pytest.mark.parametrize("file", DOCKERFILES)


def instructions(file: str) -> list[str]:
    """One a line, continuations joined, comments gone."""
    text = (ROOT / file).read_text().replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines() if line and not line.startswith("#")]


def pinned(name: str) -> dict[str, str]:
    """Packages of a requirements file and their exact versions."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return {
        canonicalize_name(package.partition("[")[0]): version
        for package, version in (line.split("==") for line in lines if line)
    }


@every_dockerfile
def test_hadolint_finds_nothing(file):
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "--format", "json", ROOT / file], capture_output=True, text=True)
    assert json.loads(done.stdout) == []


@every_dockerfile
def test_every_base_is_an_exact_version(file):
    arguments = [line for line in instructions(file) if "_IMAGE=" in line]
    assert arguments and all(EXACT_TAG.match(line) for line in arguments)
    bases = {line.split()[1] for line in instructions(file) if line.startswith("FROM ")}
    assert bases == {f"${{{line.split()[1].partition('=')[0]}}}" for line in arguments}


@every_dockerfile
def test_what_runs_is_not_root_and_came_from_no_address(file):
    stages = "\n".join(instructions(file)).split("FROM ")[1:]
    last = stages[-1]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.MULTILINE)
    assert not any(re.match(r"ADD |RUN .*(curl|wget|https?://)", line) for line in instructions(file))


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_runtime_image_is_installed_as_make_setup_does_it(target):
    (stage,) = re.findall(
        rf"^FROM \S+ AS {target}\n(.*?)(?=^FROM |\Z)", (ROOT / "runtime/Dockerfile").read_text() + "\n", re.M | re.S
    )
    makefile = (ROOT / "Makefile").read_text()
    setup = makefile.partition("$(VENV)/.ready:")[2].partition("\n\n")[0]
    options = "--no-deps --compile-bytecode"
    assert re.findall(rf"{options} -r (\S+)", setup) == ["requirements/requirements.lock", "$(SGLANG)"]
    choice = re.search(
        r"^SGLANG := requirements/\$\(if \$\(shell command -v nvidia-smi\),(\S+),(\S+)\)$", makefile, re.M
    )
    assert choice, "make setup no longer chooses between a GPU's packages and a CPU's"
    wanted = ["requirements.lock", choice[1 if target == "cuda" else 2]]
    assert re.findall(rf"{options} -r /src/requirements/(\S+)", stage) == wanted
    assert re.search(r"^USER 1000:1000$", stage, re.MULTILINE), "the operator's pods run as 1000"


def test_gpu_packages_are_the_same_sglang_with_all_it_wants_beyond_the_lock():
    lock, cuda = pinned("requirements.lock"), pinned("sglang-cuda.txt")
    assert not set(lock) & set(cuda)
    assert pinned("sglang.txt").items() <= cuda.items()
    gpu_machine = {"extra": "", "sys_platform": "linux", "platform_machine": "x86_64"}
    wanted = [Requirement(text) for text in requires("sglang") or []]
    named = {
        canonicalize_name(each.name) for each in wanted if each.marker is None or each.marker.evaluate(gpu_machine)
    }
    assert named <= {*lock, *cuda}, f"run `make lock`: {named - {*lock, *cuda}}"


def test_the_lock_pins_everything_the_operator_image_installs():
    """Follows the requirements of the `operator` extra through installed packages."""
    lock, seen, todo = pinned("requirements.lock"), set(), [("opd-operator", frozenset({"", "operator"}))]
    while todo:
        package, extras = todo.pop()
        for text in requires(package) or []:
            needed = Requirement(text)
            marker = needed.marker
            name = canonicalize_name(needed.name)
            if name not in seen and (marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)):
                seen.add(name)
                todo.append((name, frozenset({"", *needed.extras})))
    assert {"aiohttp", "kubernetes", "pydantic"} <= seen
    assert not {"torch", "ray", "sglang"} & seen
    assert seen <= set(lock), f"not in the lock: {seen - set(lock)}"


def test_what_images_are_made_of_is_no_more_than_what_they_copy():
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    copied = {
        source.split("/")[0]
        for file in DOCKERFILES
        for line in instructions(file)
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }
    assert "*" in ignore and allowed == copied
