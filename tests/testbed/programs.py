"""The cluster's programs: found on this machine, or built from the Go modules pinned here. Starts no cluster.

    python tests/testbed/programs.py control tools

Looked for in $KUBEBUILDER_ASSETS, then among those built before, then on PATH; what is missing or too old is built into
the cache. Programs that need files of their own module (KubeRay's CRDs, kwok's stages) are always built.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

type Version = tuple[int, ...]


class ClusterUnavailable(Exception):
    """The cluster cannot be had, and what to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Where one program comes from."""

    family: str
    """Folder of the go.mod that pins it."""
    package: str
    oldest: Version = ()
    """A program of this version or newer may be taken from the machine; empty: it is always built."""
    ask: tuple[str, ...] = ("--version",)
    """Arguments that make it say its version."""
    module: str = ""
    files: tuple[str, ...] = ()
    """Globs below `module`'s folder that go with the program, copied beside it with their paths."""


def _kubernetes(name: str, ask: Sequence[str] = ("--version",)) -> Program:
    return Program(family="kubernetes", package=f"k8s.io/kubernetes/cmd/{name}", oldest=(1, 34), ask=tuple(ask))


_KUBERAY = "github.com/ray-project/kuberay/ray-operator"
_KUBERAY_KINDS = ("rayclusters", "rayjobs", "rayservices")  # those it waits for when it starts
_KUBERAY_FILES = ("config/rbac/role.yaml", *(f"config/crd/bases/ray.io_{kind}.yaml" for kind in _KUBERAY_KINDS))
_KWOK_STAGES = ("node/fast/node-*", "node/heartbeat-with-lease/node-*", "pod/fast/pod-ready*", "pod/fast/pod-delete*")

PROGRAMS = {
    # Older ones cannot be asked for the progress of a watch, which the API server does.
    "etcd": Program(family="kubernetes", package="go.etcd.io/etcd/server/v3", oldest=(3, 5, 13)),
    "kube-apiserver": _kubernetes("kube-apiserver"),
    "kube-controller-manager": _kubernetes("kube-controller-manager"),
    "kube-scheduler": _kubernetes("kube-scheduler"),
    "kubectl": _kubernetes("kubectl", ask=("version", "--client")),
    "kuberay": Program(family="ray", package=_KUBERAY, module=_KUBERAY, files=_KUBERAY_FILES),
    "helm": Program(family="extras", package="helm.sh/helm/v4/cmd/helm", oldest=(3, 16), ask=("version", "--short")),
    "kwok": Program(
        family="extras",
        package="sigs.k8s.io/kwok/cmd/kwok",
        module="sigs.k8s.io/kwok",
        files=tuple(f"kustomize/stage/{stage}.yaml" for stage in _KWOK_STAGES),
    ),
    "kubelet": _kubernetes("kubelet"),
    "kube-proxy": _kubernetes("kube-proxy"),
    "coredns": Program(family="ray", package="./coredns"),
    "kueue": Program(
        family="extras",
        package="sigs.k8s.io/kueue/cmd/kueue",
        module="sigs.k8s.io/kueue",
        files=("charts/kueue/**/*",),
    ),
}

SETS = {
    "control": ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kuberay"),
    "tools": ("helm", "kwok"),
    "node": ("kubelet", "kube-proxy", "coredns"),
    "optional": ("kueue",),
}


def cache() -> Path:
    """$OPD_TESTBED_CACHE, or a folder of the user's cache."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("OPD_TESTBED_CACHE") or user / "opd-operator" / "testbed")


def locate(name: str) -> Path:
    """The program, ready to run. Raises ClusterUnavailable when it has to be built first."""
    path = _find(name)
    if path is None:
        raise ClusterUnavailable(f"{name} is neither on this machine nor built\nhint: run `make testbed`")
    return path


def files_of(name: str) -> Path:
    """Folder of the files that go with a program, at the paths they have in its module."""
    return _home(name) / "share"


def provide(names: Sequence[str]) -> None:
    """Finds or builds each program and says so; one line each."""
    missing = [name for name in names if not _say_where(name)]
    if not missing:
        return
    if shutil.which("go") is None:
        raise ClusterUnavailable(
            f"go is not on PATH, and these have to be built: {', '.join(missing)}\n"
            "hint: install Go 1.26 or newer, or put the programs on PATH or into $KUBEBUILDER_ASSETS"
        )
    own_build_cache = cache() / "go-build"
    with _lock() as held:
        for name in missing:
            if _find(name, go_version=_go_version()) is None:  # else somebody built it while we waited
                _build(name, held, os.environ.get("GOCACHE") or str(own_build_cache))
        shutil.rmtree(own_build_cache, ignore_errors=True)  # some 5 GB; it is only of use while this build lasts


def _say_where(name: str) -> bool:
    go_version = _go_version() if shutil.which("go") else ""
    path = _find(name, go_version=go_version, say=True)
    if path is not None:
        _say(name, str(path))
    return path is not None


def _find(name: str, *, go_version: str = "", say: bool = False) -> Path | None:
    """`go_version`: a program that another Go built does not count."""
    program = PROGRAMS[name]
    found = Path(os.environ.get("KUBEBUILDER_ASSETS") or "/nowhere") / name
    if program.oldest and found.is_file() and _is_new_enough(name, found, say=say):
        return found
    stamp = _home(name) / "go-version"
    if stamp.is_file() and go_version in ("", stamp.read_text()):
        return _home(name) / name
    on_path = shutil.which(name) if program.oldest else None
    if on_path and _is_new_enough(name, Path(on_path), say=say):
        return Path(on_path)
    return None


def _is_new_enough(name: str, path: Path, *, say: bool) -> bool:
    program = PROGRAMS[name]
    try:
        answer = subprocess.run([path, *program.ask], capture_output=True, text=True, timeout=60, check=False).stdout
    except OSError:
        answer = ""
    number = re.search(r"\bv?(\d+(?:\.\d+)+)", answer)
    version = tuple(map(int, number[1].split("."))) if number else ()
    if version < program.oldest and say:
        _say(name, f"{path} is {_dotted(version) or 'of no known version'}, {_dotted(program.oldest)} is needed")
    return version >= program.oldest


def _build(name: str, held: int, build_cache: str) -> None:
    """`held`: the lock, which a build shares, so that one whose parent was killed still keeps others out."""
    program, target = PROGRAMS[name], _home(name) / name
    _say(name, f"building {program.package}")
    begin = time.monotonic()
    target.parent.mkdir(parents=True, exist_ok=True)
    (_home(name) / "go-version").unlink(missing_ok=True)
    unfinished = target.with_name(f".{name}.unfinished")
    command = ["go", "build", *_flags(), "-o", str(unfinished), program.package]
    done = subprocess.run(
        command,
        cwd=HERE / program.family,
        env={**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOCACHE": build_cache},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        pass_fds=[held],
    )
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-20:])
        raise ClusterUnavailable(f"{name} could not be built from {HERE / program.family}/go.mod:\n{tail}")
    _copy_files(name)
    unfinished.replace(target)
    (_home(name) / "go-version").write_text(_go_version())  # the last thing: a program without it counts for nothing
    _say(name, f"{time.monotonic() - begin:.0f} s, {target.stat().st_size >> 20} MB")


def _copy_files(name: str) -> None:
    program = PROGRAMS[name]
    shutil.rmtree(files_of(name), ignore_errors=True)
    if not program.files:
        return
    listed = _go("list", "-m", "-f", "{{.Dir}}", program.module, folder=HERE / program.family)
    for pattern in program.files:
        for source in filter(Path.is_file, Path(listed).glob(pattern)):
            target = files_of(name) / source.relative_to(listed)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())  # not their modes: a module's files are read-only


def _flags() -> list[str]:
    """Without a version the API server calls itself v0.0.0, and its clients believe it. Nobody debugs these programs:
    leaving that out of what is compiled saves a seventh of the time."""
    pinned = re.search(r"k8s\.io/kubernetes (v1\.(\d+)\.\d+)", (HERE / "kubernetes" / "go.mod").read_text())
    assert pinned
    variables = {"gitVersion": pinned[1], "gitMajor": "1", "gitMinor": pinned[2], "gitTreeState": "clean"}
    linker = " ".join(["-s -w", *(f"-X k8s.io/component-base/version.{key}={to}" for key, to in variables.items())])
    return ["-mod=readonly", "-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false", "-ldflags", linker]


@functools.cache
def _pins(name: str) -> str:
    program = PROGRAMS[name]
    digest = hashlib.sha256(repr((program, _flags())).encode())
    for path in sorted((HERE / program.family).rglob("*")):
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _home(name: str) -> Path:
    """One for each of a program's pins, so that checkouts of other pins keep theirs."""
    return cache() / name / _pins(name)


@functools.cache
def _go_version() -> str:
    return _go("env", "GOVERSION", folder=HERE / "kubernetes")


def _go(*arguments: str, folder: Path) -> str:
    done = subprocess.run(["go", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterUnavailable(f"go {' '.join(arguments)} in {folder}: {done.stderr.strip()}")
    return done.stdout.strip()


@contextlib.contextmanager
def _lock() -> Iterator[int]:
    """One build at a time; ends with the last process that has it, however that ends."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("", f"another build is at work in {cache()}, waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def _say(name: str, text: str) -> None:
    print(f"testbed: {name:<24}{text}", flush=True)


def main(wanted: Sequence[str]) -> int:
    """`wanted`: names of sets and programs."""
    unknown = [name for name in wanted if name not in SETS and name not in PROGRAMS]
    if unknown or not wanted:
        print(f"usage: programs.py SET|PROGRAM…\nsets: {', '.join(SETS)}\nprograms: {', '.join(PROGRAMS)}")
        return 2
    try:
        provide([name for asked in wanted for name in SETS.get(asked, (asked,))])
    except ClusterUnavailable as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
