"""The testbed itself: a cluster serves, its parts can be stopped, and nothing outlives the process that made it."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from cluster import Cluster, KubectlFailed
from cluster_namespace import Namespace
from programs import ClusterUnavailable, locate
from waiting import wait_until

TESTBED = Path(__file__).parents[1] / "testbed"
DEADLINE_SECONDS = 60.0

RAYCLUSTER = """
apiVersion: ray.io/v1
kind: RayCluster
metadata: {name: small}
spec:
  rayVersion: 2.60.0
  headGroupSpec:
    rayStartParams: {}
    template: {spec: {containers: [{name: ray, image: ray}]}}
"""


def test_the_api_server_says_its_version(cluster: Cluster):
    """Built without it, it would say v0.0.0."""
    version = cluster.http.get("/version").json()
    assert (int(version["major"]), int(version["minor"])) >= (1, 34)


def test_the_crd_can_be_applied_server_side_and_explained(cluster: Cluster):
    crd = Path(__file__).parents[2] / "crds" / "opdjobs.opd.dev.yaml"
    assert "serverside-applied" in cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", crd)
    explained = cluster.kubectl("explain", "opdjob.spec.teachers")
    assert "klCoef" in explained and "The models that score" in explained


def test_kuberay_makes_pods_with_the_rights_of_its_own_role(namespace: Namespace):
    namespace.apply(RAYCLUSTER)
    wait_until(
        lambda: namespace.get("pods", "-l", "ray.io/cluster=small")["items"],
        DEADLINE_SECONDS,
        lambda: f"a head pod: {namespace.cluster.log_of('kuberay')}",
    )
    kuberay = namespace.cluster.kubeconfig_for("ray-system", "kuberay-operator")
    with pytest.raises(KubectlFailed, match="forbidden"):
        namespace.cluster.kubectl("get", "clusterroles", kubeconfig=kuberay)


def test_pods_are_ready_at_once_on_the_simulated_node(kwok_namespace: Namespace):
    kwok_namespace.kubectl("create", "deployment", "any", "--image", "any", "--replicas", "2")
    kwok_namespace.kubectl("wait", "--for=condition=Available", "deployment/any", "--timeout=60s")


def test_a_service_account_has_no_rights_until_it_is_given_some(namespace: Namespace):
    own = namespace.cluster.kubeconfig_for(namespace.name, "default")
    with pytest.raises(KubectlFailed, match="forbidden"):
        namespace.cluster.kubectl("get", "pods", kubeconfig=own)
    namespace.kubectl(
        "create", "rolebinding", "view", "--clusterrole=view", f"--serviceaccount={namespace.name}:default"
    )
    assert "No resources found" not in namespace.cluster.kubectl("get", "pods", "-o", "name", kubeconfig=own)


@pytest.fixture(scope="module")
def own_cluster():
    """One that tests may break."""
    with Cluster() as cluster:
        yield cluster


def test_data_survive_a_crash_of_etcd(own_cluster: Cluster):
    own_cluster.kubectl("create", "namespace", "kept")
    own_cluster.stop("etcd")
    own_cluster.start("etcd")
    wait_until(lambda: own_cluster.http.get("/readyz").is_success, DEADLINE_SECONDS, "the API server is ready again")
    assert "kept" in own_cluster.kubectl("get", "namespaces")


def test_the_api_server_comes_back_at_the_same_address(own_cluster: Cluster):
    own_cluster.stop("kube-apiserver")
    with pytest.raises(KubectlFailed, match="refused"):
        own_cluster.kubectl("get", "namespaces")
    own_cluster.start("kube-apiserver")
    assert "default" in own_cluster.kubectl("get", "namespaces")


def test_kuberay_can_be_taken_away_and_installed_again(own_cluster: Cluster):
    with own_cluster.without_kuberay():
        assert own_cluster.http.get("/apis/ray.io/v1").status_code == 404
    assert own_cluster.kubectl("get", "rayjobs", "-o", "name") == ""
    own_cluster.kubectl("apply", "-f", "-", stdin=RAYCLUSTER)
    wait_until(lambda: own_cluster.get("pods")["items"], DEADLINE_SECONDS, lambda: own_cluster.log_of("kuberay"))


def test_a_program_that_does_not_start_is_named_with_its_last_words(own_cluster: Cluster):
    own_cluster.stop("etcd")
    (own_cluster.folder / "etcd" / "member").rename(own_cluster.folder / "etcd" / "elsewhere")
    (own_cluster.folder / "etcd" / "member").write_text("no folder")
    with pytest.raises(ClusterUnavailable, match=r"(?s)etcd ended with status \d+:.*member"):
        own_cluster.start("etcd")


HOLD = """
from cluster import Cluster
with Cluster() as cluster:
    print(cluster.folder, cluster.pid, cluster.http.base_url.port, flush=True)
    input()
"""


def test_nothing_outlives_the_process_that_made_a_cluster():
    """Killed with SIGKILL: no process, no port, no folder."""
    command = [sys.executable, "-c", HOLD]
    maker = subprocess.Popen(command, cwd=TESTBED, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert maker.stdout
    folder, pid, port = maker.stdout.readline().split()
    programs = psutil.Process(int(pid)).children(recursive=True)
    assert {"etcd", "kube-apiserver", "kuberay"} <= {program.name() for program in programs}
    maker.kill()
    maker.wait()
    wait_until(lambda: not any(each.is_running() for each in programs), DEADLINE_SECONDS, f"{programs} are gone")
    assert not Path(folder).exists()
    listening = {each.laddr.port for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN}
    assert int(port) not in listening


def test_what_is_not_built_is_named_with_the_verb_that_builds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPD_TESTBED_CACHE", str(tmp_path))
    with pytest.raises(ClusterUnavailable, match=r"kuberay.*\nhint: run `make testbed`"):
        locate("kuberay")
