"""What a plan says: the operator does it in this order and nothing else."""

from dataclasses import dataclass
from datetime import timedelta

from opd_api.status import Status

from ..objects import EventNote, Manifest, ObjectRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One reconcile's work. A plan on what it led to is empty: no write when nothing changed."""

    status: Status
    """Written first, when it differs from the observed one: names are recorded before things are made."""
    events: tuple[EventNote, ...] = ()
    """Sent after the status that they tell of."""
    fence: int | None = None
    """Attempt that `apply` starts. Nothing is applied unless the API server itself (no cache) shows the OPDJob as
    observed (same resource version, the status write counted), and no RayJob and no Ray pod of the job at all."""
    apply: tuple[Manifest, ...] = ()
    """Server-side applied, in order; nothing of an attempt that `status` writes down."""
    delete: tuple[ObjectRef, ...] = ()
    """With background propagation; what is gone already is fine."""
    delete_job: bool = False
    """TTL: the OPDJob itself."""
    requeue_after: timedelta | None = None
    """Look again then, though nothing may have happened."""
