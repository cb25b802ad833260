"""Random histories of one job against a model of everything around the operator: what must hold in all of them.

Shown: never two live attempts, no terminal state lost, conditions that agree, an end once faults stop, and no write
when nothing changed. Not shown: that the model is Kubernetes; the tests of tests/controlplane have the real one.
"""

import random

import pytest
from simulated_cluster import Cluster
from simulated_faults import heal, strike
from simulated_operator import Operator

SAMPLE, ALL = 500, 10_000
PASSES_TO_SETTLE = 400
"""Rounds after the last fault; with four attempts that each wait out a deadline some 150 are used."""


@pytest.mark.parametrize("tens", range(SAMPLE // 50))
def test_every_history_of_a_sample_holds(tens):
    for seed in range(50 * tens, 50 * tens + 50):
        live(seed)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("hundreds", range(SAMPLE // 100, ALL // 100))
def test_every_history_holds(hundreds):
    for seed in range(100 * hundreds, 100 * hundreds + 100):
        live(seed)


def live(seed: int) -> None:
    """One history; its number is all that is needed to see it again."""
    rng = random.Random(seed)
    mode = "Megatron" if seed % 3 == 2 else "SGLang"
    cluster = Cluster(rng, queue=rng.random() < 0.25, suspend=rng.random() < 0.15, teacher_mode=mode)
    if rng.random() < 0.1:
        cluster.leave_behind()
    operators = [Operator(cluster), Operator(cluster)]
    violence = rng.choice((0.04, 0.12, 0.3))
    try:
        for _ in range(rng.randint(10, 80)):
            disturb(cluster, operators, violence)
            if cluster.status.completion_time and rng.random() < 0.2:
                break
        heal(cluster)
        settle(cluster, operators[0])
    except AssertionError as error:
        raise AssertionError(f"history {seed}: {error}") from error


def disturb(cluster: Cluster, operators: list[Operator], violence: float) -> None:
    """Everybody acts, something may break, and one of two operators makes a pass: leaders change, caches differ."""
    rng = cluster.rng
    cluster.wait(rng.randint(1, 30))
    cluster.act()
    if rng.random() < violence:
        strike(cluster)
    operator = operators[0] if rng.random() < 0.9 else operators[1]
    operator.sync(rng.choice((1.0, 1.0, 0.7, 0.3)))
    operator.reconcile(killed_after=rng.randint(0, 8) if rng.random() < 0.2 else None)


def settle(cluster: Cluster, operator: Operator) -> None:
    """Without faults the job comes to an end or to rest, and then nobody writes anything."""
    still = 0
    for _ in range(PASSES_TO_SETTLE):
        cluster.act()
        operator.sync()
        writes = cluster.writes
        decision = operator.reconcile()
        at_rest = cluster.status.phase in ("Succeeded", "Failed", "Suspended") and not cluster.pods
        still = still + 1 if at_rest and cluster.writes == writes else 0
        if still == 3:
            assert cluster.status.phase != "Suspended" or cluster.suspend, "suspended, and nobody asked for it"
            assert not cluster.rayjobs or cluster.status.phase == "Succeeded"
            return
        due = decision.requeue_after.total_seconds() if decision and decision.requeue_after else 60.0
        at_work = any(not driver.hangs for driver in cluster.drivers.values())
        cluster.wait(20.0 if at_work else min(max(due, 1.0), 600.0))
    raise AssertionError(f"still {cluster.status.phase} after {PASSES_TO_SETTLE} passes: {cluster.status.message}")
