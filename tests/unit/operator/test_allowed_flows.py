"""Who may talk to whom under the policies that a job's children bring, by a model of what Kubernetes lets in."""

import pytest
from child_jobs import NAMESPACE, cases, pod_templates
from network_flows import Pod, is_allowed

JOB = "arithmetic"
CHILDREN = cases()[JOB].children()
POLICIES = [child for child in CHILDREN if child["kind"] == "NetworkPolicy"]
ROLES = {role: template["metadata"]["labels"] for role, template in pod_templates(CHILDREN).items()}
OPERATOR_NAMESPACE = cases()[JOB].settings.operator_namespace
GCS, DASHBOARD, METRICS, ANY, TEACHER = 6379, 8265, 8080, 41234, 30000


def own(role: str) -> Pod:
    return Pod(NAMESPACE, ROLES[role])


def elsewhere(role: str) -> Pod:
    """A pod with the labels of ours in another namespace: anybody can write labels there."""
    return Pod("attacker", ROLES[role])


def other_job(role: str) -> Pod:
    return Pod(NAMESPACE, {**ROLES[role], "opd.dev/job": "other"})


NEIGHBOUR = Pod(NAMESPACE, {"app": "notebook"})
KUBERAY = Pod("ray-system", {"app.kubernetes.io/name": "kuberay-operator"})
OPERATOR = Pod(OPERATOR_NAMESPACE, {"app.kubernetes.io/name": "opd-operator"})

ALLOWED = [
    *((own(role), own("head"), GCS) for role in ("trainer", "engine")),
    *((own(a), own(b), ANY) for a in ("head", "trainer", "engine") for b in ("head", "trainer", "engine")),
    (own("head"), own("teacher"), TEACHER),
    (KUBERAY, own("head"), DASHBOARD),
    (OPERATOR, own("head"), METRICS),
    (OPERATOR, own("trainer"), METRICS),
]
REFUSED = [
    *((sender, own("teacher"), TEACHER) for sender in (NEIGHBOUR, KUBERAY, OPERATOR, own("models"))),
    *((sender, own("teacher"), TEACHER) for sender in (other_job("head"), elsewhere("head"), own("teacher"))),
    *((own("head"), own("teacher"), port) for port in (ANY, METRICS)),
    *((sender, own("head"), GCS) for sender in (NEIGHBOUR, KUBERAY, own("models"), own("teacher"))),
    *((sender, own("head"), GCS) for sender in (other_job("head"), other_job("trainer"), elsewhere("trainer"))),
    *((sender, own("engine"), ANY) for sender in (NEIGHBOUR, own("teacher"), other_job("head"), elsewhere("head"))),
    *((sender, own("head"), METRICS) for sender in (NEIGHBOUR, KUBERAY)),
]


@pytest.mark.parametrize(("sender", "receiver", "port"), ALLOWED)
def test_what_a_job_needs_comes_through(sender: Pod, receiver: Pod, port: int):
    assert is_allowed(POLICIES, sender, receiver, port)


@pytest.mark.parametrize(("sender", "receiver", "port"), REFUSED)
def test_everything_else_stays_out(sender: Pod, receiver: Pod, port: int):
    assert not is_allowed(POLICIES, sender, receiver, port)


def test_without_policies_everybody_is_heard():
    assert is_allowed([], NEIGHBOUR, own("teacher"), TEACHER)
