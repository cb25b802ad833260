"""Hugging Face folder -> Megatron -> Hugging Face folder."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from opd_api.spec import Optimizer
from opd_runtime.errors import UserError

LENGTHS = [(1, 9), (4, 13), (3, 7), (2, 5)]


@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        pytest.param("qwen3", {}, id="Qwen3, tied"),
        pytest.param("llama", {"head_dim": 24, "num_key_value_heads": 2}, id="Llama, untied, wide heads"),
        pytest.param("qwen3", {"tie_word_embeddings": False, "num_key_value_heads": 4}, id="Qwen3, untied"),
        pytest.param("llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}, id="Llama, tied"),
    ],
)
def test_there_and_back_gives_the_same_bits(family, changes, tensor, tiny_model, make_config, ranks, tmp_path):
    student = tiny_model(family, **changes)
    ranks.train(export, make_config(student, tensor=tensor), tmp_path / "export")
    want, got = (load_file(folder / "model.safetensors") for folder in (student, tmp_path / "export"))
    assert got.keys() == want.keys()
    assert all(bool((got[name] == want[name]).all()) for name in want)
    assert (tmp_path / "export/config.json").read_bytes() == (student / "config.json").read_bytes()


@pytest.mark.parametrize(
    ("family", "layout"),
    [
        pytest.param("qwen3", {}, id="Qwen3, tied, one process"),
        pytest.param("llama", {"tensor": 2}, id="Llama, untied, TP2"),
        pytest.param("qwen3", {"data": 2}, id="Qwen3, tied, DP2", marks=pytest.mark.full),
    ],
)
def test_a_trained_and_exported_student_scores_in_transformers_as_in_the_trainer(
    family, layout, tiny_model, make_config, make_batch, hf_logprobs, ranks, tmp_path
):
    student, batch = tiny_model(family), make_batch(LENGTHS)
    cfg = make_config(student, optimizer=Optimizer(lr=1e-2), **layout)
    trained = ranks.train(train_and_export, cfg, batch, tmp_path / "export")
    assert np.abs(trained - hf_logprobs(student, batch)).max() > 0.1
    np.testing.assert_allclose(trained, hf_logprobs(tmp_path / "export", batch), atol=1e-5, rtol=0)


def test_export_replaces_a_folder_only_when_it_is_complete(tiny_model, make_config, ranks, tmp_path):
    (tmp_path / "export.part").mkdir()
    (tmp_path / "export.part/model.safetensors").write_text("of a process that died")
    (tmp_path / "export").mkdir()
    (tmp_path / "export/old").write_text("")
    ranks.train(export, make_config(tiny_model()), tmp_path / "export")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export"]
    assert not (tmp_path / "export/old").exists()


def test_a_model_larger_than_a_shard_is_written_with_an_index(
    tiny_model, make_config, make_batch, hf_logprobs, ranks, tmp_path
):
    student, batch = tiny_model("llama"), make_batch(LENGTHS)
    ranks.train(export_in_shards, make_config(student), tmp_path / "export")
    index = json.loads((tmp_path / "export/model.safetensors.index.json").read_text())
    files = {path.name for path in (tmp_path / "export").glob("*.safetensors")}
    assert set(index["weight_map"].values()) == files
    assert len(files) > 2
    np.testing.assert_array_equal(hf_logprobs(tmp_path / "export", batch), hf_logprobs(student, batch))


def test_weights_that_are_not_of_the_config_are_refused(tiny_model, make_config, ranks, tmp_path):
    student = tiny_model("llama")
    config = json.loads((student / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    save_file(load_file(student / "model.safetensors"), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"gate_proj.*config\.json"):
        ranks.train(export, make_config(tmp_path), tmp_path / "export")


def test_weights_with_a_tensor_missing_are_refused(tiny_model, make_config, ranks, tmp_path):
    student = tiny_model("llama")
    weights = load_file(student / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    (tmp_path / "config.json").write_bytes((student / "config.json").read_bytes())
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        ranks.train(export, make_config(tmp_path), tmp_path / "export")


def export(trainer, folder):
    trainer.export_hf(folder)


def export_in_shards(trainer, folder):
    from opd_runtime.megatron import convert

    whole, convert.SHARD_BYTES = convert.SHARD_BYTES, 64 * 1024
    trainer.export_hf(folder)
    convert.SHARD_BYTES = whole


def train_and_export(trainer, batch, folder):
    for step in range(3):
        trainer.train_step(batch, step)
    trainer.export_hf(folder)
    return trainer.logprobs(batch)
