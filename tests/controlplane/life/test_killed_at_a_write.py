"""The operator ends before and after each write of a job's whole life, and another takes over: same end, no orphan.

Every life has a namespace and an operator of its own; many run side by side. Real SIGKILLs are in the last test. The
order of two writes to different children is not fixed, so a number names a moment, not a kind of object.
"""

import contextlib
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from cluster import Cluster
from kubernetes import client
from mortal_operator import Moment, MortalOperator
from operator_process import OperatorProcess
from played_job import PlayedJob, small_job, until

from opd_operator.settings import Settings

SIDE_BY_SIDE = 10
SECONDS = 120.0
SAMPLE = (1, 4, 9, 15, 21, 27)
"""Writes at which CI kills the operator; `make test-full` takes every one."""
TRIES = 5
"""News that comes together or apart makes a status write more or less: a life without the write is lived again."""
TIMES = {"lastTransitionTime", "attemptStartTime", "startTime", "completionTime", "lastReportTime"}


class SeenRayJobs:
    """Every RayJob there ever was, by namespace and name: its UIDs, and whether two were alive at once."""

    def __init__(self, cluster: Cluster) -> None:
        self.uids: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.alive: dict[str, set[str]] = defaultdict(set)
        self.together: list[str] = []
        self._cluster = cluster
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """The API server keeps the history of the last minutes: a watch from version 0 misses none after it began."""
        stopped = contextlib.suppress(httpx.TransportError)  # with the cluster
        with stopped, self._cluster.http.stream("GET", "/apis/ray.io/v1/rayjobs?watch=1", timeout=None) as answer:
            for line in answer.iter_lines():
                event = json.loads(line)
                metadata = event["object"]["metadata"]
                namespace, name = metadata["namespace"], metadata["name"]
                self.uids[namespace, name].add(metadata["uid"])
                alive = self.alive[namespace]
                if event["type"] == "DELETED":
                    alive.discard(name)
                    continue
                alive.add(name)
                if len(alive) > 1:
                    self.together.append(f"{namespace}: {sorted(alive)}")


@pytest.fixture(scope="module")
def seen(cluster: Cluster) -> Iterator[SeenRayJobs]:
    yield SeenRayJobs(cluster)


def live(job: PlayedJob) -> dict[str, Any]:
    """A whole life: trained, lost, retried, suspended, resumed, done. What it ends as, without times."""
    job.create()
    job.models_pod_says(seconds=SECONDS)
    reach(job, 1, 10)
    lost = {"actor": "Infrastructure", "reason": "TrainerLost", "message": "a trainer process died"}
    job.report(1, "Failed", 10, error=lost)
    reach(job, 2, 20)
    job.edit(suspend=True)
    until(lambda: job.request().get("stop") == "Suspend", "a stop request", SECONDS)
    job.report(2, "Stopped", 21)
    job.wait_phase("Suspended", SECONDS)
    job.edit(suspend=False)
    reach(job, 3, 22)
    job.report(3, "Succeeded", 100)
    job.driver_ends(3)
    job.wait_phase("Succeeded", SECONDS)
    until(lambda: left_over(job) == [], f"no child is left: {left_over(job)}", SECONDS)
    return without_times(json.loads(json.dumps(job.status()).replace(job.namespace, "NAMESPACE")))


def reach(job: PlayedJob, attempt: int, step: int) -> None:
    job.wait_rayjob(attempt, SECONDS)
    job.rayjob_says(attempt, jobDeploymentStatus="Running", jobStatus="RUNNING", rayClusterName=f"{job.name}-rc")
    job.report(attempt, "Training", step)
    until(lambda: job.status().get("progress", {}).get("step") == step, f"step {step}: {job.status()}", SECONDS)


def left_over(job: PlayedJob) -> list[str]:
    """What should be gone when a job has ended: all that runs. Names, keys and policies stay as long as the OPDJob."""
    kinds = (("RayJob", "ray.io/v1"), ("Deployment", "apps/v1"), ("Job", "batch/v1"), ("Pod", "v1"))
    found = [each for kind, version in kinds for each in job.children(kind, version)]
    return [
        f"{each['kind']} {each['metadata']['name']}" for each in found if "deletionTimestamp" not in each["metadata"]
    ]


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def lives(cluster: Cluster, api: client.ApiClient, seen: SeenRayJobs) -> "Lives":
    return Lives(cluster, api, seen)


class Lives:
    """Lives one job under an operator that ends at a write, and compares the end."""

    def __init__(self, cluster: Cluster, api: client.ApiClient, seen: SeenRayJobs) -> None:
        self.cluster, self.api, self.seen = cluster, api, seen
        self.expected, undisturbed = self._live("undisturbed", 0, "before")
        self.writes = undisturbed.writes

    def disturbed(self, dies_at: int, moment: Moment) -> str:
        """ "" when all is well."""
        for number in range(TRIES):
            namespace = f"killed-{moment}-{dies_at}-{number}"
            problem, died = self._disturbed(namespace, dies_at, moment)
            if problem or died:
                return problem
        return f"there was no write {dies_at} in {TRIES} lives"

    def _disturbed(self, namespace: str, dies_at: int, moment: Moment) -> tuple[str, bool]:
        """What is wrong, and whether the operator came to the write."""
        try:
            ended, operator = self._live(namespace, dies_at, moment)
        except AssertionError as error:
            return f"{namespace}: {error}", True
        found = [] if ended == self.expected else [f"ends as {ended} and not as {self.expected}"]
        made = {name: uids for (where, name), uids in self.seen.uids.items() if where == namespace}
        found += [f"RayJob {name} was made {len(uids)} times" for name, uids in made.items() if len(uids) > 1]
        found += [both for both in self.seen.together if both.startswith(f"{namespace}:")]
        return f"{namespace}: {'; '.join(found)}" if found else "", operator.died.is_set()

    def _live(self, namespace: str, dies_at: int, moment: Moment) -> tuple[dict[str, Any], MortalOperator]:
        self.cluster.kubectl("create", "namespace", namespace)
        settings = Settings(namespaces=(namespace,), operator_namespace=namespace, key_seed="seed")
        operator = MortalOperator(self.cluster.kubeconfig, settings, dies_at=dies_at, moment=moment)
        operator.start()
        heirs: list[MortalOperator] = []

        def take_over() -> None:
            operator.died.wait()
            operator.wait_end(30)
            heir = MortalOperator(self.cluster.kubeconfig, settings)
            heir.start()
            heirs.append(heir)

        heir_thread = threading.Thread(target=take_over, daemon=True)
        heir_thread.start()
        job = PlayedJob(self.api, namespace, small_job())
        ended = live(job)
        if operator.died.is_set():
            heir_thread.join(30)
        for each in heirs or [operator]:
            each.stop()
        self.cluster.kubectl("delete", "namespace", namespace, "--wait=false")
        return ended, operator


def kill_at_each(lives: Lives, numbers: list[int]) -> None:
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        moments: tuple[Moment, ...] = ("before", "after")
        results = pool.map(lambda case: lives.disturbed(*case), [(k, moment) for k in numbers for moment in moments])
        assert [result for result in results if result] == []


def test_an_operator_killed_at_a_write_leaves_no_trace(lives: Lives, record_property: Any) -> None:
    record_property("writes of a whole life", lives.writes)
    kill_at_each(lives, [k for k in SAMPLE if k <= lives.writes])


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_an_operator_killed_at_any_write_leaves_no_trace(lives: Lives, record_property: Any) -> None:
    record_property("moments of death", 2 * lives.writes)
    kill_at_each(lives, list(range(1, lives.writes + 1)))


@pytest.mark.full
def test_an_operator_killed_by_the_kernel_again_and_again_leaves_no_trace(lives: Lives, tmp_path: Path) -> None:
    """SIGKILL: unlike above, its Lease has to run out before the next one leads."""
    namespace = "killed-for-real"
    lives.cluster.kubectl("create", "namespace", namespace)
    job = PlayedJob(lives.api, namespace, small_job())
    with OperatorProcess(
        lives.cluster.kubeconfig, tmp_path / "operator.log", operator_namespace=namespace, namespaces=[namespace]
    ) as operator:

        def kill_when(happened: Callable[[], Any], what: str) -> None:
            until(happened, what, SECONDS)
            operator.kill()
            operator.start()

        # The life in the other thread: an operator ends with the thread that has started it.
        with ThreadPoolExecutor(max_workers=1) as other:
            lived = other.submit(live, job)
            kill_when(lambda: job.children("Job", "batch/v1"), "a models Job")
            kill_when(lambda: job.status().get("attempt") == 2, "attempt 2")
            kill_when(lambda: job.condition("Suspended").get("status") == "Unknown", "a suspension")
            assert lived.result() == lives.expected
    assert [uids for (where, _), uids in lives.seen.uids.items() if where == namespace and len(uids) > 1] == []
