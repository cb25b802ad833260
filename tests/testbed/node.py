"""A real node for a cluster: containerd, kubelet, kube-proxy and DNS. Writes their files; starts nothing.

Pods need no registry and no image of 5 GB: every image is the same few files, and the runtime's base spec mounts the
machine's own /usr and the folders of `mounts` into each container, read-only.
"""

import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import yaml
from programs import ClusterUnavailable

HERE = Path(__file__).parent / "node"
PROJECT = Path(__file__).parents[2]
EXAMPLES = Path("/opt/opd/examples")
NAME, ADDRESS, POD_ADDRESSES = "node", "10.78.0.1", "10.77.0.0/24"
SANDBOX_IMAGE = "testbed.local/sandbox:1"
BUSYBOX = Path("/bin/busybox")
PACKAGES = {
    "containerd": ("containerd", "ctr"),
    "runc": ("runc",),
    "containernetworking-plugins": ("/usr/lib/cni/bridge",),
    "iptables": ("iptables",),
    "nftables": ("nft",),
    "conntrack": ("conntrack",),
    "socat": ("socat",),
    "busybox-static": (str(BUSYBOX),),
    "iproute2": ("ip",),
    "procps": ("sysctl",),
}
"""Of Debian and Ubuntu, each with what a node uses of it: programs on PATH, or files. The rest is built."""
# What others have installed stays: Docker's containerd.io, which is as good, would have to go for Debian's containerd.
INSTALL = ("apt-get", "install", "--yes", "-q", "--no-install-recommends", "--no-remove")
VOLUMES = 24
"""That claims can have, 1 GiB each by name; one more of class `small` is full after 512 KiB."""
SAID_LINES = 12
"""Of apt when it refuses: what it would have to remove comes before its error."""
SYSTEM_FOLDERS = ("/usr", "/etc/ssl", "/etc/alternatives")
NAMESPACES = ("--mount", "--mount-proc", "--net", "--uts")

type Manifest = dict[str, Any]

FOLDERS = ["dev", "proc", "sys", "etc/ssl", "tmp", "root", "run", "var/tmp", "usr"]
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nopd:x:1000:1000:opd:/tmp:/bin/bash\n",
    "etc/group": "root:x:0:\nopd:x:1000:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What a Dockerfile would say of one."""

    path: Sequence[Path] = ()
    """Folders before the system's on PATH."""
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ("/busybox", "sh", "-c", "while :; do /busybox sleep 3600 & wait; done")
    """The sandbox's: where containers share their processes it is the first, and collects the dead."""
    user: str = "1000:1000"
    folder: Path = Path("/")
    """Where programs start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """`images` by their names with tag; `mounts`: folders of this machine by where containers see them."""

    images: Mapping[str, Image] = field(default_factory=dict)
    mounts: Mapping[Path, Path] = field(default_factory=dict)

    def write_files(self, folder: Path) -> None:
        """Configuration of the node's programs, and the images."""
        (folder / "cni").mkdir()
        for index in range(VOLUMES):
            (folder / "volumes" / str(index)).mkdir(parents=True)
        values = {
            "FOLDER": folder,
            "NODE": NAME,
            "ADDRESS": ADDRESS,
            "PODS": POD_ADDRESSES,
            "SANDBOX_IMAGE": SANDBOX_IMAGE,
            "CGROUP": cgroup(folder),
            "OPEN_FILES": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        }
        for name in ("containerd.toml", "kubelet.yaml", "kube-proxy.yaml", "Corefile", "cni.conflist"):
            target = folder / "cni" / name if name == "cni.conflist" else folder / name
            target.write_text(Template((HERE / name).read_text()).substitute(values))
        (folder / "container-spec.json").write_text(json.dumps(self._container_spec()))
        images = {SANDBOX_IMAGE: Image(), **self.images}
        (folder / "images.tar").write_bytes(_archive(images))

    def _container_spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = json.loads(subprocess.check_output(["ctr", "oci", "spec"]))
        system = {Path(each): Path(each) for each in SYSTEM_FOLDERS if Path(each).exists()}
        spec["mounts"] += [
            {"destination": str(seen), "source": str(source), "type": "bind", "options": ["rbind", "ro"]}
            for seen, source in {**system, **self.mounts}.items()
        ]
        # More than the machine's own limit is refused to whoever lacks CAP_SYS_RESOURCE.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        for limit in spec["process"].get("rlimits", []):
            if limit["type"] == "RLIMIT_NOFILE":
                limit.update(soft=most, hard=most)
        return spec


def of_project() -> Node:
    """With this checkout in the images that chart and jobs name; examples lie where runtime/Dockerfile puts them."""
    environment = Path(sys.prefix)
    code = [PROJECT / part for part in ("api", "operator", "runtime")]  # the environment only points at it
    version = yaml.safe_load((PROJECT / "charts" / "opd-operator" / "Chart.yaml").read_text())["appVersion"]
    path = [environment / "bin"]
    return Node(
        images={
            f"opd-runtime:{version}": Image(path=path, folder=EXAMPLES.parent),
            f"opd-operator:{version}": Image(
                path=path, entrypoint=["opd-operator"], command=["run"], user="65532:65532"
            ),
        },
        mounts={path: path for path in (environment, Path(sys.base_prefix), *code)} | {EXAMPLES: PROJECT / "examples"},
    )


def cgroup(folder: Path) -> str:
    """Parent of all its pods' cgroups: two nodes of one machine keep apart."""
    return folder.name


def storage(folder: Path) -> list[Manifest]:
    """Local volumes, which unlike host paths get their pod's group as a cloud's disks do."""
    classes = [_storage_class("local", default=True), _storage_class("small", default=False)]
    volumes = [_volume(folder, str(index), "local", "1Gi") for index in range(VOLUMES)]
    return [*classes, *volumes, _volume(folder, "small", "small", "512Ki")]


def _storage_class(name: str, *, default: bool) -> Manifest:
    metadata = {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": str(default).lower()}}
    kind = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": metadata}
    return kind | {"provisioner": "kubernetes.io/no-provisioner"}


def _volume(folder: Path, name: str, storage_class: str, size: str) -> Manifest:
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NAME]}
    spec = {
        "storageClassName": storage_class,
        "capacity": {"storage": size},
        "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
        "persistentVolumeReclaimPolicy": "Retain",
        "local": {"path": str(folder / "volumes" / name)},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
    }
    metadata = {"name": f"{storage_class}-{name}"}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec}


def prepare_command(folder: Path) -> list[str | Path]:
    """Run first, in the namespaces."""
    return ["bash", HERE / "prepare.sh", folder, ADDRESS, cgroup(folder)]


def tidy_command(folder: Path) -> list[str | Path]:
    """Run last, in the namespaces."""
    return ["bash", HERE / "tidy.sh", folder, cgroup(folder)]


def import_command(folder: Path) -> list[str | Path]:
    """Tried until containerd serves."""
    load = f"ctr --namespace k8s.io images import {folder / 'images.tar'}"
    return ["bash", "-c", f"until ctr version >/dev/null 2>&1; do sleep 0.1; done; {load}"]


def check_machine() -> None:
    """Raises ClusterUnavailable with what has to be installed, or who has to do it."""
    if os.geteuid() != 0:
        raise ClusterUnavailable("a node takes root: its kubelet mounts volumes and its pods need networks")
    if PROJECT.is_relative_to("/tmp"):
        raise ClusterUnavailable(f"pods have a /tmp of their own, which hides {PROJECT}\nhint: clone elsewhere")
    if missing := _missing():
        names = ", ".join(name for wanted in missing.values() for name in wanted)
        raise ClusterUnavailable(f"not on this machine: {names}\nhint: {' '.join([*INSTALL, *missing])}")
    tried = subprocess.run(["unshare", *NAMESPACES, "--pid", "--fork", "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        raise ClusterUnavailable(f"this machine lets nobody make a node's namespaces: {tried.stderr.strip()}")


def install_packages() -> None:
    """Where that takes no question; else says what is missing and why that is no error."""
    try:
        if os.geteuid() == 0 and shutil.which("apt-get") and (missing := _missing()):
            _install(list(missing))
        check_machine()
    except ClusterUnavailable as error:
        print(f"testbed: no pod can run here, and tests of pods are skipped: {error}")


def _missing() -> dict[str, list[str]]:
    """What of each package is not on this machine; packages of which all is there are left out."""
    lost = {package: [name for name in wanted if shutil.which(name) is None] for package, wanted in PACKAGES.items()}
    return {package: names for package, names in lost.items() if names}


def _install(packages: Sequence[str]) -> None:
    """Raises ClusterUnavailable with apt's reason."""
    print("testbed: node                    installing", *packages, flush=True)
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=False, env=quiet)
    done = subprocess.run(
        [*INSTALL, *packages], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=quiet
    )
    if done.returncode != 0:
        why = "\n".join(done.stdout.splitlines()[-SAID_LINES:])
        raise ClusterUnavailable(f"apt-get does not install {', '.join(packages)}:\n{why}")


def _archive(images: Mapping[str, Image]) -> bytes:
    """Of `docker save`: all images share one layer of empty folders, links and the sandbox's one program."""
    layer = _tar(
        [_entry(path, kind=tarfile.DIRTYPE, mode=0o1777 if path.endswith("tmp") else 0o755) for path in FOLDERS]
        + [_entry(path, kind=tarfile.SYMTYPE, link=target) for path, target in LINKS.items()]
        + [_entry(path, text.encode()) for path, text in FILES.items()]
        + [_entry("busybox", BUSYBOX.read_bytes(), mode=0o755)]
    )
    files, manifest = {"layer.tar": layer}, []
    for index, (name, image) in enumerate(images.items()):
        files[f"{index}.json"] = json.dumps(_image_config(image, layer)).encode()
        manifest.append({"Config": f"{index}.json", "RepoTags": [name], "Layers": ["layer.tar"]})
    files["manifest.json"] = json.dumps(manifest).encode()
    return _tar([_entry(path, data) for path, data in files.items()])


def _image_config(image: Image, layer: bytes) -> dict[str, Any]:
    path = [*map(str, image.path), "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
    return {
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "User": image.user,
            "Entrypoint": list(image.entrypoint),
            "Cmd": list(image.command),
            "Env": [f"PATH={':'.join(path)}", "PYTHONUNBUFFERED=1"],
            "WorkingDir": str(image.folder),
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }


def _entry(
    name: str, data: bytes = b"", *, mode: int = 0o644, kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.mode, info.type, info.linkname, info.size = mode, kind, link, len(data)
    return info, data


def _tar(entries: Sequence[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


if __name__ == "__main__":
    install_packages()
