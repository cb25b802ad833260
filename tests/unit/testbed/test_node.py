"""What a node wants of the machine, and how it comes there. A little `apt-get` stands for the real one."""

from collections.abc import Callable
from pathlib import Path

import node
import pytest

APT = """#!/bin/sh
# update | install OPTION… PACKAGE…: like Debian's containerd beside Docker's.
[ "$1" = install ] || exit 0
echo "$@" >>"$INSTALLED"
case "$*" in
*containerd*) echo "The following packages will be REMOVED:"; echo "  containerd.io docker-ce"
    echo "E: Packages need to be removed but remove is disabled." >&2; exit 100 ;;
esac
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Installs on a machine that has all but some; returns the command lines of `apt-get install`."""
    bin_folder, log = tmp_path / "bin", tmp_path / "installed"
    bin_folder.mkdir()
    packages = {
        name: tuple(str(bin_folder / Path(each).name) if "/" in each else each for each in wanted)
        for name, wanted in node.PACKAGES.items()
    }
    monkeypatch.setattr(node, "PACKAGES", packages)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(bin_folder))
    monkeypatch.setenv("INSTALLED", str(log))

    def install(*missing: str) -> list[str]:
        make_program(bin_folder / "apt-get", APT)
        for wanted in packages.values():
            for name in {Path(each).name for each in wanted} - set(missing):
                make_program(bin_folder / name, "#!/bin/sh\n")
        node.install_packages()
        return log.read_text().splitlines() if log.exists() else []

    return install


def make_program(path: Path, script: str) -> None:
    path.write_text(script)
    path.chmod(0o755)


def test_nothing_is_installed_where_all_is_there(installed, monkeypatch):
    monkeypatch.setattr(node, "check_machine", lambda: None)
    assert installed() == []


def test_packages_of_what_is_missing_are_installed_and_nothing_is_removed(installed, monkeypatch):
    monkeypatch.setattr(node, "check_machine", lambda: None)
    (command,) = installed("bridge", "nft", "ip")
    assert command.split()[-3:] == ["containernetworking-plugins", "nftables", "iproute2"]
    assert "--no-remove" in command


def test_a_refusal_of_apt_names_packages_and_reason(installed, capsys):
    installed("ctr", "busybox")
    said = capsys.readouterr().out
    assert "apt-get does not install containerd, busybox-static" in said
    assert "containerd.io docker-ce" in said and "remove is disabled" in said


def test_who_may_not_install_is_told_what_to_install(installed, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(node, "PROJECT", Path("/work"))
    monkeypatch.setattr(node, "_install", lambda packages: None)
    installed("nft", "bridge")
    said = capsys.readouterr().out
    assert f"not on this machine: {tmp_path / 'bin' / 'bridge'}, nft\n" in said
    assert said.endswith("--no-remove containernetworking-plugins nftables\n")
