"""Text to job and back: YAML as kubectl reads it, every problem at once, defaults, `--set`."""

import json
from pathlib import Path

import pytest

from opd_api.errors import InvalidJob
from opd_api.load import dump_job, job_from_document, load_job, load_job_file, read_document, set_path


def problems_of(text: str) -> dict[str, str]:
    with pytest.raises(InvalidJob) as refusal:
        load_job(text, source="job.yaml")
    return {problem.path: str(problem) for problem in refusal.value.problems}


def test_smallest_job_loads_and_fills_in_defaults(minimal):
    spec = load_job(minimal).spec
    assert spec.rollout.batch_size == 32
    assert spec.teachers[0].name == "teacher"
    assert spec.teachers[0].sglang.memory_fraction == 0.85
    assert spec.algorithm.critic.lambda_ == 1.0
    assert spec.distillation.kl_coef_schedule.target_kl is None
    assert spec.student.max_tokens_per_gpu == 16384
    assert spec.run_policy.backoff_limit == 3


def test_dump_and_load_give_the_same_job(minimal):
    job = load_job(minimal)
    again = load_job(dump_job(job))
    assert again == job
    assert dump_job(again) == dump_job(job)


AMBIGUOUS = [
    "1e-1",
    "1.5e3",
    "12e4567",
    "1e6",
    "08",
    "0x1F",
    "1_000",
    "0o7",
    "y",
    "N",
    "on",
    "null",
    "~",
    "2026-01-01",
    ".5",
    "1:30",
    "=",
    "",
]


@pytest.mark.parametrize("text", AMBIGUOUS)
def test_a_text_that_looks_like_something_else_stays_a_text(minimal, text):
    """Here and for kubectl, which reads what `opd render` prints: all of them are quoted."""
    quoted = json.dumps(text)
    job = load_job(
        minimal + f"  rollout: {{engines: {{args: [--x, {quoted}]}}}}\n  head: {{podTemplate: {{a: {quoted}}}}}\n"
    )
    dumped = dump_job(job)
    assert load_job(dumped) == job
    assert f"a: {text}\n" not in dumped


def test_dump_keeps_the_order_of_the_contract(minimal):
    text = dump_job(load_job(minimal))
    order = [
        "apiVersion",
        "student:",
        "maxTokensPerGPU",
        "replicas",
        "podTemplate",
        "rollout:",
        "teachers:",
        "scheduling:",
    ]
    assert [text.index(name) for name in order] == sorted(text.index(name) for name in order)


@pytest.mark.parametrize(
    ("written", "want"),
    [
        pytest.param("1e-6", 1e-6, id="no dot"),
        pytest.param("1.0e-6", 1e-6, id="dot and exponent"),
        pytest.param("1E-6", 1e-6, id="capital E"),
        pytest.param(".5", 0.5, id="no leading digit"),
        pytest.param("1", 1.0, id="whole number for a float"),
    ],
)
def test_number_is_read_as_kubectl_reads_it(minimal, written, want):
    assert load_job(minimal + f"  optimizer: {{lr: {written}}}\n").spec.optimizer.lr == want


def test_whole_float_is_an_integer_as_for_kubectl(minimal):
    assert load_job(minimal + "  seed: 7.0\n").spec.seed == 7


def test_null_is_as_good_as_absent_as_for_an_api_server(minimal):
    assert load_job(minimal + "  rollout: {batchSize: null}\n  evaluation:\n").spec.rollout.batch_size == 32


def test_pod_template_is_kept_as_it_is(minimal):
    template = "{spec: {tolerations: null, hostNetwork: true, nodeSelector: {a.b/c: '1'}}}"
    job = load_job(
        minimal + f"  head: {{podTemplate: {template}, resources: {{limits: {{nvidia.com/gpu: 1, cpu: 500m}}}}}}\n"
    )
    assert job.spec.head.pod_template["spec"] == {
        "tolerations": None,
        "hostNetwork": True,
        "nodeSelector": {"a.b/c": "1"},
    }
    assert job.spec.head.resources.limits == {"nvidia.com/gpu": 1, "cpu": "500m"}
    assert load_job(dump_job(job)) == job


def test_metadata_of_a_live_object_is_let_through(minimal):
    text = minimal.replace(
        "{name: qwen3-8b-opd}", "{name: a, uid: u-1, generation: 2, managedFields: [{manager: kubectl}]}"
    )
    assert load_job(text).metadata.uid == "u-1"


def test_status_of_a_live_object_is_read(minimal):
    job = load_job(
        minimal + "status: {phase: Training, progress: {step: 3, totalSteps: 9}, distillation: {reverseKLP95: 0.9}}"
    )
    assert job.status is not None
    assert job.status.distillation is not None
    assert job.status.distillation.reverse_kl_p95 == 0.9


DEEP = ("a" + 30 * "[0]")[:80] + "…"


@pytest.mark.parametrize(
    ("text", "want_path", "want_words"),
    [
        pytest.param("", "job.yaml", "is empty", id="nothing"),
        pytest.param("# only a comment\n---\n", "job.yaml", "is empty", id="comments only"),
        pytest.param("a: 1\n---\nb: 2\n", "job.yaml", "holds 2 documents", id="two documents"),
        pytest.param("- a\n- b\n", "job.yaml", "not fields and values", id="a list"),
        pytest.param("just words", "job.yaml", "not fields and values", id="a sentence"),
        pytest.param("a: [1\nb: 2", "job.yaml:2", "is not YAML", id="open bracket"),
        pytest.param("a: 1\nb: 2\na: 3\n", "job.yaml:3", "'a' is given twice", id="key given twice"),
        pytest.param("a: {x: 1, x: 2}", "job.yaml:1", "'x' is given twice", id="key given twice inside"),
        pytest.param("a: &a [*a]", DEEP, "contains itself", id="list that contains itself"),
        pytest.param("a: &a [*a, *a]", DEEP, "contains itself", id="list that contains itself twice"),
        pytest.param(f"a: {'[' * 101}{']' * 101}", DEEP, "at most 100 levels", id="a hundred levels and one"),
        pytest.param("a: 0x_", "job.yaml", "is not YAML", id="number without digits"),
        pytest.param("? [a]\n: 1", "job.yaml:1", "is not YAML", id="list as a key"),
        pytest.param("[" * 5000, "job.yaml", "nested too deep", id="five thousand brackets"),
        pytest.param("a: !!python/object:os.system {}", "job.yaml:1", "is not YAML", id="object of Python"),
        pytest.param("kind: OPDJob", "apiVersion", "write apiVersion: opd.dev/v1alpha1", id="no apiVersion"),
    ],
)
def test_text_that_is_no_job_is_refused(text, want_path, want_words):
    assert want_words in problems_of(text)[want_path]


def test_file_that_is_not_text_is_refused(tmp_path: Path):
    (tmp_path / "job.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidJob, match="not UTF-8"):
        load_job_file(tmp_path / "job.yaml")


@pytest.mark.parametrize("written", [".nan", ".inf", "-.inf", "1e999"])
def test_number_that_is_not_finite_is_refused_at_its_path(minimal, written):
    found = problems_of(minimal + f"  distillation: {{klCoef: {written}}}\n")
    assert list(found) == ["spec.distillation.klCoef"]
    assert "finite" in found["spec.distillation.klCoef"]


def test_date_is_text_and_bytes_are_refused(minimal):
    assert load_job(minimal + "  image: 2026-01-01\n").spec.image == "2026-01-01"
    assert "JSON has no word" in problems_of(minimal + "  image: !!binary aGk=\n")["spec.image"]


def test_a_quantity_ends_with_its_line(minimal):
    """Python's `$` lets a line's end through, Go's does not."""
    assert "quantity" in problems_of(minimal + '  head: {resources: {limits: {memory: "4Gi\\n"}}}\n').popitem()[1]


def test_another_kind_is_named_once_and_nothing_else_is_judged():
    found = problems_of("apiVersion: apps/v1\nkind: Deployment\nspec: {replicas: 3}\n")
    assert list(found) == ["apiVersion", "kind"]
    assert "'Deployment' is not OPDJob" in found["kind"]


def test_all_problems_of_schema_and_rules_come_at_once(make_document):
    document = make_document(
        "{steps: null, student: {model: x}, rollout: {temperature: 0.7, batchSize: '8'}, evaluation: {everySteps: 5}}"
    )
    with pytest.raises(InvalidJob) as refusal:
        job_from_document(document)
    assert {problem.path for problem in refusal.value.problems} == {
        "spec.steps",
        "spec.student.model",
        "spec.rollout.batchSize",
        "spec.rollout.temperature",
        "spec.evaluation.prompts",
    }
    assert str(refusal.value).count("hint: ") >= 4


@pytest.mark.parametrize(
    ("changes", "want_paths"),
    [
        pytest.param("reward: {type: Remot, url: 'http://h/'}", {"spec.reward.type"}, id="misspelt value"),
        pytest.param("reward: {typ: Remote, url: 'http://h/'}", {"spec.reward.typ"}, id="misspelt field"),
        pytest.param("teachers: [{mode: SGLang, modell: hf://a/b}]", {"spec.teachers[0].modell"}, id="misspelt model"),
        pytest.param("{teachers: null, rollout: {topK: 5}}", {"spec.teachers"}, id="missing teachers"),
    ],
)
def test_rule_about_a_field_nobody_could_read_is_not_asked(make_document, changes, want_paths):
    with pytest.raises(InvalidJob) as refusal:
        job_from_document(make_document(changes))
    assert {problem.path for problem in refusal.value.problems} == want_paths


def test_job_that_is_all_wrong_still_gets_an_answer(make_document):
    with pytest.raises(InvalidJob) as refusal:
        job_from_document({"apiVersion": "opd.dev/v1alpha1", "kind": "OPDJob", "metadata": 3, "spec": []})
    assert {problem.path for problem in refusal.value.problems} == {"metadata", "spec"}


@pytest.mark.parametrize(
    ("assignment", "path", "want"),
    [
        pytest.param("spec.optimizer.lr=1e-3", ("optimizer", "lr"), 1e-3, id="with spec"),
        pytest.param("steps=20", ("steps",), 20, id="without spec"),
        pytest.param("teachers[0].mode=Megatron", ("teachers", 0, "mode"), "Megatron", id="index in brackets"),
        pytest.param("teachers.0.klCoef=0.5", ("teachers", 0, "klCoef"), 0.5, id="index behind a dot"),
        pytest.param("rollout.engines.args=[--a, --b]", ("rollout", "engines", "args"), ["--a", "--b"], id="list"),
        pytest.param("reward.url=http://h/?a=b", ("reward", "url"), "http://h/?a=b", id="value with an equals sign"),
    ],
)
def test_set_path_sets(make_document, assignment, path, want):
    document = make_document("")
    set_path(document, assignment)
    value = document["spec"]
    for key in path:
        value = value[key]
    assert value == want


@pytest.mark.parametrize(
    ("assignment", "want_words"),
    [
        pytest.param("optimizr.lr=1", "did you mean optimizer?", id="misspelt group"),
        pytest.param("optimizer.learning=1", "known here: lr, schedule", id="unknown field"),
        pytest.param("teachers[1].mode=SGLang", "the list has 1 entries", id="index past the end"),
        pytest.param("teachers.mode=SGLang", "the list has 1 entries", id="list without an index"),
        pytest.param("steps.x=1", "has no fields", id="field below a number"),
        pytest.param("steps", "is not PATH=VALUE", id="no value"),
        pytest.param("=3", "is not PATH=VALUE", id="no path"),
        pytest.param("steps=[", "is not YAML", id="value that is not YAML"),
    ],
)
def test_set_path_refuses(make_document, assignment, want_words):
    document = make_document("")
    with pytest.raises(InvalidJob) as refusal:
        set_path(document, assignment)
    assert want_words in str(refusal.value)


def test_set_path_leaves_an_alias_of_the_same_node_as_it_is():
    """The held-out prompts must not become those that train."""
    text = "spec:\n  data: {prompts: &p [{uri: 'file:///train'}]}\n  evaluation: {prompts: *p}\n"
    document = read_document(text)
    set_path(document, "evaluation.prompts[0].uri=file:///held-out")
    assert document["spec"]["data"]["prompts"] == [{"uri": "file:///train"}]
    assert document["spec"]["evaluation"]["prompts"] == [{"uri": "file:///held-out"}]
