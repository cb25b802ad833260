"""Every child of every kind of job before a real API server with strict validation, in a namespace that enforces the
restricted pod security standard; and what KubeRay, the Job and the Deployment controllers make of them.

The operator is not here: manifests come from its builders. Nothing runs, so that training works is not shown, and
network policies are not enforced.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from child_jobs import REQUEST, JobCase, cases, documents
from cluster import Cluster
from cluster_namespace import Namespace
from waiting import wait_until

from opd_operator import build
from opd_operator.objects import Manifest

CRD = Path(__file__).parents[2] / "crds" / "opdjobs.opd.dev.yaml"
NAMESPACE = "children"
DEADLINE_SECONDS = 60.0
NAMES = [document["metadata"]["name"] for document in documents()]
PRIORITY_CLASS = {
    "apiVersion": "scheduling.k8s.io/v1",
    "kind": "PriorityClass",
    "metadata": {"name": "high"},
    "value": 1000,
}

each_case = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    """In a cluster of its own: an operator that another test has started would look after these jobs."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    with Cluster(crds=[CRD]) as cluster:
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(document))
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(PRIORITY_CLASS))
        yield Namespace(cluster, NAMESPACE)


@pytest.fixture(scope="module")
def real(namespace: Namespace) -> dict[str, JobCase]:
    """The jobs exist, so that what belongs to them is not collected as garbage."""
    sent = [document | {"metadata": document["metadata"] | {"namespace": NAMESPACE}} for document in documents()]
    made = apply(namespace, sent)
    return cases(NAMESPACE, {job["metadata"]["name"]: job["metadata"]["uid"] for job in made})


@pytest.fixture(scope="module")
def applied(namespace: Namespace, real: dict[str, JobCase]) -> dict[str, list[Manifest]]:
    """Children of every job, as the API server gives them back."""
    return {name: apply(namespace, case.children()) for name, case in real.items()}


def apply(namespace: Namespace, objects: list[Manifest], *options: str) -> list[Manifest]:
    """As the operator does it: server-side, with its field manager, conflicts forced."""
    manager = ("--field-manager=opd-operator", "--force-conflicts", "-o", "json")
    found = json.loads(namespace.apply({"apiVersion": "v1", "kind": "List", "items": objects}, *manager, *options))
    return found["items"] if found["kind"] == "List" else [found]


def pods_of(namespace: Namespace, name: str) -> list[Manifest]:
    return namespace.get("pods", "-l", f"opd.dev/job={name}")["items"]


def roles_of(pods: list[Manifest]) -> Counter[str]:
    return Counter(pod["metadata"]["labels"]["opd.dev/role"] for pod in pods)


def wanted_roles(case: JobCase) -> Counter[str]:
    spec = case.job.spec
    wanted = {
        "models": 1,
        "head": 1,
        "trainer": spec.student.trainers.replicas,
        "engine": spec.rollout.engines.replicas,
    }
    served = [each.sglang for each in spec.teachers if each.mode == "SGLang" and not each.sglang.endpoint]
    return Counter(wanted | ({"teacher": served[0].replicas} if served else {}))


@pytest.fixture(scope="module")
def pods(
    namespace: Namespace, real: dict[str, JobCase], applied: dict[str, list[Manifest]]
) -> dict[str, list[Manifest]]:
    """What the controllers have made, once all are there."""

    def found(name: str) -> list[Manifest] | None:
        made = pods_of(namespace, name)
        return made if roles_of(made) >= wanted_roles(real[name]) else None

    def why(name: str) -> str:
        events = namespace.get("events", "--field-selector=type=Warning")["items"]
        said = {each["message"] for each in events if name in each["involvedObject"]["name"]}
        return f"pods of {name} are {roles_of(pods_of(namespace, name))}; {said}"

    return {
        name: wait_until(lambda name=name: found(name), DEADLINE_SECONDS, lambda name=name: why(name)) or []
        for name in applied
    }


@each_case
def test_the_api_server_takes_every_child_with_strict_validation(
    namespace: Namespace, real: dict[str, JobCase], name: str
) -> None:
    children = real[name].children()
    answers = apply(namespace, children, "--dry-run=server")
    assert [each["kind"] for each in answers] == [each["kind"] for each in children]


@each_case
def test_applying_the_same_children_again_changes_nothing(
    namespace: Namespace, real: dict[str, JobCase], pods: dict[str, Any], name: str
) -> None:
    """What the API server and the controllers have added meanwhile is theirs and stays. KubeRay rewrites a RayJob once
    (its finalizer, and empty objects beside it), which the first of the two takes back."""
    before, after = (apply(namespace, real[name].children()) for _ in range(2))
    assert spec_generations(after) == spec_generations(before)


def spec_generations(objects: list[Manifest]) -> list[tuple[str, int]]:
    return [(each["metadata"]["name"], each["metadata"].get("generation", 0)) for each in objects]


@each_case
def test_controllers_make_exactly_the_pods_of_the_job(
    real: dict[str, JobCase], pods: dict[str, list[Manifest]], name: str
) -> None:
    """All of them passed the restricted standard, which the namespace enforces."""
    assert roles_of(pods[name]) == wanted_roles(real[name])


@each_case
def test_kuberays_pods_carry_the_labels_we_find_them_by(
    namespace: Namespace, pods: dict[str, list[Manifest]], name: str
) -> None:
    [ray_cluster] = namespace.get("rayclusters", "-l", f"opd.dev/job={name}")["items"]
    assert ray_cluster["metadata"]["labels"]["opd.dev/attempt"] == "1"
    ray_pods = [pod for pod in pods[name] if "ray.io/cluster" in pod["metadata"]["labels"]]
    assert roles_of(ray_pods).keys() == {"head", "trainer", "engine"}
    for pod in ray_pods:
        labels = pod["metadata"]["labels"]
        assert labels["opd.dev/attempt"] == "1"
        assert labels["ray.io/cluster"] == ray_cluster["metadata"]["name"]
        assert labels["ray.io/group"] in (labels["opd.dev/role"], "headgroup")


@each_case
def test_ray_starts_in_our_container_with_the_clusters_token_and_our_resources(
    pods: dict[str, list[Manifest]], name: str
) -> None:
    for pod in pods[name]:
        role = pod["metadata"]["labels"]["opd.dev/role"]
        container = pod["spec"]["containers"][0]
        assert container["name"] == role
        if role not in ("head", "trainer", "engine"):
            continue
        [start] = container["args"]
        variables = {each["name"]: each for each in container["env"]}
        assert variables["RAY_AUTH_MODE"]["value"] == "token"
        assert variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["key"] == "auth_token"
        assert "--num-cpus=0" in start and "--include-log-monitor=no" in start
        assert (f"""--resources='{{"opd-{role}": 1}}'""" in start) == (role != "head")
        gpus = container["resources"].get("limits", {}).get("nvidia.com/gpu")
        assert (f"--num-gpus={gpus}" in start) == (gpus is not None)
        assert [each["mountPath"] for each in container["volumeMounts"]].count("/dev/shm") == 1


def test_a_users_sidecar_is_in_the_pods_that_kuberay_makes(pods: dict[str, list[Manifest]]) -> None:
    trainers = [pod for pod in pods["everything"] if pod["metadata"]["labels"]["opd.dev/role"] == "trainer"]
    assert [[each["name"] for each in pod["spec"]["containers"]] for pod in trainers] == [["trainer", "sidecar"]] * 2
    assert {pod["metadata"]["labels"]["team"] for pod in trainers} == {"research"}


def test_only_the_heads_have_a_token_of_the_api_server(pods: dict[str, list[Manifest]]) -> None:
    with_token = {
        pod["metadata"]["labels"]["opd.dev/role"]
        for made in pods.values()
        for pod in made
        for mount in pod["spec"]["containers"][0]["volumeMounts"]
        if mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
    }
    assert with_token == {"head"}


def test_a_request_taken_back_leaves_the_runtimes_progress(
    namespace: Namespace, real: dict[str, JobCase], applied: dict[str, list[Manifest]]
) -> None:
    job = real["endpoint"].job
    mailbox = ("configmap", "endpoint-mailbox")
    namespace.kubectl("patch", *mailbox, "--type=merge", "-p", json.dumps({"data": {"progress.json": "{}"}}))
    apply(namespace, [build.mailbox(job, REQUEST)])
    assert namespace.get(*mailbox)["data"].keys() == {"progress.json", "request.json"}
    apply(namespace, [build.mailbox(job, None)])
    assert namespace.get(*mailbox)["data"] == {"progress.json": "{}", "request.json": ""}
