"""Who may talk to a job's pods. What they may talk to stays open: DNS, the API server, hub, S3, reward servers and
trackers are the user's choice, and a policy here could only guess them.

Kubelets' probes come from the node itself, which network plugins let through.
"""

from typing import Any

from opd_api import names
from opd_api.names import LABEL_JOB, LABEL_ROLE, LABEL_TEACHER, TEACHER_PORT
from opd_api.spec import OPDJob, Teacher

from ..objects import Kind, Manifest
from ..settings import Settings
from .child import child

RAY_ROLES = ("head", "trainer", "engine")
DASHBOARD_PORT = 8265
METRICS_PORT = 8080


def ray_policy(job: OPDJob, settings: Settings) -> Manifest:
    """Ray pods hear each other on every port (Ray and NCCL choose theirs), and nobody else but on two.

    8265 is open to the cluster: KubeRay submits the job there, and where KubeRay runs is its installer's choice. What
    reaches it needs the cluster's token. 8080, Ray's metrics without a token, is for the operator's namespace.
    """
    scrapers = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": settings.operator_namespace}}}
    ingress = [
        {"from": [{"podSelector": _ray_pods(job)}]},
        {"from": [{"namespaceSelector": {}}], "ports": [_tcp(DASHBOARD_PORT)]},
        {"from": [scrapers], "ports": [_tcp(METRICS_PORT)]},
    ]
    policy = child(job, Kind.NETWORK_POLICY, names.ray(job.metadata.name), "ray")
    return policy | {"spec": {"podSelector": _ray_pods(job), "policyTypes": ["Ingress"], "ingress": ingress}}


def teacher_policy(job: OPDJob, teacher: Teacher) -> Manifest:
    """Only the job's own Ray pods ask its teacher."""
    name = names.teacher(job.metadata.name, teacher.name)
    selector = {"matchLabels": {LABEL_JOB: job.metadata.name, LABEL_TEACHER: teacher.name}}
    ingress = [{"from": [{"podSelector": _ray_pods(job)}], "ports": [_tcp(TEACHER_PORT)]}]
    policy = child(job, Kind.NETWORK_POLICY, name, "teacher", teacher=teacher.name)
    return policy | {"spec": {"podSelector": selector, "policyTypes": ["Ingress"], "ingress": ingress}}


def _ray_pods(job: OPDJob) -> dict[str, Any]:
    return {
        "matchLabels": {LABEL_JOB: job.metadata.name},
        "matchExpressions": [{"key": LABEL_ROLE, "operator": "In", "values": [*RAY_ROLES]}],
    }


def _tcp(port: int) -> dict[str, Any]:
    return {"protocol": "TCP", "port": port}
