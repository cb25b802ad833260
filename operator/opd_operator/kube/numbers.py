"""Status of a job -> the numbers that metrics tell of it. Pure; takes a status for what it is and never raises."""

from ..metrics import JobNumbers
from ..objects import JobKey
from .api import Body
from .facts import moment


def numbers_of(key: JobKey, status: Body) -> JobNumbers:
    progress, distillation = status.get("progress") or {}, status.get("distillation") or {}
    return JobNumbers(
        namespace=key.namespace,
        name=key.name,
        phase=status.get("phase") or "Pending",
        step=progress.get("step"),
        total_steps=progress.get("totalSteps"),
        reverse_kl=distillation.get("reverseKL"),
        reward=(status.get("reward") or {}).get("mean"),
        spike=distillation.get("trend") == "Spike",
        failed_scores=sum(each.get("failedScores") or 0 for each in status.get("teachers") or ()),
        last_report=_unix(progress.get("lastReportTime")),
    )


def _unix(time: str | None) -> float | None:
    try:
        return moment(time).timestamp() if time else None
    except ValueError:
        return None
