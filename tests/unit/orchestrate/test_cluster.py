"""What comes before an attempt in a cluster: whose turn it is, where things lie, what each node fetches for itself."""

import fcntl
import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from api_server import api_server

from opd_api.documents import ErrorReport, Progress
from opd_api.errors import InvalidJob
from opd_api.load import dump_job, job_from_document
from opd_api.names import PROGRESS_KEY
from opd_api.spec import OPDJob
from opd_runtime.errors import AttemptLost
from opd_runtime.orchestrate import cluster
from opd_runtime.orchestrate.cluster import _kept, held, train_attempt
from opd_runtime.orchestrate.loop import kl_coef
from opd_runtime.orchestrate.record import RunState
from opd_runtime.orchestrate.resolve import Places, resolve
from opd_runtime.report.mailbox import Mailbox
from opd_runtime.sources import fetch_here

MODELS = Path(__file__).parents[3] / "examples" / "arithmetic" / "models"
PROMPTS = MODELS.parent / "prompts" / "train.jsonl"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def make_job(**spec) -> OPDJob:
    return job_from_document(
        {
            "apiVersion": "opd.dev/v1alpha1",
            "kind": "OPDJob",
            "metadata": {"name": "tiny", "namespace": "ml", "uid": "0f5c9a57"},
            "spec": {
                "device": "CPU",
                "student": {"model": f"file://{MODELS}/student"},
                "teachers": [{"mode": "SGLang", "model": "hf://org/huge-teacher"}],
                "data": {"prompts": [{"uri": f"file://{PROMPTS}"}]},
                "rollout": {"maxPromptTokens": 8, "maxResponseTokens": 5},
                "steps": 3,
            }
            | spec,
        }
    )


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(run_dir=tmp_path / "run", volumes={}, cache_dir=tmp_path / "cache", in_cluster=True)


@pytest.fixture
def hub(monkeypatch):
    """A hub with the arithmetic models; `asked` are the repositories and revisions of each request."""
    asked: list[tuple[str, str | None]] = []

    def snapshot_download(repo, *, revision, cache_dir, allow_patterns):
        asked.append((repo, revision))
        folder = cache_dir / f"models--{repo.replace('/', '--')}" / "snapshots" / COMMIT
        files = [file for pattern in allow_patterns for file in (MODELS / repo.split("/")[1]).glob(pattern)]
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(file, folder)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


# ------------------------------------------------------------ where things lie
def test_a_deployed_teacher_is_found_by_its_service_and_never_fetched_by_the_head(places, hub):
    teacher = resolve(make_job(), places).teacher
    assert teacher.endpoint == "http://tiny-teacher.ml.svc:30000" and teacher.discovered
    assert teacher.model_path is None and hub == []


def test_an_endpoint_of_the_users_is_asked_as_it_is(places):
    teacher = {"mode": "SGLang", "sglang": {"endpoint": "http://elsewhere:8000"}}
    resolved = resolve(make_job(teachers=[teacher]), places).teacher
    assert resolved.endpoint == "http://elsewhere:8000" and not resolved.discovered


def test_the_head_leaves_weights_of_the_hub_to_the_nodes_that_load_them(places, hub):
    teacher = {"mode": "Megatron", "model": "hf://org/teacher"}
    cfg = resolve(make_job(student={"model": "hf://org/student@v1"}, teachers=[teacher]), places)
    assert hub == [("org/student", "v1"), ("org/teacher", None)]
    assert not list(places.cache_dir.rglob("*.safetensors"))
    assert [remote.uri for remote in cfg.remotes] == [f"hf://org/student@{COMMIT}", f"hf://org/teacher@{COMMIT}"]
    assert [remote.path for remote in cfg.remotes] == [cfg.student_path, cfg.teacher.model_path]


def test_a_node_fetches_the_same_commit_to_the_same_place_once(places, hub):
    [student] = resolve(make_job(student={"model": "hf://org/student"}), places).remotes
    shutil.rmtree(places.cache_dir)  # as on another node
    for _ in range(2):
        fetch_here(student.uri, student.path, student.cache_dir)
    assert (student.path / "model.safetensors").is_file()
    assert {revision for _, revision in hub[1:]} == {COMMIT}
    asked = len(hub)
    fetch_here(student.uri, student.path, student.cache_dir)
    assert len(hub) == asked


def test_what_pods_must_share_is_refused_before_anything_is_looked_for(places):
    job = make_job(student={"model": f"file://{MODELS}/student", "trainers": {"replicas": 2}})
    with pytest.raises(InvalidJob, match=r"spec\.checkpoint\.claimName: is empty"):
        resolve(job, places)


# ------------------------------------------------------------ what a teacher says of itself
@pytest.mark.parametrize(
    ("own", "want"), [pytest.param({}, 2.0, id="none"), ({"klCoef": 0.5}, 0.5), ({"klCoef": 0}, 0.0)]
)
def test_a_teachers_own_coefficient_is_used_instead_of_the_jobs(places, own, want):
    teacher = {"mode": "SGLang", "model": "hf://org/huge-teacher", **own}
    job = make_job(teachers=[teacher], distillation={"klCoef": 2.0}, reward={"type": "Math"})
    cfg = resolve(job, places)
    assert kl_coef(cfg, RunState(kl_coef=9.0), 0) == want


@pytest.mark.parametrize(
    ("common", "own", "fits"), [(1.0, 0.0, False), (0.0, None, False), (0.0, 1.0, True), (1.0, None, True)]
)
def test_target_kl_steers_the_coefficient_in_use(common, own, fits):
    distillation = {"klCoef": common, "klCoefSchedule": {"type": "TargetKL", "targetKL": 0.1}}
    teacher = {"mode": "SGLang", "model": "hf://org/huge-teacher"} | ({} if own is None else {"klCoef": own})
    spec = {"distillation": distillation, "teachers": [teacher], "reward": {"type": "Math"}}
    if fits:
        make_job(**spec)
    else:
        with pytest.raises(InvalidJob, match=r"spec\.distillation\.klCoef: 0 cannot be steered"):
            make_job(**spec)


# ------------------------------------------------------------ whose turn it is
def test_a_folder_is_one_drivers_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "LOCK_TIMEOUT_SECONDS", 0.0)
    with held(tmp_path / "run"), pytest.raises(AttemptLost, match="another driver"), held(tmp_path / "run"):
        pass
    with held(tmp_path / "run"):
        pass


def test_storage_without_locks_holds_nobody_up(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with held(tmp_path / "run"):
        pass


def report(attempt: int, phase: str, **more) -> str:
    progress = Progress(attempt=attempt, phase=phase, step=3, total_steps=3, time="2026-01-02T03:04:05Z", **more)
    return progress.model_dump_json()


@pytest.fixture
def api(tmp_path):
    with api_server(tmp_path, "ml", "tiny") as api:
        yield api


@pytest.fixture
def mailbox(api):
    box = Mailbox(api.url, attempt=2, service_account=api.service_account, interval_seconds=0)
    yield box
    box.close()


@pytest.mark.parametrize(("phase", "want"), [("Succeeded", True), ("Stopped", False)])
def test_an_attempt_that_has_ended_is_not_begun_again(mailbox, api, places, phase, want):
    """As when a head comes back and its job is submitted once more."""
    api.data[PROGRESS_KEY] = report(2, phase)
    assert train_attempt(make_job(), Path("unread"), places, attempt=2, mailbox=mailbox) is want
    assert api.documents == [] and not places.run_dir.exists()


@pytest.mark.parametrize(
    ("left", "words"),
    [
        pytest.param(
            report(2, "Failed", error=ErrorReport(actor="User", reason="UserError", message="no such file")),
            "attempt 2 has failed before: no such file",
            id="it has failed",
        ),
        pytest.param(report(2, "Training"), "attempt 2 was begun by another driver, at step 3", id="it has begun"),
        pytest.param(report(3, "Starting"), "attempt 3 of this job has begun", id="a later one has begun"),
    ],
)
def test_a_driver_whose_turn_is_over_ends_without_a_word(mailbox, api, places, left, words):
    api.data[PROGRESS_KEY] = left
    with pytest.raises(AttemptLost, match=words):
        train_attempt(make_job(), Path("unread"), places, attempt=2, mailbox=mailbox)
    assert api.data[PROGRESS_KEY] == left


def test_a_stop_that_was_asked_for_before_the_start_is_obeyed(mailbox, api, places):
    api.ask_to_stop(attempt=2)
    with pytest.raises(BaseException) as ended:
        train_attempt(make_job(), Path("unread"), places, attempt=2, mailbox=mailbox)
    assert ended.typename == "CancelledError"
    assert [document.phase for document in api.documents][-1] == "Stopped"


def test_what_is_wrong_with_the_job_is_in_the_mailbox(mailbox, api, places):
    job = make_job(data={"prompts": [{"uri": "file:///nowhere/prompts.jsonl"}]})
    with pytest.raises(InvalidJob):
        train_attempt(job, Path("unread"), places, attempt=2, mailbox=mailbox)
    error = api.documents[-1].error
    assert (error.actor, error.path) == ("User", "spec.data.prompts[0].uri")
    assert json.loads(api.data[PROGRESS_KEY])["phase"] == "Failed"


def test_how_many_checkpoints_stay_is_read_anew(tmp_path):
    """The ConfigMap's file changes while the job trains; what cannot be read changes nothing."""
    job, file = make_job(checkpoint={"claimName": "runs", "keep": 2}), tmp_path / "opdjob.yaml"
    keep = _kept(file, job)
    assert keep() == 2
    file.write_text(dump_job(make_job(checkpoint={"claimName": "runs", "keep": 5})))
    assert keep() == 5
    file.write_text("of: a newer version")
    assert keep() == 5
