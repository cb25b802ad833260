"""Clusters, namespaces and operators for tests against a real API server. Knows no job."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from cluster_namespace import TEST_LABEL, Namespace, new_namespace
from helm import Helm
from operator_process import OperatorProcess
from programs import locate
from waiting import wait_until

CRD = Path(__file__).parents[2] / "crds" / "opdjobs.opd.dev.yaml"
GONE_SECONDS = 120.0
LOG_LINES = 60
"""Of each program, under a test that failed."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What operators and KubeRay have said stands under a test that failed."""
    report = yield
    if report.failed:
        for name, value in item.funcargs.items():
            if isinstance(value, OperatorProcess):
                report.sections.append((f"log of {name}", "\n".join(value.said().splitlines()[-LOG_LINES:])))
            elif isinstance(value, Cluster):
                report.sections.append((f"KubeRay's log in {name}", value.log_of("kuberay", LOG_LINES)))
    return report


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


@pytest.fixture(scope="module")
def helm(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Of whichever cluster the module has."""
    return Helm(locate("helm"), cluster.kubeconfig, tmp_path_factory.mktemp("helm"))


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A fresh one; it goes with the test, and at the end of the session nothing may hold it back."""
    with new_namespace(cluster, request.node.name) as namespace:
        yield namespace


@pytest.fixture
def kwok_namespace(kwok_cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """As `namespace`, where pods become Ready."""
    with new_namespace(kwok_cluster, request.node.name) as namespace:
        yield namespace


@pytest.fixture
def kubectl(namespace: Namespace) -> Callable[..., str]:
    """In the test's namespace."""
    return namespace.kubectl


def assert_namespaces_go(cluster: Cluster) -> None:
    """Names what holds a deleted namespace back: a finalizer whose owner is gone, for example."""

    def left() -> dict[str, list[str]]:
        return {
            each["metadata"]["name"]: [
                condition["message"]
                for condition in each["status"].get("conditions", ())
                if condition["status"] == "True"
            ]
            for each in cluster.get("namespaces", "-l", TEST_LABEL)["items"]
            if "deletionTimestamp" in each["metadata"]
        }

    wait_until(lambda: not left(), GONE_SECONDS, lambda: f"namespaces of tests are gone: {left()}")
