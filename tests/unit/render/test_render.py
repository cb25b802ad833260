"""`opd render` as a user runs it: YAML that is a job again, and a memory table that stays a comment."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from opd_api.errors import InvalidJob
from opd_api.load import load_job
from opd_runtime.cli.render import render

app = typer.Typer()
app.command()(render)

JOB = """
apiVersion: opd.dev/v1alpha1
kind: OPDJob
metadata: {name: tiny}
spec:
  device: %s
  student: {model: "pvc://models/student"}
  teachers: [{mode: Megatron, model: "pvc://models/teacher"}]
  data: {prompts: [{uri: "file:///prompts.jsonl"}]}
  steps: 3
"""
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "vocab_size": 16,
    "max_position_embeddings": 512,
    "model_type": "qwen3",
}


@pytest.fixture
def job_file(tmp_path):
    def write(device: str = "CUDA") -> str:
        (tmp_path / "job.yaml").write_text(JOB % device)
        return str(tmp_path / "job.yaml")

    return write


@pytest.fixture
def volume(tmp_path) -> str:
    for name in ("student", "teacher"):
        make_model_folder(tmp_path / "models" / name)
    return f"models={tmp_path / 'models'}"


def make_model_folder(folder: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="b").save_pretrained(folder)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_output_is_the_same_job_with_everything_filled_in(job_file):
    output = run(job_file(), "--set", "optimizer.lr=1.0e-3")
    assert load_job(output).spec.optimizer.lr == 1e-3
    assert load_job(output).spec == load_job(JOB % "CUDA").spec.model_copy(
        update={"optimizer": load_job(output).spec.optimizer}
    )
    assert "maxTokensPerGPU: 16384" in output
    assert "#" not in output


def test_memory_table_is_a_comment_behind_an_unchanged_document(job_file, volume):
    plain = run(job_file())
    output = run(job_file(), "--models", "--volume", volume, "--gpu-gib", "80")
    table = output.removeprefix(plain)
    assert len(table) < len(output)
    assert all(line.startswith("#") for line in table.splitlines())
    assert "one trainer rank" in table
    assert "teacher, while it scores" in table
    assert "KV cache 0 KiB a token, room for" in table
    assert load_job(output) == load_job(plain)


def test_on_cpu_the_table_has_host_memory_only(job_file, volume):
    table = run(job_file("CPU"), "--models", "--volume", volume).split("# memory estimate")[1]
    assert "one engine " in table
    assert "one engine GPU" not in table


def test_models_that_cannot_be_read_are_all_named(job_file, tmp_path):
    with pytest.raises(InvalidJob) as error:
        run(job_file(), "--models", "--volume", f"models={tmp_path}/nowhere")
    assert [problem.path for problem in error.value.problems] == ["spec.student.model", "spec.teachers[0].model"]
