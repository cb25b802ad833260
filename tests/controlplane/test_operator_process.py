"""The operator as a process beside a real API server: leadership, probes, outages, kinds that come and go.

What it decides is tested elsewhere; here it has to find its way back by itself.
"""

import dataclasses
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_release import Release, install_for_itself
from cluster import Cluster
from cluster_namespace import Namespace
from helm import Helm
from operator_process import OperatorProcess
from played_job import read_models
from tcp_line import TcpLine
from waiting import wait_until

SECONDS = 30.0
TAKEOVER_SECONDS = 60.0
"""The Lease's 15 s and the standby's looks at it make up to 19; the rest is for a slow machine."""

type Start = Callable[..., OperatorProcess]


@pytest.fixture
def release(cluster: Cluster, helm: Helm, namespace: Namespace) -> Release:
    """The chart's, with no right outside the test's namespace."""
    return install_for_itself(cluster, helm, namespace.name)


@pytest.fixture
def start(release: Release, tmp_path: Path) -> Iterator[Start]:
    """Operators of the release; none outlives the test."""
    started: list[OperatorProcess] = []

    def make() -> OperatorProcess:
        operator = release.operator(tmp_path / f"operator-{len(started)}.log")
        started.append(operator)
        operator.start()
        return operator

    yield make
    for operator in started:
        operator.kill()


def make_job(namespace: Namespace, name: str = "demo", **spec: Any) -> None:
    namespace.apply(
        {
            "apiVersion": "opd.dev/v1alpha1",
            "kind": "OPDJob",
            "metadata": {"name": name},
            "spec": {
                "device": "CPU",
                "student": {"model": "pvc://models/student"},
                "teachers": [{"mode": "Megatron", "model": "pvc://models/teacher"}],
                "data": {"prompts": [{"uri": "pvc://models/prompts.jsonl"}]},
                "rollout": {"maxPromptTokens": 8, "maxResponseTokens": 8},
                "steps": 10,
                **spec,
            },
        }
    )


def condition(namespace: Namespace, kind: str, name: str = "demo") -> dict[str, Any]:
    status = namespace.get("opdjob", name).get("status", {})
    return next((each for each in status.get("conditions", ()) if each["type"] == kind), {})


def wait_accepted(namespace: Namespace, status: str = "True", name: str = "demo", seconds: float = SECONDS) -> None:
    wait_until(
        lambda: condition(namespace, "Accepted", name).get("status") == status, seconds, f"{name} accepted: {status}"
    )


def test_a_job_is_accepted_and_its_models_are_asked_for(namespace: Namespace, start: Start) -> None:
    operator = start()
    make_job(namespace)
    wait_accepted(namespace)
    namespace.kubectl("wait", "--for=create", "job/demo-models", "--timeout=30s")
    reasons = {each["reason"] for each in namespace.get("events")["items"] if each["source"].get("component")}
    assert "NoCheckpoint" in reasons
    assert "error" not in {line["level"] for line in operator.lines()}


def test_probes_and_metrics_answer(namespace: Namespace, start: Start) -> None:
    operator = start()
    assert operator.get("/healthz") == (200, "ok\n")
    make_job(namespace)
    wait_accepted(namespace)
    wait_until(lambda: operator.metric('opd_jobs{phase="Pending"}') == 1, SECONDS, "one pending job is counted")
    assert operator.metric('opd_operator_api_writes_total{kind="OPDJob",verb="apply_status"}') >= 1
    assert operator.metric("opd_operator_reconcile_seconds_count") >= 1
    assert operator.leads()


def test_a_pass_over_a_job_where_nothing_changed_writes_nothing(namespace: Namespace, start: Start) -> None:
    operator = start()
    make_job(namespace)
    wait_accepted(namespace)
    wait_until(lambda: condition(namespace, "ModelsReady").get("reason") == "Unschedulable", SECONDS, "the pod is seen")
    wait_until(lambda: operator.metric("opd_operator_queue_depth") == 0, SECONDS, "nothing is to be done")
    before = namespace.get("configmap,job,role,serviceaccount,opdjob,networkpolicy")["items"]
    operator.stop()
    operator.start()
    wait_until(lambda: operator.metric("opd_operator_reconcile_seconds_count") >= 1, SECONDS, "the job is looked at")
    wait_until(lambda: operator.metric("opd_operator_queue_depth") == 0, SECONDS, "nothing is to be done")
    after = namespace.get("configmap,job,role,serviceaccount,opdjob,networkpolicy")["items"]
    assert [each["metadata"]["resourceVersion"] for each in after] == [
        each["metadata"]["resourceVersion"] for each in before
    ]
    assert "opd_operator_api_writes_total{" not in operator.get("/metrics")[1]


def test_a_leader_that_dies_is_followed_by_its_standby(namespace: Namespace, start: Start) -> None:
    leader = start()
    standby = start()
    assert leader.leads() and not standby.leads()
    leader.kill()
    make_job(namespace)
    wait_until(standby.leads, TAKEOVER_SECONDS, lambda: f"the standby leads:\n{standby.said()}")
    wait_accepted(namespace)


def test_a_leader_that_is_told_to_stop_hands_over(namespace: Namespace, start: Start) -> None:
    leader = start()
    standby = start()
    assert leader.stop() == 0
    lease = namespace.get("lease", "opd-operator")
    wait_until(standby.leads, SECONDS, "the standby leads")
    assert namespace.get("lease", "opd-operator")["spec"]["leaseTransitions"] >= lease["spec"]["leaseTransitions"]


def test_a_frozen_leader_writes_nothing_when_it_wakes(namespace: Namespace, start: Start) -> None:
    leader = start()
    standby = start()
    leader.send(signal.SIGSTOP)
    wait_until(standby.leads, TAKEOVER_SECONDS, "the standby leads")
    leader.send(signal.SIGCONT)
    wait_until(lambda: not leader.leads(), SECONDS, "the woken one knows")
    make_job(namespace)
    wait_accepted(namespace)
    assert standby.leads() and not leader.leads()
    assert leader.metric('opd_operator_api_writes_total{kind="OPDJob",verb="apply_status"}') == 0


@pytest.mark.parametrize("program", [pytest.param("kube-apiserver", marks=pytest.mark.full), "etcd"])
def test_after_an_outage_it_goes_on_by_itself(
    cluster: Cluster, namespace: Namespace, start: Start, program: str
) -> None:
    operator = start()
    make_job(namespace)
    wait_accepted(namespace)
    cluster.stop(program)
    wait_until(lambda: not operator.leads(), SECONDS, "it stands down")
    assert operator.get("/healthz")[0] == 200, "a restart would not help"
    cluster.start(program)
    wait_until(operator.leads, SECONDS, "it leads again")
    make_job(namespace, "later")
    wait_accepted(namespace, name="later")


def test_a_restart_of_the_api_server_shorter_than_the_lease_is_survived_with_what_was_deleted_meanwhile(
    cluster: Cluster, namespace: Namespace, start: Start
) -> None:
    start()
    make_job(namespace)
    wait_accepted(namespace)
    namespace.kubectl("wait", "--for=create", "job/demo-models", "--timeout=30s")
    cluster.stop("kube-apiserver")
    cluster.start("kube-apiserver")
    namespace.kubectl("delete", "job", "demo-models", "--cascade=foreground")
    wait_until(
        lambda: [each["metadata"]["name"] for each in namespace.get("jobs")["items"]] == ["demo-models"],
        SECONDS,
        "the models Job is made again",
    )


def test_watches_that_the_network_cuts_are_taken_up_again(
    cluster: Cluster, namespace: Namespace, release: Release, tmp_path: Path
) -> None:
    """The API server and everybody else go on meanwhile; the Lease outlasts it."""
    make_job(namespace)
    account = yaml.safe_load(release.account.read_text())
    with TcpLine(cluster.http.base_url.host, cluster.http.base_url.port or 443) as line:
        account["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{line.port}"
        by_line = tmp_path / "by-line.kubeconfig"
        by_line.write_text(yaml.safe_dump(account))
        with dataclasses.replace(release, account=by_line).operator(tmp_path / "operator.log") as operator:
            for name in ("first", "second", "third"):
                namespace.kubectl("wait", "--for=create", "job/demo-models", "--timeout=30s")
                line.cut()
                namespace.kubectl("delete", "job", "demo-models", "--cascade=foreground")
                make_job(namespace, name)
                line.mend()
                wait_accepted(namespace, name=name)
            namespace.kubectl("wait", "--for=create", "job/demo-models", "--timeout=30s")
            assert operator.leads()
    assert namespace.get("lease", "opd-operator")["spec"]["leaseTransitions"] == 0


def test_kuberay_that_goes_is_said_and_waited_for_by_old_operators_and_new(
    cluster: Cluster, namespace: Namespace, start: Start
) -> None:
    operator = start()
    make_job(namespace)
    wait_accepted(namespace)
    with cluster.without_kuberay():
        wait_accepted(namespace, "False")
        assert condition(namespace, "Accepted")["reason"] == "KubeRayMissing"
        operator.stop()
        operator.start()  # and is ready: others can do nothing about it
        make_job(namespace, "later")
        wait_accepted(namespace, "False", "later")
    for name in ("demo", "later"):
        wait_accepted(namespace, name=name)
        namespace.kubectl("wait", "--for=create", f"job/{name}-models", "--timeout=30s")


def test_drift_of_a_child_is_mended(namespace: Namespace, start: Start) -> None:
    start()
    make_job(namespace)
    read_models(namespace.cluster.kubeconfig, namespace.name, "demo")
    namespace.kubectl("wait", "--for=create", "configmap/demo-config", "--timeout=30s")
    namespace.kubectl("delete", "configmap", "demo-config")
    wait_until(lambda: namespace.kubectl("get", "configmap", "-o", "name").count("demo-config"), SECONDS, "made again")


def test_a_namespace_that_is_not_its_own_is_left_alone(namespace: Namespace, start: Start) -> None:
    start()
    other = f"{namespace.name}-other"
    namespace.cluster.kubectl("create", "namespace", other)
    try:
        make_job(Namespace(namespace.cluster, other))
        make_job(namespace)
        wait_accepted(namespace)
        assert "status" not in Namespace(namespace.cluster, other).get("opdjob", "demo")
    finally:
        namespace.cluster.kubectl("delete", "namespace", other, "--wait=false")


def test_every_line_of_the_log_is_json_and_names_its_job(namespace: Namespace, start: Start) -> None:
    operator = start()
    namespace.kubectl("create", "quota", "none", "--hard=count/jobs.batch=0")
    wait_until(
        lambda: namespace.get("resourcequota", "none").get("status", {}).get("used"), SECONDS, "the quota is counted"
    )
    make_job(namespace)
    wait_until(
        lambda: "exceeded quota" in namespace.get("opdjob", "demo").get("status", {}).get("message", ""),
        SECONDS,
        "the refusal is said in the status",
    )
    jobs = {line.get("job") for line in operator.lines() if line["level"] == "warning"}
    assert f"{namespace.name}/demo" in jobs
    namespace.kubectl("delete", "resourcequota", "none")
    namespace.kubectl("wait", "--for=create", "job/demo-models", "--timeout=60s")
