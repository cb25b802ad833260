"""A real Kubernetes on this machine: etcd, API server, controller manager, scheduler, KubeRay.

    python tests/testbed/cluster.py up [control|kwok|node]      env      down

In mode `control` there is no node and pods stay Pending; in mode `kwok` every pod is Ready at once on a simulated node;
in mode `node` pods run. All of it ends with the process that made it. Several clusters at once are fine.
"""

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import httpx
import node as nodes
import yaml
from access import Authority
from components import LOOPBACK, Components, Ports
from processes import Processes
from programs import ClusterUnavailable, cache, files_of, locate
from waiting import wait_until

HERE = Path(__file__).parent
READY_SECONDS = 120.0
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
SAID_CHARACTERS = 4000
"""Of what kubectl complains about, at most."""
KUBERAY_API = "/apis/ray.io/v1"
KUBERAY_NAMESPACE, KUBERAY_ACCOUNT = "ray-system", "kuberay-operator"

KUBE_PROXY = "--user=system:kube-proxy"
KUBERAY_IMAGE = "testbed.local/kuberay:1"

type Mode = Literal["control", "kwok", "node"]


class KubectlFailed(Exception):
    """What was asked, and what kubectl said."""


class Cluster:
    """`with Cluster() as cluster`. Raises ClusterUnavailable with the end of the log that explains it.

    `crds`: files of CustomResourceDefinitions, made before the controllers start, which would notice them half a
    minute later. `stages`: more of kwok's stages. `node`: of mode `node`, images and folders for its pods.
    """

    def __init__(
        self,
        mode: Mode = "control",
        *,
        folder: Path | None = None,
        crds: Sequence[Path] = (),
        stages: Sequence[str] = (),
        node: nodes.Node | None = None,
    ) -> None:
        self.mode = mode
        self.folder, self._is_temporary = folder or Path(tempfile.mkdtemp(prefix="opd-testbed-")), folder is None
        self._crds = crds
        self._stages = stages
        self._node = node or nodes.Node()
        with_node = mode == "node"
        if with_node:
            nodes.check_machine()
        self._processes = Processes(
            self.folder,
            namespaces=nodes.NAMESPACES if with_node else (),
            last_command=nodes.tidy_command(self.folder) if with_node else (),
        )
        self._components = Components(self.folder, Authority(self.folder / "pki"), Ports(), with_node)
        self._entrance: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._bring_up()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()
        if self._is_temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def kubeconfig(self) -> Path:
        """Of the administrator."""
        return self._components.kubeconfig("admin")

    @property
    def pid(self) -> int:
        """Parent of every process of the cluster."""
        return self._processes.pid

    @cached_property
    def http(self) -> httpx.Client:
        """The API as the administrator, for what would take too many kubectls."""
        context = ssl.create_default_context(cafile=self._components.authority.path("ca.crt"))
        client = self._components.authority.client("admin")
        context.load_cert_chain(client["client-certificate"], client["client-key"])
        return httpx.Client(base_url=self._components.server, verify=context, timeout=60, trust_env=False)

    def kubectl(self, *arguments: str | Path, stdin: str = "", kubeconfig: Path | None = None) -> str:
        """What it prints. Raises KubectlFailed."""
        # Not the user's cache: another cluster may have had this port.
        own = ["--kubeconfig", kubeconfig or self.kubeconfig, "--cache-dir", self.folder / "kubectl-cache"]
        command = [locate("kubectl"), *own, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (f"kubectl {' '.join(map(str, arguments))}", done.stdout, done.stderr.strip(), stdin)
            raise KubectlFailed("\n".join(part[:SAID_CHARACTERS] for part in said if part))
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """`kubectl get` as data."""
        return json.loads(self.kubectl("get", *arguments, "--output", "json"))

    def kubeconfig_for(self, namespace: str, name: str) -> Path:
        """Of a ServiceAccount, with a token of its own that outlives the tests."""
        token = self.kubectl("create", "token", name, "--namespace", namespace, "--duration", "24h").strip()
        path = self.folder / f"{namespace}.{name}.kubeconfig"
        return self._components.authority.kubeconfig(path, self._components.server, {"token": token}, namespace)

    def start(self, name: str) -> None:
        """Starts a program with the command line it had, and waits until it serves."""
        self._processes.start(name, self._components.command(name))
        if name in self._checks:
            self._wait_for(name)

    def stop(self, name: str) -> None:
        """Ends a program as a crash would; its data and its port stay."""
        self._processes.stop(name)

    def log_of(self, name: str, lines: int = 100) -> str:
        """The end of what a program has said."""
        return self._processes.log_tail(name, lines)

    @contextlib.contextmanager
    def without_kuberay(self) -> Iterator[None]:
        """KubeRay and its kinds are gone, with every object of them; afterwards it is installed again."""
        self.stop("kuberay")
        self.kubectl("delete", "--wait", *(part for file in self._kuberay_crds for part in ("-f", file)))
        wait_until(lambda: self.http.get(KUBERAY_API).status_code == 404, READY_SECONDS, f"{KUBERAY_API} is gone")
        try:
            yield
        finally:
            self._create_crds(self._kuberay_crds)
            self._start_kuberay()

    @property
    def _kuberay_crds(self) -> list[Path]:
        return sorted((files_of("kuberay") / "config" / "crd" / "bases").glob("*.yaml"))

    @property
    def _checks(self) -> dict[str, Callable[[], bool]]:
        """Which programs can be asked whether they are ready; a node's own network keeps others from asking."""
        ports = self._components.ports
        checks: dict[str, Callable[[], bool]] = {"kube-apiserver": self._api_is_ready}
        if self.mode != "node":
            checks["etcd"] = lambda: _listens(ports.etcd)
            checks["kuberay"] = lambda: _listens(ports.kuberay_health)
        return checks

    def _bring_up(self) -> None:
        (self.folder / "stages").mkdir()
        for index, stage in enumerate(self._stages):
            (self.folder / "stages" / f"{index}.yaml").write_text(stage)
        self._components.issue_certificates()
        if self.mode == "node":
            self._open_node()
        self.start("etcd")
        self.start("kube-apiserver")
        self._create_crds([*self._kuberay_crds, *self._crds])
        self.start("kube-controller-manager")
        self.start("kube-scheduler")
        if self.mode == "kwok":
            self.kubectl("create", "-f", HERE / "kwok" / "node.yaml")
            self.start("kwok")
        if self.mode == "node":
            self._start_node()
        self._start_kuberay()
        self.kubectl("wait", "--for=create", "serviceaccount/default", f"--timeout={READY_SECONDS:.0f}s")
        if self.mode == "kwok":
            self.kubectl("wait", "--for=condition=Ready", "node/kwok", f"--timeout={READY_SECONDS:.0f}s")

    def _open_node(self) -> None:
        """Its namespaces, with one way in: the API server's port is the same on both sides."""
        images = {KUBERAY_IMAGE: nodes.Image(entrypoint=[str(locate("kuberay"))]), **self._node.images}
        nodes.Node(images=images, mounts={cache(): cache(), **self._node.mounts}).write_files(self.folder)
        self._run("prepare", nodes.prepare_command(self.folder))
        port, door = self._components.ports.api, self.folder / "api.sock"
        self._processes.start("door", ["socat", f"UNIX-LISTEN:{door},fork", f"TCP:{LOOPBACK}:{port}"])
        listen = f"TCP-LISTEN:{port},bind={LOOPBACK},fork,reuseaddr"
        ends_with_us = ["setpriv", "--pdeathsig", "TERM"]
        self._entrance = subprocess.Popen([*ends_with_us, "socat", listen, f"UNIX-CONNECT:{door}"])

    def _start_node(self) -> None:
        self._processes.start("containerd", ["containerd", "--config", self.folder / "containerd.toml"])
        self._run("images", nodes.import_command(self.folder))
        self.kubectl("create", "-f", "-", stdin=yaml.safe_dump_all(nodes.storage(self.folder)))
        self.kubectl("create", "clusterrolebinding", "kube-proxy", "--clusterrole=system:node-proxier", KUBE_PROXY)
        for name in ("kubelet", "kube-proxy", "coredns"):
            self.start(name)
        self.kubectl("wait", "--for=create", f"node/{nodes.NAME}", f"--timeout={READY_SECONDS:.0f}s")
        self.kubectl("wait", "--for=condition=Ready", f"node/{nodes.NAME}", f"--timeout={READY_SECONDS:.0f}s")

    def _run(self, name: str, command: Sequence[str | Path]) -> None:
        """To its end. Raises ClusterUnavailable with what it said."""
        self._processes.start(name, command)
        wait_until(lambda: name in self._processes.ended(), READY_SECONDS, lambda: f"{name}: {self.log_of(name, 15)}")
        if status := self._processes.ended()[name]:
            raise ClusterUnavailable(f"{name} ended with status {status}:\n{self.log_of(name, 15)}")
        self.stop(name)

    def _start_kuberay(self) -> None:
        """With the rights its own ClusterRole gives it; in a pod where there is a node."""
        role = files_of("kuberay") / "config" / "rbac" / "role.yaml"
        self.kubectl("apply", "-f", role, "-f", HERE / "kuberay" / "account.yaml")
        if self.mode == "node":
            self.kubectl("create", "-f", HERE / "kuberay" / "deployment.yaml")
            rollout = ("rollout", "status", "deployment/kuberay-operator", "--namespace", KUBERAY_NAMESPACE)
            self.kubectl(*rollout, f"--timeout={READY_SECONDS:.0f}s")
            return
        kubeconfig = self.kubeconfig_for(KUBERAY_NAMESPACE, KUBERAY_ACCOUNT)
        shutil.copy(kubeconfig, self._components.kubeconfig("kuberay"))
        self.start("kuberay")

    def _create_crds(self, files: Iterable[Path]) -> None:
        """Side by side; kubectl would take three times as long over KubeRay's megabytes."""
        documents = [each for file in files for each in yaml.load_all(file.read_bytes(), Loader=yaml.CSafeLoader)]
        with ThreadPoolExecutor() as pool:
            kinds = list(pool.map(self._create_crd, filter(None, documents)))

        def are_served() -> bool:
            discovered = {version: self.http.get(f"/apis/{version}") for version, _ in kinds}
            return all(found.is_success for found in discovered.values()) and {
                (version, kind["name"]) for version, found in discovered.items() for kind in found.json()["resources"]
            } >= set(kinds)

        wait_until(are_served, READY_SECONDS, f"{kinds} are served")

    def _create_crd(self, document: dict[str, Any]) -> tuple[str, str]:
        """Its apiVersion and the plural of its kind. Old versions are left out: each costs the API server seconds."""
        spec = document["spec"]
        spec["versions"] = [version for version in spec["versions"] if version["storage"]]
        sent = self.http.post(CRDS, json=document)
        if sent.is_error:
            raise ClusterUnavailable(f"{document['metadata']['name']} is refused: {sent.json()['message']}")
        return f"{spec['group']}/{spec['versions'][0]['name']}", spec["names"]["plural"]

    def _wait_for(self, name: str) -> None:
        def is_ready() -> bool:
            status = self._processes.ended().get(name)
            if status is not None:
                raise ClusterUnavailable(f"{name} ended with status {status}:\n{self.log_of(name, 15)}")
            return self._checks[name]()

        wait_until(is_ready, READY_SECONDS, lambda: f"{name} serves:\n{self.log_of(name, 15)}")

    def _close(self) -> None:
        self._processes.close()
        if self._entrance is not None:
            self._entrance.terminate()
            self._entrance.wait()

    def _api_is_ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self.http.get("/readyz").is_success
        return False


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


if __name__ == "__main__":
    from command import main

    main()
