"""requirements/system.sh: what `make setup` asks of the machine. Little programs stand for the machine's."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "requirements" / "system.sh"

PYTHON = """#!/bin/bash
case $2 in
*ensurepip*) [ -e "$HERE/ensurepip" ] ;;
*) echo "$HERE/include" ;;
esac
"""
APT = """#!/bin/bash
echo "$@" >>"$HERE/installed"
[ ! -e "$HERE/refuse" ] || exit 100
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Folder of one that lacks nothing: Python 3.12 with headers and ensurepip, g++, apt-get; its user is root."""
    for name, script in {"python3": PYTHON, "apt-get": APT, "g++": "", "id": "#!/bin/bash\necho 0"}.items():
        make_program(tmp_path / "bin" / name, script)
    (tmp_path / "bin" / "bash").symlink_to(str(shutil.which("bash")))
    (tmp_path / "ensurepip").touch()
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "Python.h").touch()
    return tmp_path


@pytest.fixture
def check(machine: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(uv: str = "/no/uv") -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(machine / "bin"), "HERE": str(machine)}
        return subprocess.run([SCRIPT, uv], env=environment, capture_output=True, text=True, timeout=60)

    return run


def make_program(path: Path, script: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(script)
    path.chmod(0o755)


def installed(machine: Path) -> list[str]:
    """Arguments of each `apt-get`."""
    log = machine / "installed"
    return log.read_text().splitlines() if log.exists() else []


def test_where_nothing_is_missing_nothing_is_done(machine, check):
    done = check()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert installed(machine) == []


def test_root_gets_what_is_missing_and_loses_nothing(machine, check):
    for path in ("bin/g++", "ensurepip", "include/Python.h"):
        (machine / path).unlink()
    done = check()
    assert (done.returncode, done.stdout) == (0, "setup: installing python3-venv g++ python3.12-dev\n")
    assert installed(machine)[-1].endswith("--no-install-recommends --no-remove python3-venv g++ python3.12-dev")


def test_who_is_not_root_is_told_in_one_line(machine, check):
    (machine / "bin" / "g++").unlink()
    make_program(machine / "bin" / "id", "#!/bin/bash\necho 1000")
    done = check()
    assert done.returncode == 1 and done.stderr.startswith("setup: this machine lacks g++ (")
    assert done.stderr.count("\n") == 1 and installed(machine) == []


def test_a_refusal_of_apt_is_a_failure(machine, check):
    (machine / "bin" / "g++").unlink()
    (machine / "refuse").touch()
    assert check().returncode != 0


@pytest.mark.parametrize(
    ("uv", "packages"),
    [
        pytest.param("#!/bin/bash\necho python3", "python3.12-dev", id="it would take the system's"),
        pytest.param("#!/bin/bash\nexit 2", "", id="it would fetch one, with headers"),
    ],
)
def test_uv_says_which_python_has_to_have_headers(machine, check, uv, packages):
    """And where it is there, nobody needs ensurepip."""
    (machine / "include" / "Python.h").unlink()
    (machine / "ensurepip").unlink()
    make_program(machine / "bin" / "uv", uv)
    assert check("uv").returncode == 0
    assert [line.split("--no-remove ")[1] for line in installed(machine)[1:]] == ([packages] if packages else [])
