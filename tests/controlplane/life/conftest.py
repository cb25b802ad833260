"""A cluster in which the test plays KubeRay, kubelet and runtime, and the operator as the chart installs it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from cluster_namespace import Namespace
from helm import NAMESPACE, RELEASE, Helm
from kubernetes import client, config
from operator_process import OperatorProcess
from played_job import SGLANG, PlayedJob, small_job
from programs import locate

CRD = Path(__file__).parents[3] / "crds" / "opdjobs.opd.dev.yaml"

type NewJob = Callable[..., PlayedJob]


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """KubeRay's kinds are there and KubeRay is not; our chart is installed."""
    with Cluster(crds=[CRD]) as cluster:
        cluster.stop("kuberay")
        cluster.kubectl("create", "namespace", NAMESPACE)
        helm = Helm(locate("helm"), cluster.kubeconfig, tmp_path_factory.mktemp("helm"))
        helm.install({"crds": {"install": False}})
        yield cluster


@pytest.fixture(scope="package")
def operator(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """A process with the token of the chart's ServiceAccount."""
    log = tmp_path_factory.mktemp("operator") / "operator.log"
    account = cluster.kubeconfig_for(NAMESPACE, RELEASE)
    with OperatorProcess(account, log, operator_namespace=NAMESPACE) as operator:
        yield operator


@pytest.fixture(scope="package")
def api(cluster: Cluster) -> Iterator[client.ApiClient]:
    """As the administrator."""
    with config.new_client_from_config(str(cluster.kubeconfig)) as api:
        yield api


@pytest.fixture
def new_job(operator: OperatorProcess, api: client.ApiClient, namespace: Namespace) -> NewJob:
    """A small CPU job, created; `spec` replaces parts of it."""

    def make(teacher: dict[str, Any] = SGLANG, name: str = "life", **spec: Any) -> PlayedJob:
        job = PlayedJob(api, namespace.name, small_job(teacher, name, **spec))
        job.create()
        return job

    return make
