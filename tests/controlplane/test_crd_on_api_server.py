"""A real API server refuses and admits what `opd` does, by the CRD alone: same paths, and same words where rules speak.

Does not prove that an operator could run what is admitted.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cluster import Cluster, KubectlFailed
from cluster_namespace import Namespace, new_namespace
from job_documents import changed_job, table

from opd_api.crd import transition_rules
from opd_api.errors import InvalidJob, Problem
from opd_api.load import job_from_document
from opd_api.rules import STATIC_RULES, Rule

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*/opdjob*.yaml"))

NATURE = re.compile("^(Invalid value|Forbidden): ")
"""What the server puts before a rule's words."""

type Refusal = tuple[str, str]
"""A path and what is said of it."""

ALSO_SAID = {
    # The server asks rules about a field whose bound is broken; `opd` does not, it would be an echo.
    "temperature 0": {"spec.rollout.temperature"},
    "negative temperature": {"spec.rollout.temperature"},
    "more than the whole nucleus": {"spec.rollout.topP"},
    "top-k -2": {"spec.rollout.topK"},
    "TP 0": {"spec.student", "spec"},  # they divide by it
    "empty list of teachers": {"spec.distillation.klCoef"},
    "negative klCoef of one": {"spec.distillation.klCoef"},
    "negative klCoef": {"spec.distillation.klCoef"},
    "negative interval": {"spec.evaluation.prompts"},
    "0 steps": {"spec.optimizer.warmupSteps", "spec.algorithm.critic.warmupSteps"},
    # Kubernetes has rules of its own about names, and about lists that are maps.
    "name in capitals": {"metadata.name"},
    "two teachers with one name": {"spec.teachers[1]"},
}
"""Bad job -> paths of which a server says more than the rule table."""


@pytest.fixture(scope="module")
def jobs(cluster: Cluster) -> Iterator[Namespace]:
    """One namespace for all, nothing is stored in it but the two jobs that are edited."""
    with new_namespace(cluster, "crd") as namespace:
        yield namespace


@pytest.fixture
def send(jobs: Namespace) -> Callable[..., httpx.Response]:
    """A job to the API server as `kubectl --dry-run=server --validate=strict` sends it, a hundred times faster."""

    def send(method: str, document: dict[str, Any], *, store: bool = False) -> httpx.Response:
        document["metadata"]["namespace"] = jobs.name
        path = f"/apis/opd.dev/v1alpha1/namespaces/{jobs.name}/opdjobs"
        if method == "PUT":
            path += f"/{document['metadata']['name']}"
        options = {"fieldValidation": "Strict"} | ({} if store else {"dryRun": "All"})
        return jobs.cluster.http.request(method, path, params=options, json=document)

    return send


def refusals(answer: httpx.Response) -> set[Refusal]:
    """What the server said, path by path; not that it has stopped asking."""
    status = answer.json()
    if unknown := re.findall(r'unknown field "([^"]+)"', status["message"]):
        return {(path, "unknown field") for path in unknown}
    said = {(cause["field"], NATURE.sub("", cause["message"])) for cause in status["details"]["causes"]}
    # A rule on the whole document can only name its field in the message.
    named = {tuple(text.split(": ", 1)) if path == "<nil>" else (path, text) for path, text in said}
    return {(path, text) for path, text in named if path.startswith(("spec", "metadata"))}


def words_of(problem: Problem) -> Refusal | None:
    """As the rule behind the problem says it without knowing the value; None: the schema is behind it."""
    node = re.sub(r"\[\d+\]", "[]", problem.path)
    for rule in STATIC_RULES:
        message = ".*".join(map(re.escape, rule.message.split("{value}")))
        if (rule_path(rule), rule.hint) == (node, problem.hint) and re.fullmatch(message, problem.message):
            return problem.path, words(rule)
    return None


def rule_path(rule: Rule) -> str:
    return ".".join(filter(None, (rule.node, rule.field)))


def words(rule: Rule) -> str:
    return f"{rule.general_message}; {rule.hint}"


def is_said_by_a_rule(text: str) -> bool:
    """Or would be, if it could be computed from a field whose bound is broken."""
    return text.rpartition("evaluating rule: ")[2] in {words(rule) for rule in STATIC_RULES}


BAD_JOBS = [pytest.param(sentence, *case[:2], id=sentence) for sentence, case in table("bad_jobs.yaml").items()]
GOOD_JOBS = [pytest.param(changes, id=sentence) for sentence, changes in table("good_jobs.yaml").items()]
EDITS = [pytest.param(*case, id=sentence) for sentence, case in table("edits.yaml").items()]


@pytest.mark.parametrize(("sentence", "changes", "want_path"), BAD_JOBS)
def test_bad_job_is_refused_at_its_path_and_by_rules_in_their_words(send, sentence, changes, want_path):
    with pytest.raises(InvalidJob) as refusal:
        job_from_document(changed_job(changes))
    ours = {problem.path: words_of(problem) for problem in refusal.value.problems}
    answer = send("POST", changed_job(changes))
    assert answer.status_code in (400, 422), answer.text
    theirs = refusals(answer)
    assert want_path in {path for path, _ in theirs}
    by_rules = {said for said in map(words_of, refusal.value.problems) if said}
    assert by_rules <= theirs
    by_schema = {path for path, said in ours.items() if said is None}
    more = {path for path, text in theirs - by_rules if is_said_by_a_rule(text) or path not in by_schema}
    assert more == ALSO_SAID.get(sentence, set())


def test_what_a_server_also_says_is_listed_for_bad_jobs_that_exist():
    assert set(ALSO_SAID) <= set(table("bad_jobs.yaml"))


@pytest.mark.parametrize("changes", GOOD_JOBS)
def test_good_job_is_admitted_with_the_defaults_of_the_types(send, changes):
    document = changed_job(changes)
    answer = send("POST", document)
    assert answer.status_code == 201, answer.text
    assert answer.json()["spec"] == job_from_document(document).model_dump(mode="json", exclude_none=True)["spec"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_example_applies(jobs: Namespace, example: Path):
    assert "created" in jobs.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(example))


@pytest.fixture(scope="module")
def stored(jobs: Namespace) -> dict[bool, dict[str, Any]]:
    """Was suspended -> the job as it is."""
    documents = {
        False: changed_job("metadata: {name: runs}"),
        True: changed_job("{metadata: {name: waits}, spec: {suspend: true}}"),
    }
    for document in documents.values():
        jobs.apply(document)
    return {suspended: jobs.get("opdjob", document["metadata"]["name"]) for suspended, document in documents.items()}


@pytest.mark.parametrize(("changes", "want_allowed"), EDITS)
@pytest.mark.parametrize("was_suspended", [False, True])
def test_edit(send, stored, changes, want_allowed, was_suspended):
    document = changed_job(changes)
    document["metadata"] = {key: stored[was_suspended]["metadata"][key] for key in ("name", "resourceVersion")}
    answer = send("PUT", document)
    if want_allowed or was_suspended:
        assert answer.status_code == 200, answer.text
    else:
        assert answer.status_code == 422
        said = {text for _, text in refusals(answer)}
        assert said and said <= {rule["message"] for rule in transition_rules()}


def test_an_edit_by_kubectl_is_refused_in_one_readable_line(jobs: Namespace, stored):
    with pytest.raises(KubectlFailed, match=r"spec\.steps: .*steps may only grow while the job is not suspended"):
        jobs.kubectl("patch", "opdjob", "runs", "--type=merge", "--patch", '{"spec": {"steps": 1}}')


def test_kubectl_shows_the_columns(jobs: Namespace, stored):
    header, *rows = jobs.kubectl("get", "opd").splitlines()
    assert header.split() == ["NAME", "PHASE", "STEP", "KL", "REWARD", "TEACHER", "AGE"]
    assert [row.split()[0] for row in rows] == ["runs", "waits"]
