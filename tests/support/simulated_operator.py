"""The operator's side of a simulated cluster: caches that lag, a reconcile that can be killed between two writes, and
what has to hold of every plan.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from operator_makers import NAMESPACE, SETTINGS, UID, ago
from simulated_cluster import JOB, RAY_ROLES, Cluster

from opd_api.conditions import REASONS, ConditionType, Reason
from opd_api.status import Status
from opd_operator.observed import Observed
from opd_operator.plan import Plan, plan
from opd_operator.plan.times import moment_of


@dataclass
class Operator:
    """Watch caches of one process. Parts lag independently, as watches do."""

    cluster: Cluster
    caches: dict[str, Any] = field(default_factory=dict)
    alive: bool = True

    def __post_init__(self) -> None:
        self.sync()

    # ------------------------------------------------------------ caches
    def sync(self, chance: float = 1.0) -> None:
        """Each part catches up with this probability."""
        for part, fresh in self._fresh().items():
            if chance >= 1.0 or part not in self.caches or self.cluster.rng.random() < chance:
                self.caches[part] = fresh

    def _fresh(self) -> dict[str, Any]:
        cluster = self.cluster
        return {
            "job": {
                "job": cluster.job if cluster.readable else None,
                "generation": cluster.generation,
                "resource_version": str(cluster.version),
                "status": cluster.status,
                "deleting": cluster.deleting,
            },
            "config": {"config": cluster.config},
            "mailbox": {"mailbox": cluster.mailbox},
            "models": {"models_job": cluster.models_job},
            "deployments": {"deployments": tuple(cluster.deployments.values())},
            "rayjobs": {"rayjobs": tuple(cluster.rayjobs.values())},
            "clusters": {"rayclusters": tuple(cluster.clusters.values())},
            "pods": {"pods": tuple(cluster.pods.values())},
        }

    def observe(self) -> Observed:
        facts = {name: value for part in self.caches.values() for name, value in part.items()}
        known = {"namespace": NAMESPACE, "name": JOB, "uid": UID, "created": ago(0), "kuberay": self.cluster.kuberay}
        return Observed(**known | facts)

    # ------------------------------------------------------------ one pass
    def reconcile(self, killed_after: int | None = None) -> Plan | None:
        """What `reconcile` does; it dies before the write number `killed_after`, counted from 0. None: no job."""
        cluster = self.cluster
        if not cluster.exists:
            return None
        observed = self.observe()
        decision = plan(observed, SETTINGS, cluster.now)
        check(observed, decision)
        left = killed_after if killed_after is not None else 10**6
        version = observed.resource_version
        if decision.status != observed.status:
            if left == 0 or str(cluster.version) != version:
                return decision
            cluster.write_status(decision.status)
            version, left = str(cluster.version), left - 1
        if decision.fence is not None and not self._fence_is_open(version):
            return decision
        for ref in decision.delete:
            if left == 0:
                return decision
            cluster.delete(ref)
            left -= 1
        for manifest in decision.apply:
            if left == 0 or (manifest["kind"] == "RayJob" and not cluster.kuberay):
                return decision
            cluster.apply(manifest)
            left -= 1
        if decision.delete_job and left:
            cluster.delete_job()
        return decision

    def _fence_is_open(self, version: str) -> bool:
        """The API server itself, no cache."""
        cluster = self.cluster
        ray_pods = any(pod.role in RAY_ROLES for pod in cluster.pods.values())
        return str(cluster.version) == version and not cluster.rayjobs and not ray_pods


# ---------------------------------------------------------------- what holds of every plan
def check(observed: Observed, decision: Plan) -> None:
    """Whatever was observed, stale or not."""
    before, after = observed.status, decision.status
    if observed.job is not None and observed.job.spec.teachers[0].mode == "Megatron":
        assert "Deployment" not in {each["kind"] for each in decision.apply}
    if after.attempt != before.attempt:
        made = {each["kind"] for each in decision.apply}
        assert not made & {"RayJob", "Deployment", "Job"}, "an attempt was made in the pass that writes it down"
        assert (after.attempt or 0) == (before.attempt or 0) + 1, (
            f"attempt went from {before.attempt} to {after.attempt}"
        )
    if decision.requeue_after is not None:
        assert decision.requeue_after > timedelta(0)
    check_status(after)
    old = {each.type: each for each in before.conditions}
    for each in after.conditions:
        same = each.type in old and old[each.type].status == each.status
        assert not same or each.last_transition_time == old[each.type].last_transition_time, f"{each.type} moved"


def check_status(status: Status) -> None:
    """Conditions, phase and message agree."""
    assert Status.model_validate(status.model_dump()) == status
    states = {each.type: each.status for each in status.conditions}
    assert len(states) == len(status.conditions), "a type twice"
    for each in status.conditions:
        assert Reason(each.reason) in REASONS[ConditionType(each.type)], f"{each.type}: {each.reason}"
        assert moment_of(each.last_transition_time) is not None
        assert each.message
    if not status.conditions:
        return
    assert status.message
    assert (status.phase == "Succeeded") == (states.get("Complete") == "True")
    assert (status.phase == "Failed") == (states.get("Failed") == "True")
    assert not (states.get("Complete") == "True" and states.get("Failed") == "True")
    assert (status.completion_time is not None) == (status.phase in ("Succeeded", "Failed"))
    if status.phase == "Training":
        assert states["Training"] == "True" and states["Accepted"] == "True"
    if status.phase in ("Suspended", "Suspending"):
        assert states["Suspended"] == {"Suspended": "True", "Suspending": "Unknown"}[status.phase]
    if status.phase in ("Succeeded", "Failed", "Suspended", "Retrying", "Starting", "Queued"):
        assert states.get("Training") != "True", f"{status.phase}, and it trains"
