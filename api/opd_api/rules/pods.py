"""What the document must say where trainers and engines are pods. On one machine they share a disk, and it may not."""

from ..errors import Problem
from ..spec import OPDJob


def check_pods(job: OPDJob) -> list[Problem]:
    """Problems of running `job` in a cluster that the document alone shows."""
    if job.spec.checkpoint.claim_name:
        return []
    hint = "name a claim that several nodes can mount (access mode ReadWriteMany)"
    problems = []
    if job.spec.student.trainers.replicas > 1:
        problems.append(
            Problem(
                path="spec.checkpoint.claimName",
                message="is empty, and the pods of student.trainers write one checkpoint together",
                hint=f"{hint}, or set trainers.replicas: 1",
            )
        )
    if job.spec.rollout.weight_sync == "Disk":
        problems.append(
            Problem(
                path="spec.checkpoint.claimName",
                message="is empty, and rollout.weightSync: Disk hands weights over in a folder of that claim",
                hint=f"{hint}, or set weightSync: Auto",
            )
        )
    return problems
