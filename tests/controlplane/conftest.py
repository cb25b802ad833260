"""Clusters, namespaces and operators for tests against a real API server. Knows no job."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from cluster_namespace import Namespace
from waiting import wait_until

CRD = Path(__file__).parents[2] / "crds" / "opdjobs.opd.dev.yaml"
LABEL = "opd.dev/test"
GONE_SECONDS = 60.0


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Control plane, KubeRay and our CRD; no node, so pods stay Pending."""
    with Cluster(crds=[CRD]) as cluster:
        yield cluster
        assert_namespaces_go(cluster)


@pytest.fixture(scope="session")
def kwok_cluster() -> Iterator[Cluster]:
    """The same, where every pod is Ready at once and nothing runs."""
    with Cluster("kwok", crds=[CRD]) as cluster:
        yield cluster
        assert_namespaces_go(cluster)


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A fresh one; it goes with the test, and at the end of the session nothing may hold it back."""
    yield from fresh_namespace(cluster, request.node.name)


@pytest.fixture
def kwok_namespace(kwok_cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """As `namespace`, where pods become Ready."""
    yield from fresh_namespace(kwok_cluster, request.node.name)


@pytest.fixture
def kubectl(namespace: Namespace) -> Callable[..., str]:
    """In the test's namespace."""
    return namespace.kubectl


def fresh_namespace(cluster: Cluster, test: str) -> Iterator[Namespace]:
    words = re.sub(r"[^a-z0-9]+", "-", test.lower()).strip("-")[:50].strip("-")
    named = f"{{apiVersion: v1, kind: Namespace, metadata: {{generateName: {words}-, labels: {{{LABEL}: ''}}}}}}"
    name = cluster.kubectl("create", "-f", "-", "-o", "jsonpath={.metadata.name}", stdin=named)
    cluster.kubectl("wait", "--for=create", "--namespace", name, "serviceaccount/default", "--timeout=30s")
    yield Namespace(cluster, name)
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def assert_namespaces_go(cluster: Cluster) -> None:
    """Names what holds a deleted namespace back: a finalizer whose owner is gone, for example."""

    def left() -> dict[str, list[str]]:
        return {
            each["metadata"]["name"]: [
                condition["message"]
                for condition in each["status"].get("conditions", ())
                if condition["status"] == "True"
            ]
            for each in cluster.get("namespaces", "-l", LABEL)["items"]
            if "deletionTimestamp" in each["metadata"]
        }

    wait_until(lambda: not left(), GONE_SECONDS, lambda: f"namespaces of tests are gone: {left()}")
