"""One cluster with a node, the operator installed in it by helm, and a namespace with the examples for each module."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from cluster import Cluster
from cluster_namespace import Namespace, new_namespace
from helm import NAMESPACE, Helm
from node import Image, check_machine, of_project
from programs import ClusterUnavailable, locate

REPOSITORY = Path(__file__).parents[2]
CRD = REPOSITORY / "crds" / "opdjobs.opd.dev.yaml"
EXAMPLES = REPOSITORY / "examples"


@contextmanager
def cluster_with_operator(folder: Path, images: Mapping[str, Image] = MappingProxyType({})) -> Iterator[Cluster]:
    """KubeRay and the operator run in its pods. Skips the test where no pod can run."""
    try:
        check_machine()
    except ClusterUnavailable as error:
        pytest.skip(f"no pod can run here: {error}")
    project = of_project()
    with Cluster("node", crds=[CRD], node=replace(project, images={**project.images, **images})) as cluster:
        cluster.kubectl("create", "namespace", NAMESPACE)
        Helm(locate("helm"), cluster.kubeconfig, folder).install({"crds": {"install": False}})
        cluster.kubectl("rollout", "status", "deployment/opd-operator", "--namespace", NAMESPACE, "--timeout=120s")
        yield cluster


@contextmanager
def namespace_with_examples(cluster: Cluster, words: str) -> Iterator[Namespace]:
    """The claims of examples/volumes.yaml, filled."""
    with new_namespace(cluster, words) as namespace:
        namespace.kubectl("apply", "-f", str(EXAMPLES / "volumes.yaml"))
        namespace.kubectl("wait", "--for=condition=Complete", "job/opd-examples", "--timeout=120s")
        yield namespace


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_with_operator(tmp_path_factory.mktemp("helm")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    with namespace_with_examples(cluster, Path(request.node.name).stem) as namespace:
        yield namespace
