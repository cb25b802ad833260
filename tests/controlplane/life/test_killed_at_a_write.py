"""The operator ends before and after each write of a job's whole life, and another takes over: same end, no orphan.

Every life has a namespace and an operator of its own; many run side by side. Real SIGKILLs are in the last test. The
order of two writes to different children is not fixed, so a number names a moment, not a kind of object.
"""

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from chart_release import Release, install_for_itself
from cluster import Cluster
from helm import Helm
from kubernetes import client
from mortal_operator import Moment, MortalOperator
from played_job import PlayedJob, small_job, until

from opd_api import names
from opd_operator.objects import Kind
from opd_operator.settings import Settings

SIDE_BY_SIDE = 10
SECONDS = 120.0
SAMPLE = (1, 4, 9, 15, 21, 27, 36, 54)
"""Writes at which CI kills the operator; `make test-full` takes every one."""
TRIES = 5
"""News that comes together or apart makes a status write more or less: a life without the write is lived again."""
RAYJOBS_PATH = "/apis/ray.io/v1/rayjobs"
RAYJOBS = {names.rayjob(small_job()["metadata"]["name"], attempt) for attempt in (1, 2, 3)}
"""Of a whole life."""
RUNS = (Kind.RAY_JOB, Kind.DEPLOYMENT, Kind.JOB, Kind.POD)
"""Children that are gone when a job has ended; the others stay as long as the OPDJob."""
TIMES = {"lastTransitionTime", "attemptStartTime", "startTime", "completionTime", "lastReportTime"}


class SeenRayJobs:
    """Every RayJob there ever was, by namespace and name: its UIDs, and whether two were alive at once."""

    def __init__(self, http: httpx.Client) -> None:
        self._uids: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._alive: dict[str, set[str]] = defaultdict(set)
        self._together: list[str] = []
        self._http = http
        self._version = ""
        """Of what was seen last; "" when the API server has forgotten it."""
        self._ended = threading.Event()
        threading.Thread(target=self._look_on, daemon=True).start()

    def end(self) -> None:
        self._ended.set()

    def problems(self, namespace: str) -> list[str]:
        """After a whole life there. Raises AssertionError when its RayJobs were not seen."""
        until(lambda: self._of(namespace).keys() >= RAYJOBS, f"{sorted(RAYJOBS)} seen in {namespace}", SECONDS)
        until(lambda: not self._alive[namespace], f"all RayJobs seen to go in {namespace}", SECONDS)
        made = [
            f"RayJob {name} was made {len(uids)} times" for name, uids in self._of(namespace).items() if len(uids) > 1
        ]
        return made + [both for both in self._together if both.startswith(f"{namespace}:")]

    def _of(self, namespace: str) -> dict[str, set[str]]:
        return {name: uids for (where, name), uids in self._uids.copy().items() if where == namespace}

    def _look_on(self) -> None:
        """Whatever ends a connection; every watch goes on where the one before it has ended."""
        while not self._ended.is_set():
            try:
                if not self._version:
                    self._list()
                self._watch()
            except httpx.HTTPStatusError:
                self._version = ""
            except httpx.TransportError:
                pass
            self._ended.wait(0.1)

    def _list(self) -> None:
        found = self._http.get(RAYJOBS_PATH).raise_for_status().json()
        self._alive.clear()
        for rayjob in found["items"]:
            self._note(rayjob["metadata"])
        self._version = found["metadata"]["resourceVersion"]

    def _watch(self) -> None:
        query = {"watch": "1", "resourceVersion": self._version}
        with self._http.stream("GET", RAYJOBS_PATH, params=query, timeout=None) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    self._version = ""
                    return
                self._note(event["object"]["metadata"], gone=event["type"] == "DELETED")
                self._version = event["object"]["metadata"]["resourceVersion"]

    def _note(self, metadata: dict[str, Any], *, gone: bool = False) -> None:
        namespace, name = metadata["namespace"], metadata["name"]
        self._uids[namespace, name].add(metadata["uid"])
        alive = self._alive[namespace]
        if gone:
            alive.discard(name)
            return
        alive.add(name)
        if len(alive) > 1:
            self._together.append(f"{namespace}: {sorted(alive)}")


@pytest.fixture(scope="module")
def seen(cluster: Cluster) -> Iterator[SeenRayJobs]:
    seen = SeenRayJobs(cluster.http)
    yield seen
    seen.end()


def live(job: PlayedJob) -> dict[str, Any]:
    """A whole life: trained, lost, retried, suspended, resumed, done, and deleted by its time to live.

    What it ended as, without times, and the children it had then.
    """
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
    until(lambda: not job.owned(RUNS), lambda: f"what runs is gone: {[*job.owned(RUNS)]}", SECONDS)
    status = without_times(json.loads(json.dumps(job.status()).replace(job.namespace, "NAMESPACE")))
    children = sorted(job.owned())
    job.edit(runPolicy={"ttlSecondsAfterFinished": 0})
    until(
        lambda: job.get("OPDJob", job.name, names.API_VERSION) is None, "the job deleted by its time to live", SECONDS
    )
    until(lambda: not job.owned(), lambda: f"no child is left: {[*job.owned()]}", SECONDS)
    return {"status": status, "children": children}


def reach(job: PlayedJob, attempt: int, step: int) -> None:
    job.wait_rayjob(attempt, SECONDS)
    job.rayjob_says(attempt, jobDeploymentStatus="Running", jobStatus="RUNNING", rayClusterName=f"{job.name}-rc")
    job.report(attempt, "Training", step)
    until(lambda: job.status().get("progress", {}).get("step") == step, lambda: f"step {step}: {job.status()}", SECONDS)


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def lives(cluster: Cluster, helm: Helm, api: client.ApiClient, seen: SeenRayJobs) -> "Lives":
    return Lives(cluster, helm, api, seen)


class Lives:
    """Lives one job under an operator that ends at a write, and compares the end."""

    def __init__(self, cluster: Cluster, helm: Helm, api: client.ApiClient, seen: SeenRayJobs) -> None:
        self.cluster, self.helm, self.api, self.seen = cluster, helm, api, seen
        self._serial = count()  # what was seen of a namespace counts once
        self.expected, undisturbed = self._live("undisturbed", 0, "before")
        self.writes = undisturbed.writes

    def disturbed(self, dies_at: int, moment: Moment) -> str:
        """ "" when all is well."""
        for _ in range(TRIES):
            namespace = f"killed-{moment}-{dies_at}-{next(self._serial)}"
            problem, died = self._disturbed(namespace, dies_at, moment)
            if problem or died:
                return problem
        return f"there was no write {dies_at} in {TRIES} lives"

    def _disturbed(self, namespace: str, dies_at: int, moment: Moment) -> tuple[str, bool]:
        """What is wrong, and whether the operator came to the write."""
        try:
            ended, operator = self._live(namespace, dies_at, moment)
            found = self.seen.problems(namespace)
        except AssertionError as error:
            return f"{namespace}: {error}", True
        if ended != self.expected:
            found.append(f"ends as {ended} and not as {self.expected}")
        return f"{namespace}: {'; '.join(found)}" if found else "", operator.died.is_set()

    def release(self, namespace: str) -> Release:
        """The chart's, in a new namespace and for it alone."""
        self.cluster.kubectl("create", "namespace", namespace)
        return install_for_itself(self.cluster, self.helm, namespace)

    def _live(self, namespace: str, dies_at: int, moment: Moment) -> tuple[dict[str, Any], MortalOperator]:
        account = self.release(namespace).account
        settings = Settings(namespaces=(namespace,), operator_namespace=namespace, key_seed="seed")
        operator = MortalOperator(account, settings, dies_at=dies_at, moment=moment)
        operator.start()
        heirs: list[MortalOperator] = []

        def take_over() -> None:
            operator.died.wait()
            operator.wait_end(30)
            heir = MortalOperator(account, settings)
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
    kill_at_each(lives, [*SAMPLE])


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_an_operator_killed_at_any_write_leaves_no_trace(lives: Lives, record_property: Any) -> None:
    record_property("moments of death", 2 * lives.writes)
    kill_at_each(lives, list(range(1, lives.writes + 1)))


@pytest.mark.full
def test_an_operator_killed_by_the_kernel_again_and_again_leaves_no_trace(lives: Lives, tmp_path: Path) -> None:
    """SIGKILL: unlike above, its Lease has to run out before the next one leads."""
    namespace = "killed-for-real"
    job = PlayedJob(lives.api, namespace, small_job())
    with lives.release(namespace).operator(tmp_path / "operator.log") as operator:

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
    assert lives.seen.problems(namespace) == []
