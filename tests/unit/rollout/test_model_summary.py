"""What a model's folder says about itself, from files written by hand: no model is ever built."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from opd_runtime.errors import UserError
from opd_runtime.model_summary import (
    TOKENIZER_PROBES,
    parameter_count,
    summarize,
    tokenizer_fingerprint,
    weights_digest,
)
from opd_runtime.rollout.tokenizer import load_tokenizer

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 48,
    "max_position_embeddings": 512,
}


def write_tensors(file: Path, **tensors: bytes) -> None:
    """One row of 16-bit numbers each, in safetensors format."""
    header, offset = {}, 0
    for name, data in tensors.items():
        header[name] = {"dtype": "BF16", "shape": [1, len(data) // 2], "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(tensors.values()))


@pytest.fixture
def folder(make_tokenizer_folder: Callable[..., Path], tmp_path: Path) -> Path:
    folder = make_tokenizer_folder().rename(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps(CONFIG | {"dtype": "bfloat16", "eos_token_id": [1, 5]}))
    write_tensors(folder / "model.safetensors", a=b"0123" * 4000, b=b"01")
    return folder


def test_summary_says_shapes_size_and_what_ends_a_text(folder):
    summary = summarize(folder)
    assert (summary.architecture, summary.num_layers, summary.vocab_size) == ("Qwen3ForCausalLM", 2, 48)
    assert (summary.num_kv_heads, summary.head_dim, summary.tie_word_embeddings) == (4, 16, False)
    assert (summary.dtype, summary.parameter_count, summary.eos_token_ids) == ("bfloat16", 8001, (1, 5))


@pytest.mark.parametrize(
    ("config", "want"),
    [
        pytest.param("{", "cannot be read", id="not JSON"),
        pytest.param("[]", "is no JSON object", id="a list"),
        pytest.param(json.dumps(CONFIG | {"vocab_size": 0}), "says nothing of vocab_size", id="zero"),
        pytest.param("{}", "says nothing of hidden_size, num_hidden_layers", id="another kind of model"),
    ],
)
def test_a_config_of_no_decoder_is_refused(folder, config, want):
    (folder / "config.json").write_text(config)
    with pytest.raises(UserError, match=want):
        summarize(folder)


def test_digest_is_of_the_weights_and_not_of_how_they_are_split(folder, tmp_path):
    before = weights_digest(folder)
    (folder / "model.safetensors").unlink()
    write_tensors(folder / "model-1.safetensors", b=b"01")
    write_tensors(folder / "model-2.safetensors", a=b"0123" * 4000)
    assert weights_digest(folder) == before
    write_tensors(folder / "model-1.safetensors", b=b"02")
    assert weights_digest(folder) != before


def test_files_that_the_index_does_not_name_are_not_counted(folder):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"b": "x.safetensors"}}))
    write_tensors(folder / "x.safetensors", b=b"01")
    assert parameter_count(folder) == 1


@pytest.mark.parametrize("cut", [4, 40, -1])
def test_a_file_that_is_cut_off_is_found_wherever_it_ends(folder, cut):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(UserError, match="cut off"):
        parameter_count(folder)


def test_fingerprint_differs_with_one_more_token(make_tokenizer_folder):
    prints = [tokenizer_fingerprint(load_tokenizer(make_tokenizer_folder(extra=more))) for more in ("", "", "~")]
    assert prints[0] == prints[1] != prints[2]


def test_fingerprint_sees_another_split_of_the_same_vocabulary(folder):
    before = tokenizer_fingerprint(load_tokenizer(folder))
    document = json.loads((folder / "tokenizer.json").read_text())
    document["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    assert tokenizer_fingerprint(load_tokenizer(folder)) != before


def test_there_are_64_probes_and_no_two_are_the_same():
    assert len(TOKENIZER_PROBES) == len(set(TOKENIZER_PROBES)) == 64
