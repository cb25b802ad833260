"""What the cache holds after watches, lists and our own writes have spoken in any order."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from opd_api.documents import DocumentError, Progress
from opd_operator.kube.cache import Cache
from opd_operator.objects import JobKey, Kind
from opd_operator.observed import Observed

type Make = Callable[..., dict[str, Any]]
KEY = JobKey("ml", "demo")


@pytest.fixture
def changes() -> list[JobKey]:
    return []


@pytest.fixture
def cache(changes: list[JobKey], job_body: Make) -> Cache:
    """Knows job `demo` at version 10."""
    cache = Cache((), changes.append)
    cache.put(Kind.OPD_JOB, job_body(10))
    changes.clear()
    return cache


def observed(cache: Cache) -> Observed:
    known = cache.observe(KEY)
    assert known is not None
    return known


def pods(cache: Cache) -> list[str]:
    return [pod.name for pod in observed(cache).pods]


def phase(cache: Cache) -> str | None:
    return observed(cache).status.phase


def test_a_job_nobody_has_seen_is_none(cache: Cache) -> None:
    assert cache.observe(JobKey("ml", "other")) is None


def test_an_older_view_never_replaces_our_own_newer_status(cache: Cache, job_body: Make) -> None:
    cache.take(Kind.OPD_JOB, job_body(20, status={"phase": "Training", "attempt": 3}))
    cache.put(Kind.OPD_JOB, job_body(15, status={"phase": "Pending"}))
    assert phase(cache) == "Training"
    cache.put(Kind.OPD_JOB, job_body(21, status={"phase": "Failed"}))
    assert phase(cache) == "Failed"


def test_the_answer_to_a_write_that_the_watch_has_passed_does_not_bring_a_deleted_object_back(
    cache: Cache, child_body: Make
) -> None:
    cache.put(Kind.POD, child_body("a", 30))
    cache.drop(Kind.POD, child_body("a", 31))
    cache.take(Kind.POD, child_body("a", 30))
    assert pods(cache) == []
    cache.take(Kind.POD, child_body("a", 32))
    assert pods(cache) == ["a"]


def test_a_list_takes_away_what_it_does_not_have_but_keeps_what_is_newer(cache: Cache, child_body: Make) -> None:
    cache.put(Kind.POD, child_body("vanished", 20))
    cache.put(Kind.POD, child_body("kept", 21))
    cache.take(Kind.POD, child_body("newer", 60))
    cache.keep(Kind.POD, "", {("ml", "kept")}, 50)
    assert pods(cache) == ["kept", "newer"]


def test_a_list_of_one_namespace_leaves_the_others_alone(changes: list[JobKey], job_body: Make) -> None:
    cache = Cache(("ml", "other"), changes.append)
    cache.put(Kind.OPD_JOB, job_body(10))
    cache.keep(Kind.OPD_JOB, "other", set(), 50)
    assert cache.observe(KEY) is not None


def test_a_late_deletion_of_an_object_made_again_is_ignored(cache: Cache, job_body: Make) -> None:
    cache.put(Kind.OPD_JOB, job_body(40, uid="second"))
    cache.drop(Kind.OPD_JOB, job_body(35, uid="first"))
    observed = cache.observe(KEY)
    assert observed is not None and observed.uid == "second"


def test_a_change_that_says_nothing_new_wakes_nobody(cache: Cache, changes: list[JobKey], child_body: Make) -> None:
    cache.put(Kind.POD, child_body("a", 20))
    cache.put(Kind.POD, child_body("a", 21, status={"podIP": "10.0.0.1"}))
    assert changes == [KEY]
    cache.put(Kind.POD, child_body("a", 22, status={"phase": "Running"}))
    assert changes == [KEY, KEY]


@pytest.fixture
def steps() -> list[JobKey]:
    return []


@pytest.fixture
def patient(changes: list[JobKey], steps: list[JobKey], job_body: Make) -> Cache:
    """Knows job `demo`, and tells steps on the way apart."""
    cache = Cache((), changes.append, moved=steps.append)
    cache.put(Kind.OPD_JOB, job_body(10, status={"phase": "Starting", "attempt": 1}))
    changes.clear()
    return cache


@pytest.mark.parametrize(
    ("kind", "role", "want"),
    [
        pytest.param(Kind.POD, "trainer", "step", id="a pod"),
        pytest.param(Kind.POD, "models", "change", id="the models' pod"),
        pytest.param(Kind.RAY_CLUSTER, "ray", "step", id="a RayCluster"),
        pytest.param(Kind.RAY_JOB, "ray", "change", id="a RayJob that is new"),
    ],
)
def test_steps_on_the_way_are_told_apart_from_what_a_job_waits_for(
    patient: Cache, changes: list[JobKey], steps: list[JobKey], child_body: Make, kind: Kind, role: str, want: str
) -> None:
    patient.put(kind, child_body("a", 20, role=role))
    assert (changes, steps) == (([KEY], []) if want == "change" else ([], [KEY]))
    patient.drop(kind, child_body("a", 21, role=role))
    assert changes[-1:] == [KEY], "what is gone may be what the next attempt waits for"


@pytest.mark.parametrize(
    ("status", "want"),
    [
        pytest.param({"phase": "Starting", "attempt": 1, "message": "soon"}, "step", id="words"),
        pytest.param({"phase": "Starting", "attempt": 2}, "change", id="an attempt"),
        pytest.param({"phase": "Failed", "attempt": 1}, "change", id="a phase"),
    ],
)
def test_a_status_that_leads_on_is_told_apart_from_one_that_only_tells(
    patient: Cache, changes: list[JobKey], steps: list[JobKey], job_body: Make, status: dict[str, Any], want: str
) -> None:
    patient.take(Kind.OPD_JOB, job_body(20, status=status))
    assert (changes, steps) == (([KEY], []) if want == "change" else ([], [KEY]))


def test_a_status_tells_how_far_the_job_is(patient: Cache, job_body: Make) -> None:
    patient.put(Kind.OPD_JOB, job_body(19, status={"phase": "Pending"}))
    assert (patient.is_recorded(KEY), patient.is_launched(KEY)) == (False, False)
    patient.put(Kind.OPD_JOB, job_body(20, status={"attempt": 1}))
    assert (patient.is_recorded(KEY), patient.is_launched(KEY)) == (True, False)
    patient.put(Kind.OPD_JOB, job_body(21, status={"attempt": 1, "rayJobName": "demo-a1"}))
    assert (patient.is_recorded(KEY), patient.is_launched(KEY)) == (True, True)


def test_kuberay_that_goes_and_comes_is_noticed_by_every_job(
    cache: Cache, changes: list[JobKey], child_body: Make
) -> None:
    cache.put(Kind.RAY_JOB, child_body("demo-a1", 20))
    changes.clear()
    cache.lacks(Kind.RAY_JOB)
    observed = cache.observe(KEY)
    assert observed is not None and not observed.kuberay and observed.rayjobs == ()
    assert KEY in changes
    changes.clear()
    cache.keep(Kind.RAY_JOB, "", set(), 50)
    observed = cache.observe(KEY)
    assert observed is not None and observed.kuberay
    assert changes == [KEY]


def test_a_namespace_that_comes_back_wakes_its_jobs_once_all_kinds_are_known(
    cache: Cache, changes: list[JobKey]
) -> None:
    assert cache.close(Kind.POD, "ml") and not cache.close(Kind.OPD_JOB, "ml")
    assert not cache.open(Kind.OPD_JOB, "ml") and changes == []
    assert cache.observe(KEY) is None
    assert cache.open(Kind.POD, "ml") and changes == [KEY]
    assert cache.observe(KEY) is not None
    assert not cache.open(Kind.POD, "ml"), "it was there"


def test_a_refusal_is_told_until_all_are_applied_and_only_about_the_same_job(
    cache: Cache, changes: list[JobKey], job_body: Make
) -> None:
    cache.reject(KEY, "job-uid", "quota")
    cache.reject(KEY, "job-uid", "quota")
    assert changes == [KEY], "told once"
    observed = cache.observe(KEY)
    assert observed is not None and observed.rejection == "quota"
    cache.put(Kind.OPD_JOB, job_body(20, uid="another"))
    observed = cache.observe(KEY)
    assert observed is not None and observed.rejection == ""
    cache.reject(KEY, "job-uid", "late")
    observed = cache.observe(KEY)
    assert observed is not None and observed.rejection == ""


def test_documents_in_config_maps_are_read_when_a_job_is_observed(cache: Cache, child_body: Make) -> None:
    report = {"attempt": 1, "phase": "Training", "step": 1, "totalSteps": 2, "time": "2026-01-01T00:00:00Z"}
    cache.put(Kind.CONFIG_MAP, child_body("demo-mailbox", 20, data={"progress.json": json.dumps(report)}))
    cache.put(Kind.CONFIG_MAP, child_body("demo-config", 21, data={"models.json": "{}"}))
    observed = cache.observe(KEY)
    assert observed is not None and observed.mailbox is not None and observed.config is not None
    assert isinstance(observed.mailbox.progress, Progress)
    assert observed.mailbox.resource_version == "20"
    assert observed.config.models is not None and observed.config.digest == "0123456789abcdef"


def test_a_mailbox_with_another_jobs_label_is_nobodys_until_the_label_is_back(
    cache: Cache, changes: list[JobKey], job_body: Make, child_body: Make
) -> None:
    other = JobKey("ml", "other")
    cache.put(Kind.OPD_JOB, job_body(11, name="other", uid="other-uid"))
    cache.put(Kind.CONFIG_MAP, child_body("demo-mailbox", 20))
    changes.clear()
    cache.put(Kind.CONFIG_MAP, child_body("demo-mailbox", 21, metadata={"labels": {"opd.dev/job": "other"}}))
    assert observed(cache).mailbox is None and KEY in changes, "its own job makes it anew"
    assert cache.observe(other).mailbox is None
    cache.put(Kind.CONFIG_MAP, child_body("demo-mailbox", 22))
    assert observed(cache).mailbox.resource_version == "22"
    assert cache.uid_of(Kind.CONFIG_MAP, other, "demo-mailbox") is None
    cache.keep(Kind.CONFIG_MAP, "", set(), 30)
    assert observed(cache).mailbox is None


@pytest.mark.parametrize(
    ("document", "want_reason"),
    [
        pytest.param("{", "Unreadable", id="a document that is no JSON is an error and a value"),
        pytest.param("x" * 70_000, "TooLarge", id="a document that is too large is not even kept"),
    ],
)
def test_a_bad_document_is_said(cache: Cache, child_body: Make, document: str, want_reason: str) -> None:
    cache.put(Kind.CONFIG_MAP, child_body("demo-mailbox", 20, data={"progress.json": document}))
    observed = cache.observe(KEY)
    assert observed is not None and observed.mailbox is not None
    assert isinstance(observed.mailbox.progress, DocumentError)
    assert observed.mailbox.progress.reason == want_reason


def test_a_job_that_is_none_says_why(cache: Cache, job_body: Make) -> None:
    body = job_body(20)
    body["spec"]["steps"] = "many"
    cache.put(Kind.OPD_JOB, body)
    observed = cache.observe(KEY)
    assert observed is not None and observed.job is None
    assert [problem.path for problem in observed.problems] == ["spec.steps"]


def test_a_status_with_a_foreign_field_keeps_its_attempt(cache: Cache, job_body: Make) -> None:
    cache.put(Kind.OPD_JOB, job_body(20, status={"attempt": 4, "phase": "Nonsense", "future": {"x": 1}}))
    observed = cache.observe(KEY)
    assert observed is not None and observed.status.attempt == 4 and observed.status.phase is None


def test_metrics_get_numbers_of_a_job_without_reading_its_documents(cache: Cache, job_body: Make) -> None:
    status = {
        "phase": "Training",
        "progress": {"step": 5, "totalSteps": 10, "lastReportTime": "2026-01-01T00:00:00Z"},
        "distillation": {"reverseKL": 0.5, "trend": "Spike"},
        "teachers": [{"name": "a", "failedScores": 2}, {"name": "b"}],
    }
    cache.put(Kind.OPD_JOB, job_body(20, status=status))
    (numbers,) = cache.numbers()
    assert (numbers.step, numbers.reverse_kl, numbers.spike, numbers.failed_scores) == (5, 0.5, True, 2)
    assert numbers.last_report == 1767225600


def test_what_was_deleted_is_on_its_way_out_before_the_watch_says_so(cache: Cache, child_body: Make) -> None:
    cache.put(Kind.RAY_JOB, child_body("demo-a1", 20))
    cache.taken_away(Kind.RAY_JOB, KEY, "demo-a1", "uid-of-another-life")
    assert [each.deleting for each in observed(cache).rayjobs] == [False]
    cache.taken_away(Kind.RAY_JOB, KEY, "demo-a1", "uid-of-demo-a1")
    assert [each.deleting for each in observed(cache).rayjobs] == [True]
    cache.put(Kind.RAY_JOB, child_body("demo-a1", 40, uid="made again"))
    assert [each.deleting for each in observed(cache).rayjobs] == [False]
