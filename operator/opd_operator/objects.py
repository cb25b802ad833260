"""Which kinds of object the operator handles and how one is named. Shared by builders, plan and I/O; does nothing."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from opd_api.names import API_VERSION, KIND, PLURAL

type Manifest = dict[str, Any]
"""An object as it is applied."""

DOCUMENT_DIGEST = "opd.dev/document"
"""Annotation: the document an attempt or its models were made from."""
MANIFEST_DIGEST = "opd.dev/manifest"
"""Annotation with the digest of what was applied: equal digest, nothing to apply."""


class Kind(Enum):
    """apiVersion, kind, plural."""

    OPD_JOB = (API_VERSION, KIND, PLURAL)
    RAY_JOB = ("ray.io/v1", "RayJob", "rayjobs")
    RAY_CLUSTER = ("ray.io/v1", "RayCluster", "rayclusters")
    JOB = ("batch/v1", "Job", "jobs")
    DEPLOYMENT = ("apps/v1", "Deployment", "deployments")
    POD_DISRUPTION_BUDGET = ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
    NETWORK_POLICY = ("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
    ROLE = ("rbac.authorization.k8s.io/v1", "Role", "roles")
    ROLE_BINDING = ("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings")
    SERVICE_ACCOUNT = ("v1", "ServiceAccount", "serviceaccounts")
    SERVICE = ("v1", "Service", "services")
    SECRET = ("v1", "Secret", "secrets")
    CONFIG_MAP = ("v1", "ConfigMap", "configmaps")
    POD = ("v1", "Pod", "pods")

    @property
    def api_version(self) -> str:
        return self.value[0]

    @property
    def kind(self) -> str:
        return self.value[1]

    @property
    def plural(self) -> str:
        return self.value[2]


@dataclass(frozen=True, slots=True, order=True)
class JobKey:
    """One OPDJob."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """One child, in the job's namespace."""

    kind: Kind
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventNote:
    """An Event about the job. The same note twice (same job, same `token`) becomes one object."""

    type: str
    """Normal or Warning."""
    reason: str
    message: str
    token: str
    """What makes it this occurrence: a transition time, a resource version."""
