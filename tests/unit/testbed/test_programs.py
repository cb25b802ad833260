"""Where the testbed's programs come from. A little `go` stands for the real one: what it builds says only its name."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import programs
import pytest
from waiting import wait_until

SCRIPT = Path(programs.__file__)

GO = """#!/bin/sh
# env GOVERSION | list -m … MODULE | build … -o FILE PACKAGE
case $1 in
env) echo go1.99.0 ;;
list) echo "$MODULE_FOLDER" ;;
build)
    echo "$GOCACHE" >>"$BUILDS"
    mkdir -p "$GOCACHE"
    until [ ! -e "$BUILDS.hold" ]; do sleep 0.1; done
    [ ! -e "$BUILDS.fail" ] || { echo "undefined: Everything"; exit 1; }
    while [ $# -gt 2 ]; do shift; done
    echo built >"$1"
    chmod +x "$1" ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """Environment with a `go` on PATH, a cache of its own and no program of a cluster."""
    for folder in ("bin", "assets", "module/config/rbac", "module/config/crd/bases"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "module" / "config" / "rbac" / "role.yaml").write_text("role")
    make_program(tmp_path / "bin" / "go", GO)
    for tool in ("chmod", "mkdir", "sleep"):
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    return {
        "PATH": str(tmp_path / "bin"),
        "HOME": str(tmp_path),
        "OPD_TESTBED_CACHE": str(tmp_path / "cache"),
        "KUBEBUILDER_ASSETS": str(tmp_path / "assets"),
        "BUILDS": str(tmp_path / "builds"),
        "MODULE_FOLDER": str(tmp_path / "module"),
    }


@pytest.fixture
def provide(machine: dict[str, str]) -> Callable[..., subprocess.Popen[str]]:
    """`programs.py NAMES`, started."""

    def start(*names: str, **more: str) -> subprocess.Popen[str]:
        environment = {**machine, **more}
        command = [sys.executable, SCRIPT, *names]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return start


def make_program(path: Path, script: str) -> None:
    path.write_text(script)
    path.chmod(0o755)


def said(process: subprocess.Popen[str], status: int = 0) -> str:
    text, _ = process.communicate(timeout=30)
    assert process.returncode == status, text
    return text


def builds(machine: dict[str, str]) -> list[str]:
    """The build cache of each build."""
    path = Path(machine["BUILDS"])
    return path.read_text().split() if path.exists() else []


def test_what_is_new_enough_is_taken_from_the_machine(machine, provide, tmp_path):
    make_program(tmp_path / "assets" / "etcd", "#!/bin/sh\necho 'etcd Version: 3.5.13'")
    make_program(tmp_path / "bin" / "helm", "#!/bin/sh\necho v4.0.1+g12345")
    text = said(provide("etcd", "helm"))
    assert str(tmp_path / "assets" / "etcd") in text and str(tmp_path / "bin" / "helm") in text
    assert builds(machine) == []


def test_what_is_too_old_is_named_and_built(machine, provide, tmp_path):
    make_program(tmp_path / "bin" / "kubectl", "#!/bin/sh\necho 'Client Version: v1.33.9'")
    text = said(provide("kubectl"))
    assert "kubectl is 1.33.9, 1.34 is needed" in text
    assert len(builds(machine)) == 1


def test_a_program_with_files_of_its_module_is_never_taken_from_the_machine(machine, provide, tmp_path):
    make_program(tmp_path / "bin" / "kuberay", "#!/bin/sh\necho v9.9.9")
    said(provide("kuberay"))
    (built,) = (tmp_path / "cache" / "kuberay").glob("*/kuberay")
    assert built.read_text() == "built\n"
    assert (built.parent / "share" / "config" / "rbac" / "role.yaml").read_text() == "role"


def test_a_program_is_built_once_for_a_go_version(machine, provide, tmp_path):
    said(provide("etcd"))
    assert "building" not in said(provide("etcd"))
    make_program(tmp_path / "bin" / "go", GO.replace("go1.99.0", "go1.99.1"))
    assert "building" in said(provide("etcd"))


def test_checkouts_of_other_pins_keep_their_programs(machine, provide, tmp_path):
    said(provide("etcd"))
    other = tmp_path / "other"
    shutil.copytree(SCRIPT.parent, other)
    with (other / "kubernetes" / "go.sum").open("a") as sums:
        sums.write("more\n")
    run = subprocess.run([sys.executable, other / SCRIPT.name, "etcd"], env=machine, capture_output=True, text=True)
    assert "building" in run.stdout
    assert "building" not in said(provide("etcd"))


def test_gos_build_cache_of_ours_is_thrown_away_and_the_users_is_kept(machine, provide, tmp_path):
    said(provide("etcd"))
    said(provide("helm", GOCACHE=str(tmp_path / "own")))
    assert builds(machine) == [str(tmp_path / "cache" / "go-build"), str(tmp_path / "own")]
    assert not (tmp_path / "cache" / "go-build").exists()
    assert (tmp_path / "own").exists()


def test_two_at_once_build_once(machine, provide):
    hold = Path(machine["BUILDS"] + ".hold")
    hold.touch()
    first = provide("etcd")
    wait_until(lambda: builds(machine), 30, "the first build has begun")
    second = provide("etcd")
    assert second.stdout
    assert "another build is at work" in second.stdout.readline()
    hold.unlink()
    said(first)
    said(second)
    assert len(builds(machine)) == 1


def test_a_killed_build_keeps_others_out_until_it_has_ended_and_counts_for_nothing(machine, provide, tmp_path):
    hold = Path(machine["BUILDS"] + ".hold")
    hold.touch()
    first = provide("etcd")
    wait_until(lambda: builds(machine), 30, "the first build has begun")
    first.kill()
    first.wait()
    second = provide("etcd")
    assert second.stdout
    assert "another build is at work" in second.stdout.readline()
    hold.unlink()
    said(second)
    assert len(builds(machine)) == 2
    assert [path.read_text() for path in (tmp_path / "cache" / "etcd").glob("*/etcd")] == ["built\n"]


def test_a_build_that_fails_says_why_and_leaves_no_program(machine, provide, tmp_path):
    Path(machine["BUILDS"] + ".fail").touch()
    text = said(provide("etcd"), status=1)
    assert "etcd could not be built" in text and "undefined: Everything" in text
    assert list((tmp_path / "cache" / "etcd").glob("*/etcd")) == []


def test_without_go_it_is_said_what_is_missing_and_what_to_do(machine, provide, tmp_path):
    (tmp_path / "bin" / "go").unlink()
    text = said(provide("etcd", "kuberay"), status=1)
    assert "these have to be built: etcd, kuberay" in text and "hint: install Go" in text


def test_an_unknown_name_is_answered_with_the_known_ones(provide):
    assert "sets: control, tools, node, optional" in said(provide("everything"), status=2)
