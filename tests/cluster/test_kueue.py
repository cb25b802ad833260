"""A queue of the real Kueue: jobs wait for quota, give way when they are evicted, and give quota back when they end."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from cluster import Cluster, KubectlFailed
from cluster_job import START_SECONDS, ClusterJob
from cluster_namespace import Namespace
from helm import Helm
from node import Image
from programs import ClusterUnavailable, files_of, locate
from waiting import wait_until

from .conftest import EXAMPLES, cluster_with_operator, namespace_with_examples

pytestmark = [pytest.mark.full, pytest.mark.timeout(2400)]

KUEUE, IMAGE = "kueue-system", "testbed.local/kueue"
QUEUE = "team"
QUOTA = [{"name": "cpu", "nominalQuota": "1"}, {"name": "memory", "nominalQuota": "16Gi"}]
"""Of two of these jobs one fits."""
API = "kueue.x-k8s.io/v1beta2"
OBJECTS = [
    {"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"name": "any"}},
    {
        "apiVersion": API,
        "kind": "ClusterQueue",
        "metadata": {"name": "all"},
        "spec": {
            "namespaceSelector": {},
            "resourceGroups": [
                {"coveredResources": ["cpu", "memory"], "flavors": [{"name": "any", "resources": QUOTA}]}
            ],
        },
    },
]


@pytest.fixture(scope="module")
def namespace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    """In a cluster of its own: Kueue's webhooks look at everybody's pods."""
    try:
        program = locate("kueue")
    except ClusterUnavailable as error:
        pytest.fail(f"{error}: `make test-full` does")
    home = tmp_path_factory.mktemp("helm")
    with cluster_with_operator(home, {f"{IMAGE}:1": Image(entrypoint=[str(program)])}) as cluster:
        _install(cluster, Helm(locate("helm"), cluster.kubeconfig, home), str(program))
        with namespace_with_examples(cluster, "kueue") as namespace:
            queue = {"apiVersion": API, "kind": "LocalQueue", "metadata": {"name": QUEUE}}
            namespace.apply(queue | {"spec": {"clusterQueue": "all"}})
            yield namespace


def test_a_job_in_a_queue_waits_gives_way_and_gives_back(namespace: Namespace):
    first = _job(namespace, "first", steps=120)
    first.wait_for_step(20, START_SECONDS)
    assert first.condition("QuotaReserved")["status"] == "True"

    second = _job(namespace, "second", steps=120)
    second.wait_for_phase("Queued", START_SECONDS)
    assert second.condition("QuotaReserved")["status"] == "False"
    assert not second.pods("head")

    step = first.step()
    _stop_queue(namespace, "HoldAndDrain")
    status = first.wait(lambda status: (status["phase"], status["attempt"]) == ("Queued", 2), "its next attempt queues")
    assert status.get("retries", 0) == 0
    assert status["checkpoint"]["step"] >= step, "it saved before it went"
    _released(namespace)

    namespace.kubectl("delete", "opdjob", second.name)
    _stop_queue(namespace, "None")
    first.wait_for_step(status["checkpoint"]["step"] + 1, START_SECONDS)
    first.edit(suspend=True)
    first.wait_for_phase("Suspended")
    _released(namespace)

    first.edit(suspend=False)
    first.wait_for_phase("Succeeded", START_SECONDS)
    _released(namespace)
    assert [record["step"] for record in first.records()] == list(range(121))


def test_a_job_that_fails_and_one_that_is_deleted_give_back(namespace: Namespace):
    failing = _job(namespace, "failing", reward={"type": "Custom", "function": "nowhere.reward"})
    wait_until(lambda: failing.status().get("phase") == "Failed", START_SECONDS, lambda: str(failing.status()))
    _released(namespace)
    deleted = _job(namespace, "deleted", steps=120)
    deleted.wait_for_step(1, START_SECONDS)
    namespace.kubectl("delete", "opdjob", deleted.name)
    _released(namespace)


def _job(namespace: Namespace, name: str, **spec: Any) -> ClusterJob:
    document = yaml.safe_load((EXAMPLES / "arithmetic" / "opdjob-megatron-teacher.yaml").read_text())
    document["metadata"]["name"] = name
    document["spec"] |= {"scheduling": {"queueName": QUEUE}, **spec}
    namespace.apply(document)
    return ClusterJob(namespace, name)


def _released(namespace: Namespace) -> None:
    """Nothing of the queue's quota is in use."""

    def used() -> list[str]:
        queue = namespace.cluster.get("clusterqueue", "all")
        usage = [each for flavor in queue["status"].get("flavorsUsage", ()) for each in flavor["resources"]]
        return [f"{each['name']}: {each['total']}" for each in usage if each["total"] != "0"]

    wait_until(lambda: not used(), 180, lambda: f"the quota is free: {used()}")


def _stop_queue(namespace: Namespace, policy: str) -> None:
    patch = f'{{"spec": {{"stopPolicy": "{policy}"}}}}'
    namespace.cluster.kubectl("patch", "clusterqueue", "all", "--type=merge", "-p", patch)


def _install(cluster: Cluster, helm: Helm, program: str) -> None:
    """As its own chart does, with the program that was built."""
    chart = files_of("kueue") / "charts" / "kueue"
    image = {"repository": IMAGE, "tag": "1", "pullPolicy": "IfNotPresent"}
    values = {"controllerManager": {"manager": {"image": image}}}
    rendered = helm("template", "kueue", chart, "--namespace", KUEUE, "--kube-version", "1.36.4", values=values)
    cluster.kubectl("create", "namespace", KUEUE)
    manifests = rendered.replace("- /manager\n", f"- {program}\n")
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=manifests)
    manager = ("deployment/kueue-controller-manager", "--namespace", KUEUE)
    cluster.kubectl("rollout", "status", *manager, "--timeout=180s")
    objects = yaml.safe_dump_all(OBJECTS)

    def is_served() -> bool:
        """The webhook answers some moments after its pod is ready."""
        try:
            cluster.kubectl("apply", "--server-side", "-f", "-", stdin=objects)
        except KubectlFailed as error:
            if "webhook" not in str(error):
                raise
            return False
        return True

    wait_until(is_served, 60, "Kueue's webhook answers")
