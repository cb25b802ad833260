"""What is wrong with pods, in words: the pod's name, what Kubernetes says, and what to do. Ends no attempt."""

import re
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
    # Not the nodes that Kubernetes itself keeps free, as control planes: they are seldom the ones that are meant.
    (r"untolerated taint(?! \{node(-role)?\.kubernetes\.io/)", "add tolerations by {place}podTemplate"),
    (r"volume node affinity|PersistentVolume's node affinity|volume zone", "the claim's volume is in another zone"),
    (r"unbound immediate PersistentVolumeClaim", "the claim has no volume yet: kubectl describe pvc says why"),
    (r"PersistentVolumeClaim", "create the claim, or name another one in the job"),
    (r"Insufficient nvidia\.com/gpu", "free GPUs, add nodes, or lower replicas and gpusPerReplica"),
    (
        r"^(trainer|engine|teacher): .*node affinity",
        "no node's GPU has the memory of status.memoryPlan; add such nodes or split over more GPUs",
    ),
    (r"node affinity", "correct nodeSelector or affinity of {place}podTemplate"),
    (r"taint", "add tolerations by {place}podTemplate"),
    (r"Insufficient", "free resources, add nodes, or lower the requests under {place}resources"),
)
"""By what the scheduler says, after the pod's role; it says all that is wrong with any node, and the first counts."""
_FIELDS = {
    "models": "spec.head",
    "head": "spec.head",
    "trainer": "spec.student.trainers",
    "engine": "spec.rollout.engines",
}
"""Where the spec talks about a pod; the models pod is shaped like the head."""


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
        message = f"{what} finds no node: {pod.unschedulable.rstrip('.')}{_scheduling_remedy(pod, job)}"
        return Verdict(reason=Reason.UNSCHEDULABLE, message=message)
    if pod.phase == "Failed":
        why = f" ({pod.terminated_reason})" if pod.terminated_reason not in ("", "Error") else ""
        message = f"{what} failed{why}{_end(pod)}; see kubectl logs {pod.name}"
        return Verdict(reason=Reason.CONTAINER_FAILED, message=message)
    return None


def _scheduling_remedy(pod: PodFacts, job: OPDJob | None) -> str:
    said, place = f"{pod.role}: {pod.unschedulable}", _place(pod, job)[0]
    found = (words for sign, words in _SCHEDULING_REMEDIES if re.search(sign, said, re.IGNORECASE))
    words = next(found, "").format(place=f"{place}." if place else "")
    return f"; {words}" if words else ""


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
        return written
    also = " or lower spec.student.maxTokensPerGPU" if pod.role == "trainer" else ""
    return f"{written}; raise {field}.resources.limits.memory{also}"


def _place(pod: PodFacts, job: OPDJob | None) -> tuple[str, Pods | None]:
    """Where the spec talks about this pod."""
    if job is None:
        return _FIELDS.get(pod.role, ""), None
    groups: dict[str, Pods] = {
        "models": job.spec.head,
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
