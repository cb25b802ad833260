"""What is known about one OPDJob and its children: small facts, read from watch caches. Judges nothing."""

from dataclasses import dataclass
from datetime import datetime

from opd_api.documents import DocumentError, ModelsReport, Progress, Request
from opd_api.errors import Problem
from opd_api.spec import OPDJob
from opd_api.status import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """One pod with the job's label, whoever made it."""

    name: str
    role: str
    """models, head, trainer, engine or teacher (label opd.dev/role)."""
    attempt: int | None
    """Of Ray pods (label opd.dev/attempt)."""
    teacher: str
    """Of teacher pods (label opd.dev/teacher), else ""."""
    created: datetime
    deleting: bool = False
    deleted: datetime | None = None
    """Its deletionTimestamp: when the grace it was given ends."""
    phase: str = "Pending"
    """Pending, Running, Succeeded, Failed or Unknown."""
    ready: bool = False
    restarts: int = 0
    """Of the main container."""
    running_since: datetime | None = None
    """Of the main container; None: it does not run."""
    scheduled: bool = False
    unschedulable: str = ""
    """The scheduler's message while it finds no node."""
    waiting_reason: str = ""
    """Of the first container that waits: ImagePullBackOff, ErrImagePull, CrashLoopBackOff, CreateContainerError, …"""
    waiting_message: str = ""
    terminated_reason: str = ""
    """Of the main container's newest end: OOMKilled, Error, Completed."""
    exit_code: int | None = None
    termination_message: str = ""
    """Of the models Job's pod only."""
    last_words: str = ""
    """Last line of what the main container said before its newest end, of any other pod."""
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsJobFacts:
    """Job `<job>-models`."""

    owner_uid: str
    created: datetime
    document: str = ""
    """Annotation opd.dev/document: of the document it was made from."""
    suspended: bool = False
    """spec.suspend: Kueue holds it back."""
    resumed: datetime | None = None
    """When Kueue let it go; None: it was never held back, or still is."""
    succeeded: bool = False
    failed: str = ""
    """Message of its Failed condition; "" while it has not failed for good."""
    deleting: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RayJobFacts:
    """RayJob `<job>-aN`."""

    name: str
    owner_uid: str
    attempt: int
    document: str = ""
    """Annotation opd.dev/document: of the document it was made from."""
    job_status: str = ""
    """"", PENDING, RUNNING, STOPPED, SUCCEEDED, FAILED."""
    deployment_status: str = ""
    """"", Initializing, Running, Complete, Failed, ValidationFailed, Suspending, Suspended, Retrying, Waiting."""
    reason: str = ""
    message: str = ""
    cluster_name: str = ""
    dashboard_url: str = ""
    suspended: bool = False
    """spec.suspend: Kueue holds it back."""
    deleting: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RayClusterFacts:
    """RayCluster of an attempt."""

    name: str
    attempt: int
    head_ready: bool = False
    """Condition HeadPodReady."""
    desired_workers: int = 0
    ready_workers: int = 0
    replica_failure: str = ""
    """Message of condition ReplicaFailure: pods that could not be made (quota, admission)."""
    deleting: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentFacts:
    """Deployment of an SGLang teacher."""

    name: str
    owner_uid: str
    teacher: str
    digest: str = ""
    """Annotation opd.dev/manifest."""
    replicas: int = 0
    """Wanted: spec.replicas."""
    ready_replicas: int = 0
    failure: str = ""
    """Message of condition ReplicaFailure."""
    deleting: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MailboxFacts:
    """ConfigMap `<job>-mailbox`."""

    owner_uid: str
    resource_version: str
    progress: Progress | DocumentError | None = None
    request: Request | DocumentError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFacts:
    """ConfigMap `<job>-config`: applied last of the foundation, so its digest speaks for all of it."""

    owner_uid: str
    digest: str = ""
    """Annotation opd.dev/manifest: of the whole foundation."""
    models: ModelsReport | None = None
    """Shapes of the models, once the models Job has said them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One OPDJob and all that belongs to it."""

    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str = ""
    """Of the OPDJob as seen. The status is written over this version only: a stale view must never undo a newer one."""
    created: datetime
    deleting: bool = False
    job: OPDJob | None
    """None: the document cannot be read, `problems` says why."""
    problems: tuple[Problem, ...] = ()
    status: Status
    """As last written (an empty one at first)."""
    kuberay: bool
    """Whether the API server knows RayJobs."""
    rejection: str = ""
    """What the API server said when it last refused one of the job's children (422, 403), until all were applied."""
    config: ConfigFacts | None = None
    mailbox: MailboxFacts | None = None
    models_job: ModelsJobFacts | None = None
    rayjobs: tuple[RayJobFacts, ...] = ()
    rayclusters: tuple[RayClusterFacts, ...] = ()
    deployments: tuple[DeploymentFacts, ...] = ()
    pods: tuple[PodFacts, ...] = ()
