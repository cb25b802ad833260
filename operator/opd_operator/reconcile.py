"""One pass over one job: observe, plan, write. Reads as its own list; holds no state and no rule."""

from collections.abc import Callable
from datetime import datetime, timedelta

from .kube.kube import Kube
from .objects import JobKey
from .plan import plan
from .settings import Settings

SHORTLY = timedelta(seconds=1)
"""When something is about to change by itself."""


async def reconcile(key: JobKey, kube: Kube, settings: Settings, clock: Callable[[], datetime]) -> timedelta | None:
    """When to look again though nothing may have happened. Raises ApiError, ApiUnavailable, NotLeading."""
    observed = kube.observe(key)
    if observed is None:
        return None
    now = clock()
    decision = plan(observed, settings, now)
    version = await kube.write_status(observed, decision.status)
    if version is None:
        return SHORTLY
    await kube.send_events(observed, decision.events, now)
    if decision.fence is not None and not await kube.is_clear(key, version):
        return SHORTLY
    try:  # first: what holds GPUs goes, also when something else is refused; and the other way round
        await kube.delete(key, decision.delete)
    finally:
        await kube.apply(observed, decision.apply)
    if decision.delete_job:
        await kube.delete_job(observed)
    return decision.requeue_after
