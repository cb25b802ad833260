"""The short strings that `kubectl get opdjobs` and `opd get` show, from a progress document. Decides nothing."""

from collections.abc import Sequence

from .documents import Progress, TeacherReport
from .status import Columns

KL_METRIC = "opd/reverse_kl"
REWARD_METRIC = "reward/raw"
PASS_AT_1_METRIC = "eval/pass@1"
_LARGEST_FIXED = 1e7


def columns(progress: Progress) -> Columns:
    """What was not reported yet stays empty."""
    return Columns(
        step=f"{progress.step}/{progress.total_steps}",
        kl=_number(progress.metrics.get(KL_METRIC), digits=3),
        reward=_number(progress.metrics.get(REWARD_METRIC), digits=2),
        teacher=_teachers(progress.teachers),
        pass_at_1=_number(progress.metrics.get(PASS_AT_1_METRIC), digits=2),
    )


def _number(value: float | None, *, digits: int) -> str | None:
    """Fixed digits line up in a table; what they would show as zero keeps its leading digit."""
    if value is None:
        return None
    fixed = f"{value:.{digits}f}"
    return f"{value:.0e}" if (value != 0 and float(fixed) == 0) or abs(value) >= _LARGEST_FIXED else fixed


def _teachers(teachers: Sequence[TeacherReport]) -> str | None:
    """`SGLang 1/1`, `Megatron`, or `SGLang 3/4` over several servers or teachers; `Mixed` when modes differ."""
    if not teachers:
        return None
    modes = {teacher.mode for teacher in teachers}
    if modes == {"Megatron"}:
        return "Megatron"
    servers = [teacher for teacher in teachers if teacher.mode == "SGLang"]
    ready = sum(teacher.ready_replicas for teacher in servers)
    return f"{'SGLang' if len(modes) == 1 else 'Mixed'} {ready}/{sum(teacher.replicas for teacher in servers)}"
