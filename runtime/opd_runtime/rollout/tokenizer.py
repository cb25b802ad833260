"""The student's tokenizer: records' prompts to text to ids, and ids back to text. Knows no files and no server.

Every id that leaves here is inside the model's vocabulary: an SGLang server dies of one that is not.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError

Messages = list[dict[str, Any]]


class PromptTokenizer:
    """Loaded once per process from the student's Hugging Face folder."""

    eos_ids: tuple[int, ...]
    """Ids that end a response, ascending: of the tokenizer, config.json and generation_config.json."""
    vocab_size: int
    """Rows of the model's embedding, from config.json; the tokenizer may know fewer, never more."""

    def __init__(self, path: Path, *, apply_chat_template: bool) -> None:
        """Raises UserError when a chat template is asked for and the tokenizer has none."""
        self._tokenizer = load_tokenizer(path)
        self._chat = apply_chat_template
        config = json.loads((path / "config.json").read_text())
        self.vocab_size = int(config["vocab_size"])
        self.eos_ids = eos_ids(path, self._tokenizer.eos_token_id)
        if self._chat and not self._tokenizer.chat_template:
            raise UserError(
                f"true, but the tokenizer in {path} has no chat template",
                path="spec.data.applyChatTemplate",
                hint="set data.applyChatTemplate: false, or add chat_template.jinja to the model",
            )

    def render(self, prompt: str | Messages) -> str:
        """What the model reads. A string becomes one user message where a template applies."""
        if not self._chat:
            if not isinstance(prompt, str):
                raise UserError("the prompt is a list of messages", hint="set data.applyChatTemplate: true")
            return prompt
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        try:
            return self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program: it raises what it likes
            raise UserError(
                f"the chat template does not take this prompt ({type(error).__name__}: {error})",
                hint="its messages need the roles and text that the student's template asks for",
            ) from error

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of a rendered prompt. A template writes its special tokens itself; plain text gets the tokenizer's."""
        ids = tuple(self._tokenizer.encode(text, add_special_tokens=not self._chat))
        if ids and max(ids) >= self.vocab_size:
            raise UserError(
                f"token id {max(ids)} is outside the model's vocabulary of {self.vocab_size}",
                hint="tokenizer and config.json of the student do not belong together",
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a response, special tokens left out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)


def load_tokenizer(path: Path) -> Any:
    """The folder's tokenizer, from its files alone. Raises UserError when they make none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:  # the library raises KeyError, ValueError, OSError and bare Exception for broken files
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"its tokenizer cannot be loaded: {type(error).__name__}: {reason}",
            path=str(path),
            hint="copy or download tokenizer.json and tokenizer_config.json again",
        ) from error


def eos_ids(path: Path, tokenizer_eos: int | None) -> tuple[int, ...]:
    """Every id any of the model's files calls an end of sequence."""
    found: set[int] = set() if tokenizer_eos is None else {tokenizer_eos}
    for name in ("config.json", "generation_config.json"):
        file = path / name
        said = json.loads(file.read_text()).get("eos_token_id") if file.is_file() else None
        found.update([said] if isinstance(said, int) else said or [])
    return tuple(sorted(found))
