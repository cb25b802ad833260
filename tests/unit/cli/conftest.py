"""`opd` as a user calls it, in this process: arguments in; exit code, output and errors out."""

import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from opd_runtime.cli import main

JOB = {
    "apiVersion": "opd.dev/v1alpha1",
    "kind": "OPDJob",
    "metadata": {"name": "tiny"},
    "spec": {
        "device": "CPU",
        "student": {"model": "pvc://models/student"},
        "teachers": [{"mode": "Megatron", "model": "pvc://models/teacher"}],
        "rollout": {"maxPromptTokens": 16, "maxResponseTokens": 16},
        "data": {"prompts": [{"uri": "pvc://models/prompts.jsonl"}]},
        "steps": 3,
    },
}
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "vocab_size": 16,
    "max_position_embeddings": 64,
    "dtype": "bfloat16",
}


@pytest.fixture
def opd(monkeypatch, capsys) -> Iterator[Callable[..., SimpleNamespace]]:
    """`opd("validate", file)` -> its code, out and err. What `main` says to Python's warnings and logs is undone."""

    def run(*arguments: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["opd", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code or 0, out=printed.out, err=printed.err)

    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        yield run
    logging.disable(disabled)


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(JOB))
    return file


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A claim's folder with student, teacher and prompts."""
    for name in ("student", "teacher"):
        make_model(tmp_path / "models" / name)
    (tmp_path / "models/prompts.jsonl").write_text('{"prompt": "1+1=", "label": "2"}\n')
    return tmp_path / "models"


def make_model(folder: Path, **changed: Any) -> None:
    """A folder that looks like a model: config, tokenizer, and a safetensors file with one tensor of two numbers."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changed))
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="b").save_pretrained(folder)
