"""The chart by the real helm, on a cluster of its own where the CRD comes and goes: every switch, install, upgrade with
live jobs, uninstall. Its pods never run here; the operator under the chart's account is test_rbac's and the others'.
"""

import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_release import Release
from cluster import Cluster, KubectlFailed
from helm import CHART, NAMESPACE, RELEASE, Helm, HelmFailed, Manifest, find
from kubernetes import config
from played_job import PlayedJob, small_job, until

from opd_api import names
from opd_operator.options import settings_from
from opd_operator.settings import Settings

HERE = Path(__file__).parent
OLDER = HERE / "charts" / "opd-operator-0.0.9.tgz"
"""An older chart, kept as it was: no release came before it, so it is the first version with a column less."""
TEAMS = ["team-a", "team-b"]
WITHOUT_CLUSTER_SCOPE = {"crds": {"install": False}, "watchNamespaces": TEAMS}
HOST = "kubernetes.io/hostname"
PER_HOST = {"topologyKey": HOST, "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "opd-operator"}}}


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Both, the second where they differ."""
    inner = {
        key: merged(first[key], second[key]) for key in first.keys() & second.keys() if isinstance(first[key], dict)
    }
    return {**first, **second, **inner}


SWITCHES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "namespaced, without the CRD": WITHOUT_CLUSTER_SCOPE,
    "its own namespace only": {"watchNamespaces": [NAMESPACE]},
    "three operators that say everything": {"replicas": 3, "logLevel": "DEBUG"},
    "another name": {"fullnameOverride": "distiller"},
    "a private registry": {
        "image": {"repository": "registry.example:5000/opd", "tag": "v1@sha256:" + "0" * 64},
        "imagePullSecrets": ["pull"],
    },
    "other settings of jobs": {
        "runtime": {
            "imagePullSecrets": ["a", "b"],
            "gpuMemory": "141Gi",
            "gpuMemoryLabel": "",
            "networkPolicies": False,
        },
    },
    "a seed of the user's": {"keySeed": {"existingSecret": "mine", "key": "seed"}},
    "no network policy": {"networkPolicy": {"enabled": False}},
    "a tight network policy": {
        "networkPolicy": {
            "apiServerPorts": [8443],
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"monitoring": "yes"}}}],
        }
    },
    "ServiceMonitor": {"metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}}},
    "PrometheusRule": {"metrics": {"prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}}}},
    "dashboard": {"metrics": {"dashboard": {"enabled": True}}},
    "everything about the pod": {
        "podAnnotations": {"a/b": "c"},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [PER_HOST]}},
        "topologySpreadConstraints": [{"maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway", "topologyKey": HOST}],
        "priorityClassName": "system-cluster-critical",
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "resources": {"requests": {"cpu": 1}},
    },
}


SWITCHES["everything at once"] = functools.reduce(merged, SWITCHES.values())
REPRESENTATIVES = ("defaults", "namespaced, without the CRD", "everything at once")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Without our CRD; every namespace is as strict about pods as Kubernetes can be."""
    with Cluster(crds=sorted((HERE / "crds").glob("*.yaml"))) as cluster:
        for namespace in (NAMESPACE, *TEAMS):
            cluster.kubectl("create", "namespace", namespace)
            cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
        yield cluster


def test_a_spread_of_ones_own_keeps_its_selector(helm: Helm):
    """Only one that is left out is filled in."""
    mine = {"matchLabels": {"app": "other"}}
    spread = {"maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway", "topologyKey": HOST}
    values = {"topologySpreadConstraints": [spread, spread | {"labelSelector": mine}]}
    deployment = find(helm.manifests(values), "Deployment")
    filled, kept = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert filled["labelSelector"] == deployment["spec"]["selector"]
    assert kept["labelSelector"] == mine


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(values, id=name, marks=() if name in REPRESENTATIVES else pytest.mark.full)
        for name, values in SWITCHES.items()
    ],
)
def switched(helm: Helm, request: pytest.FixtureRequest) -> list[Manifest]:
    """What the chart renders with one switch thrown."""
    return helm.manifests(request.param)


@pytest.fixture
def release(cluster: Cluster, helm: Helm) -> Iterator[Callable[..., str]]:
    """Installs the release; afterwards it is gone, and so is all that it leaves to its user."""
    installed = []

    def install(values: dict[str, Any], chart: Path = CHART) -> str:
        installed.append(values)
        return helm.install(values, chart=chart)

    yield install
    if installed and helm("list", "--short", "--namespace", NAMESPACE).strip():
        helm.uninstall()
    cluster.kubectl("delete", "--ignore-not-found", "customresourcedefinition", "opdjobs.opd.dev")
    cluster.kubectl("delete", "--ignore-not-found", "--namespace", NAMESPACE, "secret", "opd-operator-key-seed")


def test_helm_lints_the_chart_strictly(helm: Helm):
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART)


def test_the_api_server_takes_what_every_switch_renders(cluster: Cluster, switched: list[Manifest]):
    """With strict fields, as a dry run; the test's pod passes Kubernetes' restricted profile."""
    rendered = yaml.safe_dump_all(switched)
    said = cluster.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", stdin=rendered)
    assert said.count("(server dry run)") == len(switched)


def test_pods_write_nowhere_and_are_never_throttled(switched: list[Manifest]):
    for spec in (find(switched, "Deployment")["spec"]["template"]["spec"], find(switched, "Pod")["spec"]):
        (container,) = spec["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert not spec.get("volumes")
        assert "cpu" not in container["resources"].get("limits", {})


def test_everything_that_selects_selects_the_operators_pods_and_no_others(switched: list[Manifest]):
    pods = find(switched, "Deployment")["spec"]["template"]["metadata"]["labels"]
    test_pod = find(switched, "Pod")
    service = find(switched, "Service")
    selectors = [service["spec"]["selector"]] + [
        selector["matchLabels"]
        for each in switched
        for path in ("selector", "podSelector")
        if "matchLabels" in (selector := each.get("spec", {}).get(path, {}))
    ]
    assert len(selectors) >= 2
    for selector in selectors:
        assert selector.items() <= pods.items()
        assert not selector.items() <= test_pod["metadata"]["labels"].items()
    assert f"http://{service['metadata']['name']}:8080" in test_pod["spec"]["containers"][0]["args"]


def test_a_namespaced_release_without_the_crd_makes_nothing_of_the_clusters(cluster: Cluster, helm: Helm):
    namespaced = cluster.kubectl("api-resources", "--namespaced", "-o", "name")
    for manifest in helm.manifests(WITHOUT_CLUSTER_SCOPE):
        assert f"{manifest['kind'].lower()}s" in namespaced.replace("policies", "policys")
        assert manifest["metadata"]["namespace"] in (NAMESPACE, *TEAMS)


def test_every_object_says_its_namespace_and_the_cluster_release_has_roles_for_people(helm: Helm):
    manifests = helm.manifests({})
    cluster_scoped = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
    assert all(("namespace" in each["metadata"]) == (each["kind"] not in cluster_scoped) for each in manifests)
    edit = find(manifests, "ClusterRole", "opd-operator-edit")["metadata"]["labels"]
    assert edit["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"


def test_alerts_and_dashboard_arrive_as_they_were_written(helm: Helm):
    """Their braces are Prometheus' and Grafana's, and helm leaves them alone; the alerts know the namespace."""
    manifests = helm.manifests(SWITCHES["everything at once"])
    written = (CHART / "files" / "alerts.yaml").read_text()
    assert "RELEASE_NAMESPACE" in written
    written = yaml.safe_load(written.replace("RELEASE_NAMESPACE", NAMESPACE))
    assert find(manifests, "PrometheusRule")["spec"] == written
    (dashboard,) = find(manifests, "ConfigMap")["data"].values()
    assert json.loads(dashboard) == json.loads((CHART / "files" / "dashboard.json").read_text())


def test_the_default_release_starts_the_operator_with_its_own_defaults(helm: Helm):
    """Helm's text for quantities, booleans and empty lists is what the operator reads."""
    (container,) = find(helm.manifests({}), "Deployment")["spec"]["template"]["spec"]["containers"]
    environment = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    assert settings_from(environment) == Settings()


def test_the_pod_disruption_budget_leaves_one_of_several_operators(helm: Helm):
    assert not [each for each in helm.manifests({}) if each["kind"] == "PodDisruptionBudget"]
    assert find(helm.manifests({"replicas": 2}), "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_a_wrong_value_is_refused_before_anything_is_applied(helm: Helm):
    with pytest.raises(HelmFailed) as refused:
        helm.install({"runtime": {"gpuMemory": 80}, "replica": 2})
    said = str(refused.value)
    assert "at '/runtime/gpuMemory': got number, want string" in said
    assert "additional properties 'replica' not allowed" in said
    assert not helm("list", "--short", "--namespace", NAMESPACE).strip()


def test_a_namespace_that_is_missing_is_named(helm: Helm, release: Callable[..., str]):
    with pytest.raises(HelmFailed, match='namespaces "team-z" not found'):
        release({"watchNamespaces": ["team-z"]})


def test_an_installed_release_says_what_comes_next(cluster: Cluster, release: Callable[..., str]):
    notes = release({})
    assert "looks after every OPDJob of the cluster" in notes
    assert "KubeRay is not installed" not in notes
    first_job = notes.partition("<<'EOF'\n")[2].partition("EOF\n")[0]
    assert "created (server dry run)" in cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=first_job)


def test_who_installs_without_kuberay_is_told(helm: Helm):
    """Asked of no cluster, helm knows no RayJobs."""
    notes = helm("install", "opd-operator", CHART, "--dry-run=client")
    assert "KubeRay is not installed" in notes


def test_the_replica_set_makes_a_pod_in_a_restricted_namespace(cluster: Cluster, release: Callable[..., str]):
    release({})
    selector = ("--selector", "app.kubernetes.io/component=operator")
    cluster.kubectl("wait", "--for=create", "pod", *selector, "--namespace", NAMESPACE, "--timeout=30s")


def live_job(cluster: Cluster, namespace: str = TEAMS[0]) -> dict[str, Any]:
    """An OPDJob that trains, as far as the API server can tell."""
    job = {
        "apiVersion": "opd.dev/v1alpha1",
        "kind": "OPDJob",
        "metadata": {"name": "live", "namespace": namespace},
        "spec": {
            "student": {"model": "hf://Qwen/Qwen3-8B"},
            "teachers": [{"mode": "SGLang", "model": "hf://Qwen/Qwen3-32B"}],
            "data": {"prompts": [{"uri": "hf://datasets/zhuzilin/dapo-math-17k"}]},
            "steps": 300,
        },
    }
    cluster.kubectl("wait", "--for=condition=Established", "customresourcedefinition/opdjobs.opd.dev", "--timeout=30s")
    cluster.kubectl("create", "-f", "-", stdin=yaml.safe_dump(job))
    status = '{"status": {"phase": "Training", "attempt": 1, "columns": {"step": "120/300"}}}'
    cluster.kubectl("patch", "opdjob", "live", "-n", namespace, "--subresource=status", "--type=merge", "-p", status)
    return cluster.get("opdjob", "live", "-n", namespace)


def seed(cluster: Cluster) -> str:
    return cluster.get("secret", "opd-operator-key-seed", "-n", NAMESPACE)["data"]["key-seed"]


def test_an_upgrade_leaves_live_jobs_alone_and_brings_the_new_crd(
    cluster: Cluster, helm: Helm, release: Callable[..., str]
):
    release({}, chart=OLDER)
    before, old_seed = live_job(cluster), seed(cluster)
    old_crd = cluster.get("customresourcedefinition", "opdjobs.opd.dev")
    helm.upgrade({"replicas": 2})
    assert cluster.get("opdjob", "live", "-n", TEAMS[0]) == before, "not even its resourceVersion changed"
    assert seed(cluster) == old_seed
    new_crd = cluster.get("customresourcedefinition", "opdjobs.opd.dev")
    assert new_crd["metadata"]["uid"] == old_crd["metadata"]["uid"]
    packaged = yaml.safe_load((CHART / "files" / "opdjobs.opd.dev.yaml").read_text())
    assert packaged["spec"]["versions"][0]["schema"] == new_crd["spec"]["versions"][0]["schema"]
    assert old_crd["spec"] != new_crd["spec"], "else this test shows nothing"
    helm("rollback", "opd-operator", "1", "--namespace", NAMESPACE)
    assert cluster.get("opdjob", "live", "-n", TEAMS[0])["status"] == before["status"]


def admits_children(release: Release, job: PlayedJob) -> bool:
    """Whether the API server lets the operator make what holds its OPDJob back: not before it knows the kind."""
    live = job.get("OPDJob", job.name, names.API_VERSION)
    assert live is not None
    owner = {"apiVersion": names.API_VERSION, "kind": "OPDJob", "name": job.name, "uid": live["metadata"]["uid"]}
    metadata = {"name": "asked", "namespace": job.namespace, "ownerReferences": [owner | {"blockOwnerDeletion": True}]}
    child = yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    try:
        release.cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=child, kubeconfig=release.account)
    except KubectlFailed as error:
        assert "cannot find RESTMapping" in str(error)
        return False
    return True


def test_a_job_that_trains_goes_on_over_an_upgrade_and_an_uninstall(
    cluster: Cluster, helm: Helm, release: Callable[..., str], tmp_path: Path
):
    """The operator before and after it, as each chart starts it; KubeRay is real, and no pod runs."""
    release({}, chart=OLDER)
    cluster.kubectl("wait", "--for=condition=Established", "customresourcedefinition/opdjobs.opd.dev", "--timeout=30s")
    here = Release(cluster, NAMESPACE, RELEASE, cluster.kubeconfig_for(NAMESPACE, RELEASE))
    with config.new_client_from_config(str(cluster.kubeconfig)) as api:
        job = PlayedJob(api, TEAMS[0], small_job())

        def reports(step: int) -> dict[str, str]:
            """The UIDs of its children once the step is in its status."""
            job.report(1, "Training", step)
            until(lambda: job.status().get("progress", {}).get("step") == step, f"step {step} in status")
            return {name: each["metadata"]["uid"] for name, each in job.owned().items()}

        with here.operator(tmp_path / "old.log") as old:
            job.create()
            until(lambda: admits_children(here, job), "admission to know the new kind", 60)  # it looks every 30 s
            job.models_pod_says()
            job.wait_condition("ClusterReady", "False", "Unschedulable")  # a driver speaks from a head pod
            before = reports(5)
            old.stop()
        assert {f"RayJob {names.rayjob(job.name, 1)}", f"Deployment {job.name}-teacher"} <= before.keys()
        helm.upgrade({"replicas": 2})
        with here.operator(tmp_path / "new.log"):
            assert reports(6) == before
        assert job.status()["attempt"] == 1 and not job.status().get("retries")
        helm.uninstall()
        assert job.owned().keys() == before.keys()
        job.delete()
        until(lambda: not job.status() and not job.owned(), "nothing holds them back", 60)


def test_jobs_crd_and_seed_survive_an_uninstall_and_nothing_holds_a_job_back(
    cluster: Cluster, helm: Helm, release: Callable[..., str]
):
    release({"watchNamespaces": [TEAMS[0]]})
    before, old_seed = live_job(cluster), seed(cluster)
    helm.uninstall()
    assert cluster.get("opdjob", "live", "-n", TEAMS[0]) == before
    left = cluster.get(
        "role,rolebinding,serviceaccount,deployment,service,networkpolicy", "-A", "-l", "app.kubernetes.io/part-of=opd"
    )
    assert left["items"] == []
    release({})
    assert seed(cluster) == old_seed, "teachers that still run keep their keys"
    helm.uninstall()
    assert before["metadata"].get("finalizers") is None
    cluster.kubectl("delete", "opdjob", "live", "-n", TEAMS[0], "--timeout=10s")


def test_another_release_takes_the_crd_over_only_when_told_to(helm: Helm, release: Callable[..., str]):
    release({})
    helm.uninstall()
    other = ("install", "other", CHART, "--namespace", TEAMS[1])
    with pytest.raises(HelmFailed, match="invalid ownership metadata"):
        helm(*other)
    helm(*other, "--take-ownership")
    helm("uninstall", "other", "--namespace", TEAMS[1])


def test_the_test_pod_finds_the_kind_and_no_operator(
    cluster: Cluster, helm: Helm, release: Callable[..., str], tmp_path: Path
):
    """Its script, as the API server got it, run here with a real token: no pod runs, so the operator cannot answer."""
    release({})
    script, _, _, _ = find(helm.manifests({}), "Pod")["spec"]["containers"][0]["args"]
    (tmp_path / "token").write_text(cluster.kubectl("create", "token", "default", "-n", NAMESPACE))
    (tmp_path / "ca.crt").write_bytes((cluster.folder / "pki" / "ca.crt").read_bytes())
    api = cluster.kubectl("config", "view", "--raw", "-o", "jsonpath={.clusters[0].cluster.server}")
    done = subprocess.run(
        [sys.executable, "-c", script, f"{api}/nowhere", api, tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 1 and "/nowhere/healthz" in done.stderr


def test_values_of_two_versions_do_not_mix_silently(helm: Helm, release: Callable[..., str]):
    release({}, chart=OLDER)
    with pytest.raises(HelmFailed, match="additional properties 'gone' not allowed"):
        helm.upgrade({"runtime": {"gone": True}})


def test_kubectl_says_which_field_of_a_job_is_wrong(cluster: Cluster, release: Callable[..., str]):
    release({})
    job = live_job(cluster)
    job["spec"]["rollout"]["batchSize"] = 0
    with pytest.raises(KubectlFailed, match=r"spec\.rollout\.batchSize"):
        cluster.kubectl("replace", "-f", "-", stdin=yaml.safe_dump(job))
