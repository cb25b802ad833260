"""A job's mailbox on a real API server, and the account that its head pod has: made by the operator's builders."""

import json
from dataclasses import dataclass
from pathlib import Path

from cluster import Cluster

from opd_api.documents import Progress, Request, parse_progress
from opd_api.names import PROGRESS_KEY, mailbox, service_account
from opd_api.spec import OPDJob
from opd_operator import build
from opd_operator.objects import Manifest
from opd_operator.settings import Settings


@dataclass(frozen=True, slots=True)
class RealMailbox:
    """`service_account` is a folder as the kubelet makes it: token and ca.crt."""

    cluster: Cluster
    job: OPDJob
    service_account: Path

    @property
    def server(self) -> str:
        return str(self.cluster.http.base_url).rstrip("/")

    def url(self, name: str) -> str:
        """Of a ConfigMap beside the mailbox."""
        return f"{self.server}/api/v1/namespaces/{self.job.metadata.namespace}/configmaps/{name}"

    def data(self) -> dict[str, str]:
        found = self.cluster.http.get(self.url(mailbox(self.job.metadata.name))).raise_for_status()
        return dict(found.json().get("data", {}))

    def progress(self) -> Progress | None:
        found = parse_progress(self.data().get(PROGRESS_KEY, "").encode())
        return found if isinstance(found, Progress) else None

    def ask(self, request: Request | None) -> None:
        """As the operator does it: the mailbox anew, with a request or without."""
        for manifest in build.foundation(self.job, 1, None, request, Settings()):
            if manifest["metadata"]["name"] == mailbox(self.job.metadata.name):
                apply(self.cluster, manifest)


def make_mailbox(cluster: Cluster, job: OPDJob, folder: Path) -> RealMailbox:
    """The job's foundation. There is no OPDJob, so it belongs to nobody and nobody collects it."""
    for manifest in build.foundation(job, 1, None, None, Settings()):
        apply(cluster, manifest)
    account = folder / "serviceaccount"
    account.mkdir(parents=True)
    name, namespace = service_account(job.metadata.name), str(job.metadata.namespace)
    cluster.kubectl("wait", "--for=create", "configmap/kube-root-ca.crt", "--namespace", namespace, "--timeout=30s")
    authority = cluster.get("configmap", "kube-root-ca.crt", "--namespace", namespace)
    (account / "ca.crt").write_text(authority["data"]["ca.crt"])
    (account / "token").write_text(cluster.kubectl("create", "token", name, "--namespace", namespace).strip())
    return RealMailbox(cluster, job, account)


def apply(cluster: Cluster, manifest: Manifest) -> None:
    owned = {name: value for name, value in manifest["metadata"].items() if name != "ownerReferences"}
    text = json.dumps(manifest | {"metadata": owned})
    arguments = ("--server-side", "--force-conflicts", "--field-manager=opd-operator", "--validate=strict")
    cluster.kubectl("apply", *arguments, "-f", "-", stdin=text)
