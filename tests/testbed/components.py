"""The command line of each program of a cluster. Starts nothing."""

import random
import socket
from dataclasses import dataclass, field
from pathlib import Path

import node
from access import Authority
from programs import files_of, locate

SERVICE_ADDRESSES = "10.96.0.0/16"
FIRST_SERVICE_ADDRESS = "10.96.0.1"
LOOPBACK = "127.0.0.1"
OWNERS_ARE_CHECKED = "OwnerReferencesPermissionEnforcement"
"""As on OpenShift."""
CLIENT_RATE = ("--kube-api-qps", "100", "--kube-api-burst", "200")
"""KubeRay's own default. With theirs (20 and 50 requests a second) Kubernetes' controllers, and not the API server,
would set the pace when many jobs come at once."""
PORTS = range(20000, 32000)
"""Below those the kernel gives to outgoing connections: a server that is started again finds its port free."""

CLIENTS = {
    "admin": ("admin", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
}
"""Kubeconfigs that certificates make: common name and group."""

NODE_CLIENTS = {
    "kubelet": (f"system:node:{node.NAME}", "system:nodes"),
    "kube-proxy": ("system:kube-proxy", ""),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Free at the moment."""

    api: int = field(default_factory=lambda: free_port())
    etcd: int = field(default_factory=lambda: free_port())
    etcd_peer: int = field(default_factory=lambda: free_port())
    kuberay_metrics: int = field(default_factory=lambda: free_port())
    kuberay_health: int = field(default_factory=lambda: free_port())


def free_port() -> int:
    """On the loopback address; another process may still take it first."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise OSError(f"none of 100 ports from {PORTS.start} to {PORTS.stop} is free")


@dataclass(frozen=True, slots=True)
class Components:
    """Command lines over one cluster's folder, keys and ports; with a node the API server serves its pods, too."""

    folder: Path
    authority: Authority
    ports: Ports
    with_node: bool

    @property
    def server(self) -> str:
        return f"https://{LOOPBACK}:{self.ports.api}"

    def kubeconfig(self, client: str) -> Path:
        return self.folder / f"{client}.kubeconfig"

    def issue_certificates(self) -> None:
        """The API server's, its clients', and the keys of ServiceAccount tokens."""
        hosts = [LOOPBACK, FIRST_SERVICE_ADDRESS, node.ADDRESS, node.NAME, "localhost"]
        hosts += ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        self.authority.issue("kube-apiserver", "kube-apiserver", hosts=hosts)
        self.authority.write_key("service-accounts")
        for client, (common_name, group) in (CLIENTS | (NODE_CLIENTS if self.with_node else {})).items():
            self.authority.issue(client, common_name, group=group, hosts=hosts if client == "kubelet" else ())
            self.authority.kubeconfig(self.kubeconfig(client), self.server, self.authority.client(client))

    def command(self, name: str) -> list[str | Path]:
        """How to start the program of that name."""
        arguments = {
            "etcd": self._etcd,
            "kube-apiserver": self._api_server,
            "kube-controller-manager": self._controller_manager,
            "kube-scheduler": self._scheduler,
            "kuberay": self._kuberay,
            "kwok": self._kwok,
            "kubelet": self._kubelet,
            "kube-proxy": lambda: ["--config", self.folder / "kube-proxy.yaml"],
            "coredns": lambda: ["-conf", self.folder / "Corefile"],
        }[name]
        return [locate(name), *arguments()]

    def _etcd(self) -> list[str | Path]:
        client, peer = (f"http://{LOOPBACK}:{port}" for port in (self.ports.etcd, self.ports.etcd_peer))
        return [
            *("--data-dir", self.folder / "etcd", "--log-level", "warn"),
            "--unsafe-no-fsync",  # its data outlives its process, and need not outlive the machine
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *(
                "--listen-peer-urls",
                peer,
                "--initial-advertise-peer-urls",
                peer,
                "--initial-cluster",
                f"default={peer}",
            ),
        ]

    def _api_server(self) -> list[str | Path]:
        path = self.authority.path
        return [
            *("--etcd-servers", f"http://{LOOPBACK}:{self.ports.etcd}"),
            *("--secure-port", str(self.ports.api), "--service-cluster-ip-range", SERVICE_ADDRESSES),
            *("--tls-cert-file", path("kube-apiserver.crt"), "--tls-private-key-file", path("kube-apiserver.key")),
            *("--client-ca-file", path("ca.crt")),
            *("--service-account-issuer", "https://kubernetes.default.svc"),
            *("--service-account-key-file", path("service-accounts.pub")),
            *("--service-account-signing-key-file", path("service-accounts.key")),
            *(self._for_pods() if self.with_node else self._for_nobody_else()),
        ]

    def _for_nobody_else(self) -> list[str | Path]:
        return [
            *("--bind-address", LOOPBACK, "--advertise-address", LOOPBACK, "--endpoint-reconciler-type", "none"),
            *("--authorization-mode", "RBAC", "--enable-admission-plugins", OWNERS_ARE_CHECKED),
        ]

    def _for_pods(self) -> list[str | Path]:
        path = self.authority.path
        return [
            *("--bind-address", "0.0.0.0", "--advertise-address", node.ADDRESS, "--authorization-mode", "Node,RBAC"),
            *("--kubelet-preferred-address-types", "InternalIP", "--kubelet-certificate-authority", path("ca.crt")),
            *("--kubelet-client-certificate", path("admin.crt"), "--kubelet-client-key", path("admin.key")),
            "--allow-privileged",
            *("--enable-admission-plugins", f"{OWNERS_ARE_CHECKED},NodeRestriction"),
        ]

    def _controller_manager(self) -> list[str | Path]:
        path = self.authority.path
        return [
            *("--kubeconfig", self.kubeconfig("kube-controller-manager"), "--leader-elect=false", "--secure-port", "0"),
            *("--service-account-private-key-file", path("service-accounts.key"), "--root-ca-file", path("ca.crt")),
            "--use-service-account-credentials",
            *("--cluster-signing-cert-file", path("ca.crt"), "--cluster-signing-key-file", path("ca.key")),
            *CLIENT_RATE,
        ]

    def _scheduler(self) -> list[str | Path]:
        kubeconfig = self.kubeconfig("kube-scheduler")
        return ["--kubeconfig", kubeconfig, "--leader-elect=false", "--secure-port", "0", *CLIENT_RATE]

    def _kuberay(self) -> list[str | Path]:
        return [
            *("--kubeconfig", self.kubeconfig("kuberay"), "--enable-leader-election=false"),
            *("--metrics-addr", f"{LOOPBACK}:{self.ports.kuberay_metrics}"),
            *("--health-probe-bind-address", f"{LOOPBACK}:{self.ports.kuberay_health}"),
        ]

    def _kubelet(self) -> list[str | Path]:
        return [
            *("--config", self.folder / "kubelet.yaml", "--kubeconfig", self.kubeconfig("kubelet")),
            *("--root-dir", self.folder / "kubelet", "--cert-dir", self.folder / "kubelet" / "pki"),
            *("--hostname-override", node.NAME, "--node-ip", node.ADDRESS),
        ]

    def _kwok(self) -> list[str | Path]:
        stages = sorted([*files_of("kwok").rglob("*.yaml"), *(self.folder / "stages").glob("*.yaml")])
        return [
            *("--kubeconfig", self.kubeconfig("admin"), "--node-lease-duration-seconds", "40"),
            *("--manage-nodes-with-annotation-selector", "kwok.x-k8s.io/node=fake"),
            *(part for stage in stages for part in ("--config", stage)),
        ]
