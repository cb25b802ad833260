"""What is wrong with pods, in words: the pod's name, what Kubernetes says, and what to do. Ends no attempt."""

from collections.abc import Iterable

from opd_api.conditions import Reason
from opd_api.spec import OPDJob, Pods

from ..observed import PodFacts
from .verdict import Verdict

_IMAGE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
_CREATE = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "ContainerCannotRun"}
_SEVERITY = (
    Reason.OOM_KILLED,
    Reason.IMAGE_PULL_FAILED,
    Reason.CONTAINER_FAILED,
    Reason.CRASH_LOOP_BACK_OFF,
    Reason.UNSCHEDULABLE,
)
_SCHEDULING_REMEDIES = (
    ("persistentvolumeclaim", "create the claim, or name another one in the job"),
    ("nvidia.com/gpu", "free GPUs, add nodes, or lower replicas and gpusPerReplica"),
    ("node affinity", "no node's GPU has the memory of status.memoryPlan; add such nodes or split over more GPUs"),
    ("taint", "add tolerations by podTemplate"),
    ("Insufficient", "free resources, add nodes, or lower the requests under resources"),
)
_FIELDS = {"head": "spec.head", "trainer": "spec.student.trainers", "engine": "spec.rollout.engines"}


def worst(pods: Iterable[PodFacts], job: OPDJob | None) -> Verdict | None:
    """The most telling problem among them; None when all is well or nothing is known."""
    found = [problem for pod in pods if (problem := problem_of(pod, job))]
    return min(found, key=lambda problem: _SEVERITY.index(problem.reason), default=None)


def problem_of(pod: PodFacts, job: OPDJob | None) -> Verdict | None:
    """One pod's."""
    what = f"{pod.role} pod {pod.name}"
    if pod.terminated_reason == "OOMKilled" and not pod.ready:
        return Verdict(reason=Reason.OOM_KILLED, message=f"{what} was killed: out of memory{_limit(pod, job)}")
    if pod.waiting_reason in _IMAGE:
        said = pod.waiting_message or pod.waiting_reason
        remedy = "check spec.image, the registry and the image pull secrets"
        return Verdict(reason=Reason.IMAGE_PULL_FAILED, message=f"{what} cannot pull its image: {said}; {remedy}")
    if pod.waiting_reason in _CREATE:
        said = pod.waiting_message or pod.waiting_reason
        remedy = "create what it names, or correct the job"
        return Verdict(reason=Reason.CONTAINER_FAILED, message=f"{what} cannot start: {said}; {remedy}")
    if pod.waiting_reason == "CrashLoopBackOff" or (pod.restarts and not pod.ready):
        ends = "ends again and again" if pod.waiting_reason else "was started again: it ended"
        message = f"{what} {ends}{_end(pod)}; see kubectl logs --previous {pod.name}"
        return Verdict(reason=Reason.CRASH_LOOP_BACK_OFF, message=message)
    if pod.unschedulable and not pod.scheduled:
        said = pod.unschedulable.rstrip(".")
        remedy = next((words for sign, words in _SCHEDULING_REMEDIES if sign in said), "")
        message = f"{what} finds no node: {said}" + (f"; {remedy}" if remedy else "")
        return Verdict(reason=Reason.UNSCHEDULABLE, message=message)
    if pod.phase == "Failed":
        why = f" ({pod.terminated_reason})" if pod.terminated_reason not in ("", "Error") else ""
        message = f"{what} failed{why}{_end(pod)}; see kubectl logs {pod.name}"
        return Verdict(reason=Reason.CONTAINER_FAILED, message=message)
    return None


def _end(pod: PodFacts) -> str:
    """How its main container ended, in its own last words."""
    code = f" with exit code {pod.exit_code}" if pod.exit_code is not None else ""
    return code + (f": {pod.last_words}" if pod.last_words else "")


def _limit(pod: PodFacts, job: OPDJob | None) -> str:
    """The limit that was written, and where to write a larger one."""
    field, pods = _place(pod, job)
    limit = pods.resources.limits.get("memory") if pods else None
    written = f" (limit {limit})" if limit is not None else ""
    if not field:
        return f"{written}; its limit is the namespace's: raise it there"
    also = " or lower spec.student.maxTokensPerGPU" if pod.role == "trainer" else ""
    return f"{written}; raise {field}.resources.limits.memory{also}"


def _place(pod: PodFacts, job: OPDJob | None) -> tuple[str, Pods | None]:
    """Where the spec talks about this pod."""
    if job is None:
        return _FIELDS.get(pod.role, ""), None
    groups: dict[str, Pods] = {
        "head": job.spec.head,
        "trainer": job.spec.student.trainers,
        "engine": job.spec.rollout.engines,
    }
    if pod.role in groups:
        return _FIELDS[pod.role], groups[pod.role]
    for index, teacher in enumerate(job.spec.teachers):
        if pod.role == "teacher" and teacher.name == pod.teacher:
            return f"spec.teachers[{index}].sglang", teacher.sglang
    return "", None
