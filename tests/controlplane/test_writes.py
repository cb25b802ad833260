"""Each kind of write and each live question of `kube`, asked of a real API server. No operator runs here."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from cluster import Cluster
from cluster_namespace import Namespace

from opd_api.status import Status, StatusProgress
from opd_operator.kube.api import Api, ApiError, path_of
from opd_operator.kube.cache import Cache
from opd_operator.kube.kube import Kube
from opd_operator.kube.writer import NotLeading, Writer
from opd_operator.objects import EventNote, JobKey, Kind, ObjectRef
from opd_operator.observed import Observed

type Body = dict[str, Any]

JOB = {
    "apiVersion": "opd.dev/v1alpha1",
    "kind": "OPDJob",
    "metadata": {"name": "demo"},
    "spec": {
        "student": {"model": "pvc://models/student"},
        "teachers": [{"mode": "Megatron", "model": "pvc://models/teacher"}],
        "data": {"prompts": [{"uri": "pvc://models/prompts.jsonl"}]},
        "steps": 10,
    },
}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Hands:
    """A Kube over a cache that knows job `demo` as it was just now; each call has a connection of its own."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster, self.key = cluster, JobKey(namespace, "demo")
        self.leads = True

    def do[T](self, work: Callable[[Kube, Observed], Awaitable[T]]) -> T:
        async def main() -> T:
            async with await Api.connect(self._cluster.kubeconfig) as api:
                cache = Cache((), lambda _: None)
                cache.put(Kind.OPD_JOB, await api.call("GET", path_of(Kind.OPD_JOB, self.key.namespace, "demo")))
                observed = cache.observe(self.key)
                assert observed is not None
                return await work(Kube(api, cache, Writer(api, lambda: self.leads)), observed)

        return asyncio.run(main())


@pytest.fixture
def hands(cluster: Cluster, namespace: Namespace) -> Iterator[Hands]:
    namespace.apply(JOB)
    yield Hands(cluster, namespace.name)


def config_map(namespace: Namespace, **data: str) -> Body:
    """The job's own: an object of anybody else is not taken over."""
    uid = namespace.get("opdjob", "demo")["metadata"]["uid"]
    owner = {"apiVersion": JOB["apiVersion"], "kind": "OPDJob", "name": "demo", "uid": uid, "controller": True}
    named = {"name": "demo-mailbox", "namespace": namespace.name, "labels": {"opd.dev/job": "demo"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": named | {"ownerReferences": [owner]}, "data": data}


def test_the_same_manifest_applied_twice_changes_nothing(namespace: Namespace, hands: Hands) -> None:
    seen = []
    for _ in range(2):
        hands.do(lambda kube, observed: kube.apply(observed, [config_map(namespace, a="1")]))
        seen.append(namespace.get("configmap", "demo-mailbox", "--show-managed-fields")["metadata"])
    assert seen[0]["resourceVersion"] == seen[1]["resourceVersion"]
    assert [each["manager"] for each in seen[1]["managedFields"]] == ["opd-operator"]


def test_what_somebody_else_changed_is_changed_back_and_what_is_his_stays(namespace: Namespace, hands: Hands) -> None:
    hands.do(lambda kube, observed: kube.apply(observed, [config_map(namespace, request="stop")]))
    patch = json.dumps({"data": {"request": "go on", "progress.json": "{}"}})
    namespace.kubectl("patch", "configmap", "demo-mailbox", "--type=merge", "--patch", patch)
    hands.do(lambda kube, observed: kube.apply(observed, [config_map(namespace, request="stop")]))
    assert namespace.get("configmap", "demo-mailbox")["data"] == {"request": "stop", "progress.json": "{}"}
    hands.do(lambda kube, observed: kube.apply(observed, [config_map(namespace)]))
    assert namespace.get("configmap", "demo-mailbox")["data"] == {"progress.json": "{}"}


def test_an_object_of_somebody_else_is_not_taken_over(namespace: Namespace, hands: Hands) -> None:
    namespace.kubectl("create", "configmap", "demo-mailbox", "--from-literal=theirs=1")
    with pytest.raises(ApiError, match="ConfigMap demo-mailbox belongs to somebody else"):
        hands.do(lambda kube, observed: kube.apply(observed, [config_map(namespace, mine="1")]))
    assert namespace.get("configmap", "demo-mailbox")["data"] == {"theirs": "1"}


def of_the_foundation(namespace: Namespace, api_version: str, kind: str, **fields: Any) -> list[Body]:
    """A child that no watch shows, and the ConfigMap it comes with."""
    mailbox = config_map(namespace)
    metadata = mailbox["metadata"] | {"name": "demo"}
    return [{"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields}, mailbox]


def test_an_account_of_somebody_else_is_not_taken_over(namespace: Namespace, hands: Hands) -> None:
    namespace.kubectl("create", "serviceaccount", "demo")
    account = of_the_foundation(namespace, "v1", "ServiceAccount", automountServiceAccountToken=False)
    for _ in range(2):
        with pytest.raises(ApiError, match="ServiceAccount demo belongs to somebody else"):
            hands.do(lambda kube, observed: kube.apply(observed, account))
    theirs = namespace.get("serviceaccount", "demo")
    assert "automountServiceAccountToken" not in theirs and "ownerReferences" not in theirs["metadata"]
    assert namespace.get("configmaps", "-l", "opd.dev/job=demo")["items"] == []


def test_a_secret_of_somebody_else_is_not_taken_over(namespace: Namespace, hands: Hands) -> None:
    namespace.kubectl("create", "secret", "generic", "demo", "--from-literal=theirs=1")
    secret = of_the_foundation(namespace, "v1", "Secret", stringData={"api-key": "ours"})
    with pytest.raises(ApiError, match="Secret demo belongs to somebody else"):
        hands.do(lambda kube, observed: kube.apply(observed, secret))
    theirs = namespace.get("secret", "demo")
    assert list(theirs["data"]) == ["theirs"] and "ownerReferences" not in theirs["metadata"]


def test_a_secret_of_ours_is_known_again(namespace: Namespace, hands: Hands) -> None:
    secret = of_the_foundation(namespace, "v1", "Secret", stringData={"api-key": "ours"})
    for _ in range(2):
        hands.do(lambda kube, observed: kube.apply(observed, secret))
    assert list(namespace.get("secret", "demo")["data"]) == ["api-key"]


def models_job(namespace: Namespace) -> Body:
    spec = {"suspend": True, "template": {"spec": pod("models")["spec"] | {"restartPolicy": "Never"}}}
    head = config_map(namespace)["metadata"] | {"name": "demo-models"}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": head, "spec": spec}


def test_what_is_made_once_is_not_changed_by_who_does_not_know_that_it_is_there(
    namespace: Namespace, hands: Hands
) -> None:
    """The cache of each `do` is new."""
    seen = []
    for retries in (1, 2):
        job = models_job(namespace)
        job["spec"]["backoffLimit"] = retries
        hands.do(lambda kube, observed, job=job: kube.apply(observed, [job]))
        seen.append(namespace.get("job", "demo-models"))
    assert seen[0]["metadata"]["uid"] == seen[1]["metadata"]["uid"]
    assert seen[1]["spec"]["backoffLimit"] == 1


def test_what_is_made_once_is_not_taken_over(namespace: Namespace, hands: Hands) -> None:
    theirs = models_job(namespace)
    del theirs["metadata"]["ownerReferences"]
    namespace.apply(theirs)
    with pytest.raises(ApiError, match="Job demo-models belongs to somebody else"):
        hands.do(lambda kube, observed: kube.apply(observed, [models_job(namespace)]))
    assert "ownerReferences" not in namespace.get("job", "demo-models")["metadata"]


def test_a_status_that_leaves_fields_out_takes_them_away(namespace: Namespace, hands: Hands) -> None:
    full = Status(phase="Training", message="on its way", progress=StatusProgress(step=3, total_steps=10))
    assert hands.do(lambda kube, observed: kube.write_status(observed, full)) is not None
    assert namespace.get("opdjob", "demo")["status"]["progress"] == {"step": 3, "totalSteps": 10}
    hands.do(lambda kube, observed: kube.write_status(observed, Status(phase="Pending")))
    status = namespace.get("opdjob", "demo")["status"]
    assert status["phase"] == "Pending" and "progress" not in status and "message" not in status


def test_an_equal_status_is_not_written(namespace: Namespace, hands: Hands) -> None:
    status = Status(phase="Pending", attempt=1)
    version = hands.do(lambda kube, observed: kube.write_status(observed, status))
    hands.leads = False  # a write would raise
    assert hands.do(lambda kube, observed: kube.write_status(observed, status)) == version


def test_a_status_over_an_older_version_is_not_written(namespace: Namespace, hands: Hands) -> None:
    async def write_after_an_edit(kube: Kube, observed: Observed) -> str | None:
        namespace.kubectl("label", "opdjob", "demo", "edited=yes")
        return await kube.write_status(observed, Status(phase="Training"))

    assert hands.do(write_after_an_edit) is None
    assert "status" not in namespace.get("opdjob", "demo")


def test_a_status_of_a_job_made_again_under_its_name_is_not_written(namespace: Namespace, hands: Hands) -> None:
    async def write_after_a_replacement(kube: Kube, observed: Observed) -> str | None:
        namespace.kubectl("delete", "opdjob", "demo")
        namespace.apply(JOB)
        return await kube.write_status(observed, Status(phase="Training"))

    assert hands.do(write_after_a_replacement) is None
    assert "status" not in namespace.get("opdjob", "demo")


def test_an_event_sent_twice_is_one_and_kubectl_describe_shows_it(namespace: Namespace, hands: Hands) -> None:
    note = EventNote(type="Warning", reason="KLSpike", message="reverse KL jumped", token="t1")
    for _ in range(2):
        hands.do(lambda kube, observed: kube.send_events(observed, [note], NOW))
    assert len(namespace.get("events")["items"]) == 1
    assert "reverse KL jumped" in namespace.kubectl("describe", "opdjob", "demo")


def test_what_is_gone_or_another_is_not_deleted(namespace: Namespace, hands: Hands) -> None:
    hands.do(lambda kube, observed: kube.delete(hands.key, [ObjectRef(Kind.SERVICE, "nothing")]))

    async def delete_after_a_replacement(kube: Kube, observed: Observed) -> None:
        await kube.apply(observed, [config_map(namespace, mine="1")])
        namespace.kubectl("delete", "configmap", "demo-mailbox")
        namespace.kubectl("create", "configmap", "demo-mailbox", "--from-literal=theirs=1")
        await kube.delete(hands.key, [ObjectRef(Kind.CONFIG_MAP, "demo-mailbox")])

    hands.do(delete_after_a_replacement)
    assert namespace.get("configmap", "demo-mailbox")["data"] == {"theirs": "1"}


def test_a_refusal_is_remembered_for_the_next_plan(namespace: Namespace, hands: Hands) -> None:
    bad = config_map(namespace) | {"nonsense": True}

    async def apply(kube: Kube, observed: Observed) -> str:
        with pytest.raises(ApiError, match="nonsense"):
            await kube.apply(observed, [bad])
        after = kube.observe(hands.key)
        assert after is not None
        return after.rejection

    assert "nonsense" in hands.do(apply)


def test_who_does_not_lead_writes_nothing(namespace: Namespace, hands: Hands) -> None:
    hands.leads = False
    with pytest.raises(NotLeading):
        hands.do(lambda kube, observed: kube.apply(observed, [config_map(namespace)]))
    assert "demo-mailbox" not in namespace.kubectl("get", "configmaps", "-o", "name")


RAY_JOB = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": {"name": "demo-a1", "labels": {"opd.dev/job": "demo", "opd.dev/attempt": "1"}},
    # Another controller's, so that KubeRay leaves it alone.
    "spec": {"entrypoint": "true", "managedBy": "kueue.x-k8s.io/multikueue"},
}


def pod(role: str) -> Body:
    labels = {"opd.dev/job": "demo", "opd.dev/role": role}
    spec = {"containers": [{"name": "main", "image": "none:0"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": labels}, "spec": spec}


@pytest.mark.parametrize(
    ("left", "want_clear"),
    [
        pytest.param(None, True, id="nothing is left"),
        pytest.param(RAY_JOB, False, id="a RayJob is left"),
        pytest.param(pod("trainer"), False, id="a Ray pod is left"),
        pytest.param(pod("teacher"), True, id="teachers outlive attempts"),
    ],
)
def test_the_fence_sees_what_is_left(namespace: Namespace, hands: Hands, left: Body | None, want_clear: bool) -> None:
    if left is not None:
        namespace.apply(left)
    assert hands.do(lambda kube, observed: kube.is_clear(hands.key, observed.resource_version)) is want_clear


def test_the_fence_is_closed_when_the_job_has_changed_or_gone(namespace: Namespace, hands: Hands) -> None:
    async def ask(kube: Kube, observed: Observed) -> tuple[bool, bool]:
        namespace.kubectl("label", "opdjob", "demo", "edited=yes")
        changed = await kube.is_clear(hands.key, observed.resource_version)
        namespace.kubectl("delete", "opdjob", "demo")
        return changed, await kube.is_clear(hands.key, observed.resource_version)

    assert hands.do(ask) == (False, False)
