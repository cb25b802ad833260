"""The chart installed by helm, and the operator as its Deployment would start it: same account, same environment.

No pod runs: the process starts beside the cluster, with a token of the release's ServiceAccount.
"""

import base64
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import Cluster
from helm import RELEASE, Helm
from operator_process import OperatorProcess


@dataclass(frozen=True, slots=True)
class Release:
    """`account` is a kubeconfig with the token of its ServiceAccount."""

    cluster: Cluster
    namespace: str
    name: str
    account: Path

    def environment(self) -> dict[str, str]:
        """Of the operator's container, Secrets and fields filled in."""
        deployment = self.cluster.get("deployment", self.name, "--namespace", self.namespace)
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        return {each["name"]: each.get("value") or self._value_from(each) for each in container["env"]}

    def operator(self, log: Path) -> OperatorProcess:
        """Not started yet."""
        return OperatorProcess(self.account, log, operator_namespace=self.namespace, environment=self.environment())

    def _value_from(self, variable: dict[str, Any]) -> str:
        match variable.get("valueFrom"):
            case None:
                return ""
            case {"fieldRef": {"fieldPath": "metadata.namespace"}}:
                return self.namespace
            case {"secretKeyRef": {"name": secret, "key": key}}:
                data = self.cluster.get("secret", secret, "--namespace", self.namespace)["data"]
                return base64.b64decode(data[key]).decode()
            case other:
                raise AssertionError(f"nobody fills in {other}")


def install(cluster: Cluster, helm: Helm, namespace: str, values: Mapping[str, Any]) -> Release:
    """Into a namespace that is there, and goes with it; the CRD is the cluster's."""
    name = values.get("fullnameOverride", RELEASE)
    helm.install({"crds": {"install": False}, **values}, namespace=namespace)
    return Release(cluster, namespace, name, cluster.kubeconfig_for(namespace, name))


def install_for_itself(cluster: Cluster, helm: Helm, namespace: str) -> Release:
    """As `install`, with no right outside its namespace."""
    return install(cluster, helm, namespace, {"watchNamespaces": [namespace]})


@contextlib.contextmanager
def installed(cluster: Cluster, helm: Helm, namespace: str, values: Mapping[str, Any]) -> Iterator[Release]:
    """In a namespace of its own, whose name everything of it has."""
    cluster.kubectl("create", "namespace", namespace)
    yield install(cluster, helm, namespace, {"fullnameOverride": namespace, **values})
    helm.uninstall(namespace=namespace)
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")
