"""`opd convert` there and back in processes of its own, on real Megatron."""

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

DEADLINE_SECONDS = 120


def same_bits(left: Path, right: Path) -> bool:
    """Same tensors, names, types and bytes."""
    from safetensors.torch import load_file

    a, b = load_file(left / "model.safetensors"), load_file(right / "model.safetensors")
    return a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and a[name].equal(b[name]) for name in a)


@pytest.fixture(scope="module")
def converted(opd, make_model, tmp_path_factory) -> Callable[[str, str, bool], tuple[Path, Path]]:
    """A model of a kind and the Megatron checkpoint of it, made once."""

    @functools.cache
    def convert(family: str, dtype: str, tied: bool) -> tuple[Path, Path]:
        model, checkpoint = make_model(family, dtype=dtype, tied=tied), tmp_path_factory.mktemp("convert") / "megatron"
        done = opd("convert", model, checkpoint)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{checkpoint}: Megatron checkpoint, {dtype}\n"
        assert (checkpoint / "latest_checkpointed_iteration.txt").read_text() == "release"
        assert [each.name for each in checkpoint.parent.iterdir()] == ["megatron"]
        return model, checkpoint

    return convert


@pytest.mark.parametrize(
    ("family", "dtype", "tied"),
    [
        pytest.param("qwen3", "bfloat16", False, id="Qwen3 in BF16"),
        pytest.param("llama", "float32", True, id="Llama in FP32 with tied embeddings", marks=pytest.mark.full),
        pytest.param("qwen3", "float32", True, id="Qwen3 in FP32 with tied embeddings", marks=pytest.mark.full),
    ],
)
def test_there_and_back_gives_the_same_bits(opd, converted, tmp_path, family, dtype, tied):
    model, checkpoint = converted(family, dtype, tied)
    back = opd("convert", checkpoint, tmp_path / "back", "--model", model)
    assert (back.returncode, back.stderr) == (0, "")
    assert back.stdout == f"{tmp_path}/back: Hugging Face folder, {dtype}\n"
    assert same_bits(model, tmp_path / "back")
    assert json.loads((tmp_path / "back/config.json").read_text())["dtype"] == dtype
    assert (tmp_path / "back/tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    assert [each.name for each in tmp_path.iterdir()] == ["back"]


def test_a_checkpoint_of_another_model_is_refused_and_leaves_nothing(start_opd, ended, converted, make_model, tmp_path):
    """Another number of layers, and another number of rows of the embedding, which Megatron itself would let pass."""
    _, checkpoint = converted("qwen3", "bfloat16", False)
    wide = make_model()
    config = json.loads((wide / "config.json").read_text())
    (wide / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + 8}))
    refusals = {
        make_model(layers=3): "its weights do not fit the model",
        wide: "its vocabulary has 46 rows",
    }
    started = [start_opd("convert", checkpoint, tmp_path / like.name, "--model", like) for like in refusals]
    for process, want in zip(started, refusals.values(), strict=True):
        result = ended(process)
        assert result.returncode == 1
        assert want in result.stderr and "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_killed_in_the_middle_nothing_half_written_has_the_final_name(opd, start_opd, make_model, tmp_path):
    """On a busy machine the kill may come after the rename; what has the name is whole then."""
    model, final = make_model(), tmp_path / "megatron"
    process = start_opd("convert", model, final)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not any(tmp_path.iterdir()) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.kill()
    process.communicate()
    if not final.exists():
        assert [each.name for each in tmp_path.iterdir()] == ["megatron.part"]
        assert opd("convert", model, final).returncode == 0
    assert [each.name for each in tmp_path.iterdir()] == ["megatron"]
    assert (final / "latest_checkpointed_iteration.txt").read_text() == "release"


def test_a_destination_that_holds_something_is_never_touched(opd, make_model, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/mine").write_text("mine")
    result = opd("convert", make_model(), tmp_path / "there")
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {tmp_path}/there: is there already\nhint: ")
    assert [each.name for each in (tmp_path / "there").iterdir()] == ["mine"]


def test_a_model_whose_weights_are_cut_off_is_refused(opd, make_model, tmp_path):
    model = make_model()
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    result = opd("convert", model, tmp_path / "megatron")
    assert result.returncode == 1
    assert f"{file}: is cut off" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_from_megatron_the_model_to_take_config_and_tokenizer_from_is_asked_for(opd, tmp_path):
    (tmp_path / "megatron").mkdir()
    result = opd("convert", tmp_path / "megatron", tmp_path / "back")
    assert result.returncode == 2
    assert "add --model HF_DIR" in result.stderr
