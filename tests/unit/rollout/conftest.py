"""A tokenizer of single characters in a folder that looks like a model's, and makers for the samples of these tests."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from opd_api.spec import Data
from opd_api.spec import PromptSource as PromptSourceSpec
from opd_runtime.config import PromptSource
from opd_runtime.rollout.sample import Prompt, Sample
from opd_runtime.rollout.tokenizer import PromptTokenizer

CHARACTERS = ["<pad>", "<eos>", *"0123456789+=abcdefghijklmnopqrstuvwxyz:[]# \n"]

MakeTokenizer = Callable[..., Path]


@pytest.fixture(scope="session")
def make_tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> MakeTokenizer:
    """A folder with tokenizer and config.json; `extra` characters get ids behind the others."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def make(*, chat_template: str | None = None, vocab_size: int | None = None, extra: str = "") -> Path:
        folder = tmp_path_factory.mktemp("tokenizer")
        characters = CHARACTERS + list(extra)
        tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(characters)}, unk_token="<pad>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")
        fast.chat_template = chat_template
        fast.save_pretrained(folder)
        (folder / "config.json").write_text(
            json.dumps({"vocab_size": vocab_size or len(characters), "eos_token_id": 1})
        )
        return folder

    return make


@pytest.fixture(scope="session")
def tokenizer(make_tokenizer_folder: MakeTokenizer) -> PromptTokenizer:
    return PromptTokenizer(make_tokenizer_folder(), apply_chat_template=False)


@pytest.fixture
def write_prompts(tmp_path: Path) -> Callable[..., PromptSource]:
    """Records -> a JSONL file as a source; a string is a raw line."""

    def write(*records: object, name: str = "prompts.jsonl", weight: float = 1.0) -> PromptSource:
        path = tmp_path / name
        path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
        return PromptSource(uri=f"file://{path}", path=str(path), weight=weight)

    return write


@pytest.fixture
def make_data() -> Callable[..., Data]:
    def make(**fields: object) -> Data:
        return Data(**({"prompts": (PromptSourceSpec(uri="file:///unused"),), "apply_chat_template": False} | fields))

    return make


@pytest.fixture
def make_sample() -> Callable[..., Sample]:
    def make(response: str = "", label: str | None = None, **record: object) -> Sample:
        prompt = Prompt(index=0, text="1+1=", token_ids=(3, 12, 3, 13), label=label, record=dict(record))
        return Sample(prompt=prompt, group=0, response=response)

    return make
