"""Where URIs lead, and what a user reads when they lead nowhere. Hub and S3 are stand-ins here."""

import errno
import json
import re
from pathlib import Path
from types import SimpleNamespace

import datasets
import httpx
import huggingface_hub
import pytest
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from opd_runtime import remote
from opd_runtime.errors import SourceUnavailable, UserError
from opd_runtime.rollout.records import load_hub_table
from opd_runtime.sources import TRACKER_FILE, hub_parameter_count, resolve_checkpoint, resolve_model, resolve_prompts
from opd_runtime.uri import Scheme, Uri, parse_uri, uri_of


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("hf://Qwen/Qwen3-8B", Uri(text="hf://Qwen/Qwen3-8B", scheme=Scheme.HF_MODEL, place="Qwen/Qwen3-8B")),
        ("hf://o/n@v1.0", Uri(text="hf://o/n@v1.0", scheme=Scheme.HF_MODEL, place="o/n", revision="v1.0")),
        (
            "hf://o/n@refs/pr/1",
            Uri(text="hf://o/n@refs/pr/1", scheme=Scheme.HF_MODEL, place="o/n", revision="refs/pr/1"),
        ),
        ("hf://datasets/o/n", Uri(text="hf://datasets/o/n", scheme=Scheme.HF_DATASET, place="o/n")),
        (
            "hf://datasets/o/n@main#test[:10]",
            Uri(
                text="hf://datasets/o/n@main#test[:10]",
                scheme=Scheme.HF_DATASET,
                place="o/n",
                revision="main",
                split="test[:10]",
            ),
        ),
        ("s3://bucket/a/b/", Uri(text="s3://bucket/a/b/", scheme=Scheme.S3, place="bucket", path="a/b")),
        ("pvc://models/qwen", Uri(text="pvc://models/qwen", scheme=Scheme.PVC, place="models", path="qwen")),
        ("pvc://models", Uri(text="pvc://models", scheme=Scheme.PVC, place="models")),
        ("file:///data/x y", Uri(text="file:///data/x y", scheme=Scheme.FILE, place="", path="/data/x y")),
    ],
)
def test_a_uri_of_the_contract_is_parsed(text, want):
    assert parse_uri(text) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        pytest.param("hf://only-a-name", "does not name a repository", id="no organisation"),
        pytest.param("hf://o/n#train", "does not name a repository", id="a split of a model"),
        pytest.param("pvc:///path", "is not a URI", id="no claim"),
        pytest.param("file:///a/%2e%2e/b", "`..` in", id="up and out, in other letters"),
        pytest.param("s3://", "is not a URI", id="no bucket"),
        pytest.param("file://data/x", "is a relative path", id="relative file"),
        pytest.param("/data/x", "is not a URI", id="bare path"),
        pytest.param("gs://b/x", "is not a URI", id="unknown scheme"),
        pytest.param("pvc://models/../../etc", "`..`", id="out of the claim"),
        pytest.param("pvc://../etc", "`..`", id="a claim that is the parent"),
        pytest.param("s3://b/../c", "`..`", id="out of the bucket"),
    ],
)
def test_any_other_form_is_refused_with_a_hint(text, want):
    with pytest.raises(UserError, match=re.escape(want) + r"[\s\S]*\nhint: "):
        parse_uri(text)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "claim" / "tiny"
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")
    return folder


def test_a_claim_is_what_the_volume_option_says(model, tmp_path):
    assert resolve_model("pvc://models/tiny", {"models": tmp_path / "claim"}, tmp_path) == model


def test_a_claim_without_an_option_is_below_runs_volumes(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/volumes").mkdir(parents=True)
    (tmp_path / "claim").rename(tmp_path / "runs/volumes/models")
    assert resolve_model("pvc://models/tiny", {}, tmp_path) == tmp_path / "runs/volumes/models/tiny"


def test_a_missing_claim_says_where_it_was_looked_for_and_which_option_helps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        resolve_model("pvc://models/tiny", {}, tmp_path)
    assert f"{tmp_path}/runs/volumes/models/tiny does not exist" in error.value.message
    assert "--volume models=DIR" in error.value.hint


def test_claims_of_a_pod_are_folders_of_their_own_root(model, tmp_path, monkeypatch):
    (tmp_path / "volumes").mkdir()
    (tmp_path / "claim").rename(tmp_path / "volumes/models")
    monkeypatch.setenv("OPD_VOLUMES", str(tmp_path / "volumes"))
    found = resolve_model("pvc://models/tiny", {}, tmp_path)
    assert found == tmp_path / "volumes/models/tiny"
    assert uri_of(found) == "pvc://models/tiny"
    assert uri_of(tmp_path / "elsewhere") == f"file://{tmp_path}/elsewhere"
    blank = tmp_path / "jürgen's own"
    assert parse_uri(uri_of(blank)).path == str(blank)
    with pytest.raises(UserError) as error:
        resolve_model("pvc://models/gone", {}, tmp_path)
    assert error.value.hint == "put it on the claim models, or correct the path"


def test_without_weights_those_of_a_claim_must_be_there_all_the_same(model, tmp_path):
    (model / "model.safetensors").unlink()
    with pytest.raises(UserError, match="lacks weights"):
        resolve_model(f"file://{model}", {}, tmp_path, weights=False)


@pytest.mark.parametrize(
    ("removed", "want"),
    [
        ("config.json", "lacks config.json"),
        ("tokenizer.json", "lacks a tokenizer (tokenizer.json)"),
        ("model.safetensors", "lacks weights (*.safetensors)"),
    ],
)
def test_an_incomplete_model_is_refused_by_what_it_lacks(model, tmp_path, removed, want):
    (model / removed).unlink()
    with pytest.raises(UserError, match=re.escape(want)):
        resolve_model(f"file://{model}", {}, tmp_path)


def test_a_sharded_model_without_one_of_its_shards_names_it(model, tmp_path):
    shards = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(shards))
    (model / "model-1-of-2.safetensors").write_text("")
    with pytest.raises(UserError, match=r"lacks model-2-of-2.safetensors"):
        resolve_model(f"file://{model}", {}, tmp_path)


@pytest.mark.parametrize("content", ["not json", "[]", '{"weight_map": 1}'])
def test_an_index_that_is_none_is_named(model, tmp_path, content):
    (model / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UserError, match=r"index.json: is no index of safetensors\nhint: "):
        resolve_model(f"file://{model}", {}, tmp_path)


def make_checkpoint(root: Path, tracker: str | None, *iterations: str) -> str:
    for name in ("", *iterations):
        (root / name).mkdir(exist_ok=True, parents=True)
    if tracker is not None:
        (root / TRACKER_FILE).write_text(tracker)
    return f"file://{root}"


@pytest.mark.parametrize(("tracker", "folder"), [("4\n", "iter_0000004"), ("release", "release")])
def test_a_checkpoint_with_its_tracker_is_found(tmp_path, tracker, folder):
    uri = make_checkpoint(tmp_path / "ckpt", tracker, folder)
    assert resolve_checkpoint(uri, {}, tmp_path) == tmp_path / "ckpt"


@pytest.mark.parametrize(
    ("tracker", "want"),
    [
        pytest.param(None, "it has no tracker file", id="no tracker"),
        pytest.param("5", "names iter_0000005, which is not there", id="iteration gone"),
        pytest.param("five", "neither an iteration nor `release`", id="garbage in the tracker"),
    ],
)
def test_a_checkpoint_that_is_none_is_refused_and_never_guessed(tmp_path, tracker, want):
    with pytest.raises(UserError, match=want):
        resolve_checkpoint(make_checkpoint(tmp_path / "ckpt", tracker, "iter_0000004"), {}, tmp_path)


def test_a_step_that_was_not_saved_is_refused(tmp_path):
    uri = make_checkpoint(tmp_path / "ckpt", "8", "iter_0000004", "iter_0000008")
    assert resolve_checkpoint(uri, {}, tmp_path, step=4) == tmp_path / "ckpt"
    with pytest.raises(UserError, match="has no iter_0000006; it has iter_0000004, iter_0000008"):
        resolve_checkpoint(uri, {}, tmp_path, step=6)


def test_a_hugging_face_folder_counts_as_a_checkpoint(model, tmp_path):
    assert resolve_checkpoint(f"file://{model}", {}, tmp_path) == model


def test_prompts_of_the_hub_stay_a_uri_and_files_become_paths(tmp_path):
    (tmp_path / "p.jsonl").write_text("{}")
    assert resolve_prompts("hf://datasets/o/n#test", {}, tmp_path) == "hf://datasets/o/n#test"
    assert resolve_prompts(f"file://{tmp_path}/p.jsonl", {}, tmp_path) == str(tmp_path / "p.jsonl")


def test_models_and_data_sets_of_the_hub_are_not_mixed_up(tmp_path):
    with pytest.raises(UserError, match="names a model, not prompts"):
        resolve_prompts("hf://o/n", {}, tmp_path)
    with pytest.raises(UserError, match="names a data set, not a model"):
        resolve_model("hf://datasets/o/n", {}, tmp_path)


def test_a_hub_model_is_fetched_at_its_revision_into_the_cache(model, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda repo, **kw: asked.update(repo=repo, **kw) or str(model)
    )
    assert resolve_model("hf://o/n@v1", {}, tmp_path) == model
    assert (asked["repo"], asked["revision"], asked["cache_dir"]) == ("o/n", "v1", tmp_path / "hub")


def test_without_weights_a_hub_model_is_config_and_tokenizer(model, tmp_path, monkeypatch):
    asked = {}
    (model / "model.safetensors").unlink()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **kw: asked.update(kw) or str(model))
    assert resolve_model("hf://o/n", {}, tmp_path, weights=False) == model
    assert "*.safetensors" not in asked["allow_patterns"]
    with pytest.raises(UserError, match="lacks weights"):
        resolve_model("hf://o/n", {}, tmp_path)
    assert "*.safetensors" in asked["allow_patterns"]


def test_parameters_of_a_hub_model_are_counted_there(monkeypatch):
    metadata = SimpleNamespace(parameter_count={"BF16": 7, "F32": 2})
    monkeypatch.setattr(huggingface_hub, "get_safetensors_metadata", lambda repo, **_: metadata)
    assert hub_parameter_count("hf://o/n") == 9
    assert hub_parameter_count("file:///o/n") is None


def test_a_hub_out_of_reach_is_one_clear_error(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise LocalEntryNotFoundError("cannot find the requested files in the local cache\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(
        SourceUnavailable,
        match=r"hf://o/n: could not be fetched from the hub \(cannot find .*cache\)\nhint: check the network",
    ):
        resolve_model("hf://o/n", {}, tmp_path)


def refusal(status: int) -> HfHubHTTPError:
    response = httpx.Response(status, request=httpx.Request("GET", "https://hub"))
    return HfHubHTTPError(f"{status}", response=response)


@pytest.mark.parametrize(
    ("raised", "want", "words"),
    [
        pytest.param(refusal(401), UserError, "refuses the token", id="a wrong token is the user's"),
        pytest.param(refusal(503), SourceUnavailable, "could not be fetched", id="a broken hub is nobody's"),
        pytest.param(refusal(429), SourceUnavailable, "could not be fetched", id="too many requests: later"),
        pytest.param(OSError(errno.ENOSPC, "full"), UserError, "no space left", id="a full cache is the user's"),
        pytest.param(httpx.ConnectError("refused"), SourceUnavailable, "could not be fetched", id="no network"),
    ],
)
def test_the_error_of_a_hub_says_whether_another_try_may_help(tmp_path, monkeypatch, raised, want, words):
    def failing(*_, **__):
        raise raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", failing)
    with pytest.raises(want, match=words):
        resolve_model("hf://o/n", {}, tmp_path)


def because(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("raised", "want", "words"),
    [
        pytest.param(ConnectionError("Couldn't reach"), SourceUnavailable, "Couldn't reach", id="no network"),
        pytest.param(
            because(FileNotFoundError("no data file"), refusal(503)), SourceUnavailable, "no data file", id="broken hub"
        ),
        pytest.param(refusal(429), SourceUnavailable, "429", id="too many requests"),
        pytest.param(httpx.RemoteProtocolError(""), SourceUnavailable, "RemoteProtocolError", id="no words"),
        pytest.param(DatasetNotFoundError("doesn't exist"), UserError, "doesn't exist", id="no such data set"),
        pytest.param(ValueError('Unknown split "tset"'), UserError, "Unknown split", id="no such split"),
        pytest.param(refusal(403), UserError, "403", id="a wrong token"),
        pytest.param(
            because(DatasetGenerationError("failed"), OSError(errno.ENOSPC, "full")), UserError, "no space", id="full"
        ),
    ],
)
def test_the_error_of_a_data_set_says_whether_another_try_may_help(monkeypatch, raised, want, words):
    def failing(*_, **__):
        raise raised

    monkeypatch.setattr(datasets, "load_dataset", failing)
    with pytest.raises(want, match=words):
        load_hub_table("hf://datasets/o/n")


@pytest.mark.parametrize(
    ("words", "want"),
    [
        pytest.param("AWS Error NETWORK_CONNECTION during HeadObject: curlCode: 6", SourceUnavailable, id="no network"),
        pytest.param("AWS Error UNKNOWN (HTTP status 503)", SourceUnavailable, id="a bucket out of order"),
        pytest.param("AWS Error ACCESS_DENIED during GetObject", UserError, id="keys without the right"),
        pytest.param("AWS Error NO_SUCH_BUCKET during HeadBucket", UserError, id="no such bucket"),
    ],
)
def test_the_error_of_a_bucket_says_whether_another_try_may_help(tmp_path, monkeypatch, words, want):
    def failing():
        raise OSError(words)

    monkeypatch.setattr(remote, "s3_filesystem", failing)
    with pytest.raises(want, match="could not be fetched"):
        resolve_model("s3://bucket/tiny", {}, tmp_path)


@pytest.fixture
def bucket(tmp_path, monkeypatch) -> Path:
    from pyarrow import fs

    root = tmp_path / "s3"
    (root / "bucket").mkdir(parents=True)
    monkeypatch.setattr(remote, "s3_filesystem", lambda: fs.SubTreeFileSystem(str(root), fs.LocalFileSystem()))
    return root / "bucket"


def test_a_prefix_is_copied_once_into_the_cache(bucket, model, tmp_path):
    model.rename(bucket / "tiny")
    folder = resolve_model("s3://bucket/tiny", {}, tmp_path / "cache")
    assert folder.name == "tiny" and folder.is_relative_to(tmp_path / "cache/s3/bucket")
    (bucket / "tiny/config.json").unlink()
    assert resolve_model("s3://bucket/tiny", {}, tmp_path / "cache") == folder


def test_a_single_object_of_prompts_is_a_file(bucket, tmp_path):
    (bucket / "p.jsonl").write_text("{}")
    assert Path(resolve_prompts("s3://bucket/p.jsonl", {}, tmp_path / "cache")).read_text() == "{}"


def test_a_fetched_object_is_no_copy_of_the_prefix_it_lies_in(bucket, tmp_path):
    (bucket / "math").mkdir()
    for name in ("train", "test"):
        (bucket / "math" / f"{name}.jsonl").write_text("{}")
    resolve_prompts("s3://bucket/math/test.jsonl", {}, tmp_path / "cache")
    folder = Path(resolve_prompts("s3://bucket/math", {}, tmp_path / "cache"))
    assert sorted(file.name for file in folder.iterdir()) == ["test.jsonl", "train.jsonl"]


def test_an_empty_prefix_leaves_nothing_in_the_cache(bucket, tmp_path):
    with pytest.raises(UserError, match="nothing there"):
        resolve_prompts("s3://bucket/gone", {}, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
