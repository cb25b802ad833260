"""What a job's pods may do in Kubernetes: read and patch the job's mailbox. The operator's own RBAC is the chart's."""

from opd_api import names
from opd_api.spec import OPDJob

from ..objects import Kind, Manifest
from .child import child

RBAC_GROUP = "rbac.authorization.k8s.io"
ROLE = "account"
"""Label of the three objects: they belong to no kind of pod."""


def service_account(job: OPDJob) -> Manifest:
    """Of all pods; only the head gets its token."""
    account = child(job, Kind.SERVICE_ACCOUNT, names.service_account(job.metadata.name), ROLE)
    return account | {"automountServiceAccountToken": False}


def mailbox_role(job: OPDJob) -> Manifest:
    """No `list` or `watch`, which no resource name restricts; no `update`, which could drop the operator's key."""
    rule = {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": [names.mailbox(job.metadata.name)],
        "verbs": ["get", "patch"],
    }
    return child(job, Kind.ROLE, names.service_account(job.metadata.name), ROLE) | {"rules": [rule]}


def role_binding(job: OPDJob) -> Manifest:
    name = names.service_account(job.metadata.name)
    return child(job, Kind.ROLE_BINDING, name, ROLE) | {
        "roleRef": {"apiGroup": RBAC_GROUP, "kind": Kind.ROLE.kind, "name": name},
        "subjects": [{"kind": Kind.SERVICE_ACCOUNT.kind, "name": name, "namespace": job.metadata.namespace}],
    }
