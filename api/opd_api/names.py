"""Names and labels of everything that belongs to an OPDJob: one table. Makes no object.

Length budget beside a job's 40 characters: a RayJob may have 47 (`-a12345`), a Service 63 (`-` and a teacher's 20).
"""

from typing import Final

JOB_NAME_LENGTH: Final = 40
TEACHER_NAME_LENGTH: Final = 20
RESERVED_TEACHER_NAMES: Final = r"^(student|reference|models|mailbox|config|ray|a[0-9].*)$"
"""Roles of other models, and suffixes of other children."""

GROUP: Final = "opd.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "OPDJob"
PLURAL: Final = "opdjobs"

LABEL_JOB: Final = f"{GROUP}/job"
LABEL_ATTEMPT: Final = f"{GROUP}/attempt"
LABEL_ROLE: Final = f"{GROUP}/role"
LABEL_TEACHER: Final = f"{GROUP}/teacher"
MANAGED_BY: Final = "opd-operator"

PROGRESS_KEY: Final = "progress.json"
REQUEST_KEY: Final = "request.json"
"""Keys of the mailbox ConfigMap."""
JOB_KEY: Final = "opdjob.yaml"
MODELS_KEY: Final = "models.json"
"""Keys of the config ConfigMap: the job, everything filled in, and a ModelsReport."""
API_KEY_KEY: Final = "api-key"
"""Key of a teacher's Secret."""
TEACHER_PORT: Final = 30000
"""Where an SGLang teacher listens."""


def models_job(job: str) -> str:
    """`qwen3-8b-opd-models`: the Job that reads configs and tokenizers."""
    return f"{job}-models"


def rayjob(job: str, attempt: int) -> str:
    """`qwen3-8b-opd-a1`: the RayJob of one attempt, and its submission id."""
    return f"{job}-a{attempt}"


def mailbox(job: str) -> str:
    """`qwen3-8b-opd-mailbox`: the ConfigMap where operator and runtime leave documents for each other."""
    return f"{job}-mailbox"


def config(job: str) -> str:
    """`qwen3-8b-opd-config`: the ConfigMap with the job as the runtime reads it."""
    return f"{job}-config"


def ray(job: str) -> str:
    """`qwen3-8b-opd-ray`: the NetworkPolicy of the Ray pods."""
    return f"{job}-ray"


def teacher(job: str, name: str) -> str:
    """`qwen3-8b-opd-teacher`: Deployment, Service, Secret, PDB and NetworkPolicy of an SGLang teacher."""
    return f"{job}-{name}"


def teacher_url(job: str, name: str, namespace: str) -> str:
    """`http://qwen3-8b-opd-teacher.ml.svc:30000`: the headless Service; every ready server is an address of it."""
    return f"http://{teacher(job, name)}.{namespace}.svc:{TEACHER_PORT}"


def service_account(job: str) -> str:
    """`qwen3-8b-opd`: may get and patch the mailbox and nothing else; its Role and RoleBinding share the name."""
    return job


def labels(job: str, role: str, *, attempt: int | None = None, teacher: str = "") -> dict[str, str]:
    """Labels of a child; `role` is models, trainer, engine, head, teacher, mailbox or config."""
    known = {
        LABEL_JOB: job,
        LABEL_ROLE: role,
        "app.kubernetes.io/name": "opdjob",
        "app.kubernetes.io/instance": job,
        "app.kubernetes.io/component": role,
        "app.kubernetes.io/part-of": "opd",
        "app.kubernetes.io/managed-by": MANAGED_BY,
    }
    known |= {LABEL_ATTEMPT: str(attempt)} if attempt is not None else {}
    return known | ({LABEL_TEACHER: teacher} if teacher else {})
