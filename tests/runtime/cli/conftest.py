"""`opd` as its own process, and tiny models of random weights with a tokenizer of single characters."""

import os
import string
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CHARACTERS = ["<pad>", "<eos>", *string.digits, *string.ascii_lowercase, *"+-*/=() "]


def opd_command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from opd_runtime.cli import main; main()", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def start_opd() -> Callable[..., subprocess.Popen]:
    def start(*arguments: object, **options) -> subprocess.Popen:
        return subprocess.Popen(
            opd_command(*arguments),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    return start


@pytest.fixture(scope="session")
def ended() -> Callable[[subprocess.Popen], subprocess.CompletedProcess]:
    """A started one's returncode, stdout and stderr, once it has ended."""

    def wait(process: subprocess.Popen) -> subprocess.CompletedProcess:
        stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    return wait


@pytest.fixture(scope="session")
def opd(start_opd, ended) -> Callable[..., subprocess.CompletedProcess]:
    """`opd("convert", …)` -> returncode, stdout, stderr."""
    return lambda *arguments, **options: ended(start_opd(*arguments, **options))


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder with config, tokenizer and weights of `dtype`."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    families = {"qwen3": (Qwen3Config, Qwen3ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}

    def make(family: str = "qwen3", *, dtype: str = "float32", tied: bool = False, layers: int = 2) -> Path:
        folder = tmp_path_factory.mktemp(family)
        config, model = families[family]
        torch.manual_seed(0)
        shape = config(
            vocab_size=len(CHARACTERS),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=256,
            tie_word_embeddings=tied,
            initializer_range=0.2,
            eos_token_id=1,
            pad_token_id=0,
            bos_token_id=None,
        )
        model(shape).to(getattr(torch, dtype)).save_pretrained(folder)
        tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(CHARACTERS)}, unk_token="<pad>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")
        fast.save_pretrained(folder)
        return folder

    return make
