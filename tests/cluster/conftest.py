"""One cluster with a node, the operator installed in it by helm, and a namespace with the examples for each module."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from cluster_namespace import Namespace, new_namespace
from helm import NAMESPACE, Helm
from node import check_machine, of_project
from programs import ClusterUnavailable, locate

REPOSITORY = Path(__file__).parents[2]
CRD = REPOSITORY / "crds" / "opdjobs.opd.dev.yaml"
EXAMPLES = REPOSITORY / "examples"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """KubeRay and the operator run in its pods."""
    try:
        check_machine()
    except ClusterUnavailable as error:
        pytest.skip(f"no pod can run here: {error}")
    with Cluster("node", crds=[CRD], node=of_project()) as cluster:
        helm = Helm(locate("helm"), cluster.kubeconfig, tmp_path_factory.mktemp("helm"))
        cluster.kubectl("create", "namespace", NAMESPACE)
        helm.install({"crds": {"install": False}})
        cluster.kubectl("rollout", "status", "deployment/opd-operator", "--namespace", NAMESPACE, "--timeout=120s")
        yield cluster


@pytest.fixture(scope="module")
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """With the claims of examples/volumes.yaml, filled."""
    with new_namespace(cluster, Path(request.node.name).stem) as namespace:
        namespace.kubectl("apply", "-f", str(EXAMPLES / "volumes.yaml"))
        namespace.kubectl("wait", "--for=condition=Complete", "job/opd-examples", "--timeout=120s")
        yield namespace
