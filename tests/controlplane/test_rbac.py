"""What the chart's account and a job's account may do, in both install modes, compared with committed lists.

The lists are what `kubectl auth can-i --list` says beyond what every account may. Children come from the builders and
are applied with the operator's own token; that the running operator needs no more is shown by all tests that run it.
"""

import json
import re
import ssl
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from chart_release import Release, installed
from child_jobs import JobCase, cases, documents
from cluster import Cluster, KubectlFailed
from helm import CHART, RELEASE, Helm, HelmFailed
from operator_process import OperatorProcess
from played_job import read_models
from programs import locate
from waiting import wait_until

from opd_api import names
from opd_api.names import API_VERSION, KIND, PLURAL
from opd_operator.kube.kube import MADE_ONCE
from opd_operator.objects import Kind, Manifest

HERE = Path(__file__).parent
RIGHTS = re.compile(r"^(\S*)\s+\[(.*?)\]\s+\[(.*?)\]\s+\[(.*?)\]$")
SEEN_ONLY = {Kind.OPD_JOB.kind, Kind.RAY_CLUSTER.kind, Kind.POD.kind}
"""Kinds that others make."""
APPLY = "application/apply-patch+yaml"
WATCHED, UNWATCHED = "rbac-team-a", "rbac-team-b"


OPTIONS = ("--field-manager=opd-operator", "--validate=strict")


def listed(manifests: Iterable[Manifest]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [*manifests]})


class Account:
    """kubectl and the API as a release's operator. Raises KubectlFailed."""

    def __init__(self, release: Release) -> None:
        self.release, self.cluster = release, release.cluster

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self.cluster.kubectl(*arguments, stdin=stdin, kubeconfig=self.release.account)

    def make(self, manifests: list[Manifest]) -> None:
        """As the operator does it, what is made once and then the rest."""
        once = {kind.kind for kind in MADE_ONCE}
        self.kubectl("create", *OPTIONS, "-f", "-", stdin=listed(each for each in manifests if each["kind"] in once))
        self.change(each for each in manifests if each["kind"] not in once)

    def change(self, manifests: Iterable[Manifest]) -> None:
        """Server-side apply, conflicts forced."""
        self.kubectl("apply", "--server-side", "--force-conflicts", *OPTIONS, "-f", "-", stdin=listed(manifests))

    def http(self) -> httpx.Client:
        """For what kubectl only does after reading."""
        config = yaml.safe_load(self.release.account.read_text())
        headers = {"Authorization": f"Bearer {config['users'][0]['user']['token']}"}
        tls = ssl.create_default_context(cafile=self.cluster.folder / "pki" / "ca.crt")
        return httpx.Client(base_url=self.cluster.http.base_url, headers=headers, verify=tls, trust_env=False)


@pytest.fixture(scope="module")
def namespaces(cluster: Cluster) -> Iterator[None]:
    for namespace in (WATCHED, UNWATCHED):
        cluster.kubectl("create", "namespace", namespace)
    yield
    cluster.kubectl("delete", "namespace", WATCHED, UNWATCHED, "--wait=false")


@pytest.fixture(scope="module")
def clusterwide(cluster: Cluster, helm: Helm, namespaces: None) -> Iterator[Release]:
    with installed(cluster, helm, "rbac-clusterwide", {}) as release:
        yield release


@pytest.fixture(scope="module")
def namespaced(cluster: Cluster, helm: Helm, namespaces: None) -> Iterator[Release]:
    with installed(cluster, helm, "rbac-namespaced", {"watchNamespaces": [WATCHED]}) as release:
        yield release


@pytest.fixture(scope="module", params=["clusterwide", "namespaced"])
def release(request: pytest.FixtureRequest) -> Release:
    """Both ways to install."""
    return request.getfixturevalue(request.param)


def rights(cluster: Cluster, account: Path, namespace: str) -> set[str]:
    """`resource [name]: verbs`, without what any account may."""
    anyone = cluster.kubeconfig_for(UNWATCHED, "default")
    return _listed(cluster, account, namespace) - _listed(cluster, anyone, namespace)


def _listed(cluster: Cluster, account: Path, namespace: str) -> set[str]:
    """One line a resource: the API server repeats itself where several roles say the same."""
    found: dict[str, set[str]] = {}
    table = cluster.kubectl("auth", "can-i", "--list", "--no-headers", "--namespace", namespace, kubeconfig=account)
    for line in table.splitlines():
        match = RIGHTS.match(line.rstrip())
        assert match, line
        resource, urls, only, verbs = match.groups()
        found.setdefault(resource + urls + (f" [{only}]" if only else ""), set()).update(verbs.split())
    return {f"{what}: {' '.join(sorted(verbs))}" for what, verbs in found.items()}


def committed(page: str, **known: str) -> set[str]:
    """`known`: what words in capitals stand for."""
    text = (HERE / "rbac" / f"{page}.txt").read_text()
    for word, meaning in known.items():
        text = text.replace(word, meaning)
    return {line for line in text.splitlines() if not line.startswith("#")}


def test_a_cluster_release_may_do_to_every_namespace_what_is_listed(clusterwide: Release):
    for namespace in (WATCHED, UNWATCHED):
        assert rights(clusterwide.cluster, clusterwide.account, namespace) == committed("operator")
    own = rights(clusterwide.cluster, clusterwide.account, clusterwide.namespace)
    assert own == committed("operator") | committed("operator-own-namespace", RELEASE=clusterwide.namespace)


def test_a_namespaced_release_may_do_the_same_in_its_namespaces_and_nothing_elsewhere(namespaced: Release):
    assert rights(namespaced.cluster, namespaced.account, WATCHED) == committed("operator")
    assert rights(namespaced.cluster, namespaced.account, UNWATCHED) == set()
    own = rights(namespaced.cluster, namespaced.account, namespaced.namespace)
    assert own == committed("operator-own-namespace", RELEASE=namespaced.namespace)


def test_a_namespaced_release_has_no_binding_in_the_cluster(namespaced: Release):
    bindings = namespaced.cluster.get("clusterrolebindings")["items"]
    subjects = [subject for binding in bindings for subject in binding.get("subjects", ())]
    assert namespaced.namespace not in {subject.get("namespace") for subject in subjects}
    with pytest.raises(KubectlFailed, match="cannot list resource"):
        Account(namespaced).kubectl("get", "opdjobs", "--all-namespaces")
    assert Account(namespaced).kubectl("get", "opdjobs", "--namespace", WATCHED, "-o", "name") == ""


def test_whoever_installs_for_one_team_needs_no_rights_in_the_cluster(cluster: Cluster, tmp_path: Path):
    """docs/install.md, "One team's namespaces": `admin` in them, and the right to give Roles all the same."""
    own, watched = "rbac-installed", "rbac-team-c"
    for namespace in (own, watched):
        cluster.kubectl("create", "namespace", namespace)
    cluster.kubectl("create", "serviceaccount", "installer", "--namespace", own)
    account, subject = cluster.kubeconfig_for(own, "installer"), f"--serviceaccount={own}:installer"
    for namespace in (own, watched):
        cluster.kubectl("create", "rolebinding", "admin", "--clusterrole=admin", subject, "-n", namespace)
    helm = Helm(locate("helm"), account, tmp_path)
    values = {"crds": {"install": False}, "fullnameOverride": own, "watchNamespaces": [watched]}
    with pytest.raises(HelmFailed, match="attempting to grant RBAC permissions not currently held"):
        helm.install(values, namespace=own)
    for namespace in (own, watched):
        may = ("--verb=escalate,bind", "--resource=roles.rbac.authorization.k8s.io")
        cluster.kubectl("create", "role", "opd-installer", *may, "-n", namespace)
        cluster.kubectl("create", "rolebinding", "opd-installer", "--role=opd-installer", subject, "-n", namespace)
    helm("upgrade", "--install", RELEASE, CHART, "--namespace", own, values=values)
    operator = cluster.kubeconfig_for(own, own)
    assert rights(cluster, operator, watched) == committed("operator")
    helm.uninstall(namespace=own)
    cluster.kubectl("delete", "namespace", own, watched, "--wait=false")


def test_the_account_makes_and_changes_every_child_and_deletes_what_runs(release: Release):
    """What is there already asks for other rights than what is new."""
    account, found = Account(release), real_cases(release.cluster)
    children = [child for case in found.values() for child in case.children()]
    assert {child["kind"] for child in children} == {kind.kind for kind in Kind} - SEEN_ONLY
    account.make(children)
    account.change(each for each in children if each["kind"] not in {kind.kind for kind in MADE_ONCE})
    kinds = {kind.kind for kind in (Kind.DEPLOYMENT, Kind.RAY_JOB, Kind.JOB)}
    deleted = [f"{child['kind']}/{child['metadata']['name']}" for child in children if child["kind"] in kinds]
    account.kubectl("delete", "--namespace", WATCHED, "--wait=false", *deleted)


def test_the_account_writes_a_jobs_status_and_deletes_the_job(release: Release):
    name = next(iter(real_cases(release.cluster)))
    path = f"/apis/{API_VERSION}/namespaces/{WATCHED}/{PLURAL}/{name}"
    status = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "status": {"phase": "Pending"}}
    with Account(release).http() as http:
        apply = {"params": {"fieldManager": "opd-operator-status"}, "headers": {"Content-Type": APPLY}}
        assert http.patch(f"{path}/status", json=status, **apply).json()["status"] == {"phase": "Pending"}
        assert http.patch(path, json=status, **apply).status_code == 403, "what users ask for is theirs"
        assert http.delete(path).is_success


def real_cases(cluster: Cluster) -> dict[str, JobCase]:
    """Every job exists, made anew by an administrator."""
    cluster.kubectl("delete", PLURAL, "--all", "--namespace", WATCHED)
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents()})
    cluster.kubectl("create", "--namespace", WATCHED, "-f", "-", stdin=listed)
    made = [each["metadata"] for each in cluster.get(PLURAL, "--namespace", WATCHED)["items"]]
    return cases(WATCHED, {metadata["name"]: metadata["uid"] for metadata in made})


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("get", "secrets"), id="read Secrets"),
        pytest.param(("delete", "configmap", "x-mailbox"), id="delete what jobs leave"),
        pytest.param(("create", "deployment", "x", "--image=x", "-n", "kube-system"), id="reach kube-system by a Role"),
        pytest.param(("get", "nodes"), id="see nodes"),
        pytest.param(
            ("create", "clusterrolebinding", "x", "--clusterrole=admin", "--user=x"), id="bind in the cluster"
        ),
    ],
)
def test_the_account_cannot(namespaced: Release, arguments: tuple[str, ...]):
    with pytest.raises(KubectlFailed, match=r"[Ff]orbidden"):
        Account(namespaced).kubectl("--namespace", WATCHED, *arguments)


def test_the_account_grants_nobody_what_it_does_not_hold(release: Release):
    greedy = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "greedy", "namespace": WATCHED},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}],
    }
    with pytest.raises(KubectlFailed, match="attempting to grant RBAC permissions not currently held"):
        Account(release).kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(greedy))


def test_a_jobs_account_reads_and_patches_its_mailbox_and_nothing_else(namespaced: Release):
    cluster = namespaced.cluster
    name, case = next(iter(real_cases(cluster).items()))
    Account(namespaced).make(case.children())
    trainer = cluster.kubeconfig_for(WATCHED, names.service_account(name))
    assert rights(cluster, trainer, WATCHED) == committed("trainer", JOB=name)
    assert rights(cluster, trainer, UNWATCHED) == set()
    patch = ("--type=merge", "-p", '{"data": {"progress.json": "{}"}}')
    cluster.kubectl("patch", "configmap", names.mailbox(name), "-n", WATCHED, *patch, kubeconfig=trainer)
    for other in (names.config(name), "another-mailbox"):
        with pytest.raises(KubectlFailed, match="forbidden"):
            cluster.kubectl("patch", "configmap", other, "-n", WATCHED, *patch, kubeconfig=trainer)


def test_the_operator_works_with_the_rights_it_has_and_asks_for_no_others(release: Release, tmp_path: Path):
    """As the chart starts it. In a namespaced release it neither sees nor needs any other namespace."""
    cluster = release.cluster
    cluster.kubectl("delete", PLURAL, "--all", "--namespace", WATCHED)
    elsewhere, here = (json.dumps(documents()[0] | {"metadata": {"name": "asked"}}) for _ in range(2))
    with release.operator(tmp_path / "operator.log") as operator:
        cluster.kubectl("create", "--namespace", UNWATCHED, "-f", "-", stdin=elsewhere)
        cluster.kubectl("create", "--namespace", WATCHED, "-f", "-", stdin=here)
        read_models(cluster.kubeconfig, WATCHED, "asked")
        for what in ("serviceaccount/asked", "role/asked", "rolebinding/asked", "configmap/asked-config"):
            cluster.kubectl("wait", "--for=create", what, "--namespace", WATCHED, "--timeout=30s")
        cluster.kubectl("wait", "--for=condition=Accepted", "opdjob/asked", "--namespace", WATCHED, "--timeout=30s")
        seen = wait_until(lambda: cluster.get("events", "--namespace", WATCHED)["items"], 30, "events of the job")
        assert "opd-operator" in {event["source"].get("component") for event in seen}
        if release.environment()["OPD_NAMESPACES"]:
            assert "status" not in cluster.get("opdjob", "asked", "--namespace", UNWATCHED)
        else:
            cluster.kubectl("wait", "--for=condition=Accepted", "opdjob/asked", "-n", UNWATCHED, "--timeout=30s")
        assert "is forbidden: User" not in operator.said()
        assert helm_test(release, operator, tmp_path) == 0
    assert cluster.get("lease", release.name, "--namespace", release.namespace)["spec"]["holderIdentity"]
    cluster.kubectl("delete", PLURAL, "asked", "--namespace", UNWATCHED)


def helm_test(release: Release, operator: OperatorProcess, folder: Path) -> int:
    """Exit status of the test pod's script, with the account that the pod would have."""
    (folder / "token").write_text(
        release.cluster.kubectl("create", "token", "default", "--namespace", release.namespace)
    )
    (folder / "ca.crt").write_bytes((release.cluster.folder / "pki" / "ca.crt").read_bytes())
    port = re.search(r"metrics on port (\d+)", operator.said())
    assert port
    arguments = [f"http://127.0.0.1:{port[1]}", str(release.cluster.http.base_url).rstrip("/"), folder]
    return subprocess.run([sys.executable, CHART / "files" / "answers.py", *arguments]).returncode
