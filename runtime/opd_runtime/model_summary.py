"""What a Hugging Face folder says about itself without loading it: shapes, size, fingerprint of the tokenizer, digest.

Reads config.json, the tokenizer and the headers of the safetensors files. Builds no model and needs no torch.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opd_api.documents import ModelSummary

from .errors import UserError
from .rollout.tokenizer import eos_ids, load_tokenizer
from .sources import weight_files

DIGEST_BYTES = 4096
"""How much of each tensor enters the digest, at its start and at its end."""

TOKENIZER_PROBES: tuple[str, ...] = (
    *("0", "7", "42", "123", "2026", "3.14159", "1,000,000", "12+30=", "0x1F", "1e-6", "50%", "99+1=100"),
    *("a", "I", " the", "the", "The", "THE", "hello world", " Hello, world!", "don't", "naïve café", "ÆØÅ", "straße"),
    *("東京", "你好，世界", "안녕하세요", "שלום", "مرحبا", "नमस्ते", "Привет", "🙂", "👩‍🚀", "∑∫√∞", "→ ≤ ≠", "½ m²"),
    *(" ", "  ", "    ", "\n", "\n\n", "\t", "\r\n", " \n ", "a b", "a  b", "a\u00a0b", "\u200b"),
    *(
        "x = y[0] ** 2",
        "def f(x):\n    return x",
        "#include <stdio.h>",
        '{"a": [1, null]}',
        "</think>",
        "<|im_start|>user",
    ),
    *(
        "\\frac{1}{2}",
        "$\\boxed{42}$",
        "https://example.org/a?b=c#d",
        "user@example.org",
        "/usr/bin/env",
        "--flag=value",
    ),
    *("internationalization", "aaaaaaaaaaaaaaaa", "qzxjkvw", "ABCdefGHI123"),
)
"""Texts whose ids two equal tokenizers agree on: digits, cases, scripts, spaces, code, mathematics, rare letters."""


def summarize(path: Path, parameters: int | None = None) -> ModelSummary:
    """Raises UserError when config.json or tokenizer cannot be read or do not describe a decoder.

    `parameters` is their number where the folder is without weights.
    """
    config = _read_config(path)
    tokenizer = load_tokenizer(path)
    heads = config["num_attention_heads"]
    return ModelSummary(
        architecture=(config.get("architectures") or ["unknown"])[0],
        hidden_size=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        ffn_hidden_size=config["intermediate_size"],
        vocab_size=config["vocab_size"],
        max_position_embeddings=config["max_position_embeddings"],
        tie_word_embeddings=config.get("tie_word_embeddings", False),
        dtype=config.get("dtype") or config.get("torch_dtype") or "float32",
        parameter_count=parameter_count(path) if parameters is None else parameters,
        tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
        eos_token_ids=eos_ids(path, tokenizer.eos_token_id),
    )


def parameter_count(path: Path) -> int:
    """Numbers stored in the safetensors files; a tied output layer is stored, and counted, once."""
    return sum(tensor.size for tensor in _tensors(path))


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Equal exactly when the same text becomes the same ids: vocabulary, special tokens, ids of 64 probes.

    Which special token ends a text is left out: a base model and its instruct model differ in it, and score each other.
    """
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    special = sorted((token_id, str(token)) for token_id, token in tokenizer.added_tokens_decoder.items())
    probes = [tokenizer.encode(probe, add_special_tokens=False) for probe in TOKENIZER_PROBES]
    document = json.dumps([len(vocabulary), vocabulary, special, probes])
    return hashlib.sha256(document.encode()).hexdigest()[:32]


def weights_digest(path: Path) -> str:
    """Equal for equal weights however they are split into files. Reads the first and last 4 KiB of each tensor.

    The same numbers in another dtype give another digest; the semantic probe finds those.
    """
    digest = hashlib.sha256()
    for tensor in sorted(_tensors(path), key=lambda tensor: tensor.name):
        digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}\n".encode())
        with tensor.file.open("rb") as file:
            for start in {tensor.start, max(tensor.start, tensor.end - DIGEST_BYTES)}:
                file.seek(start)
                digest.update(file.read(min(DIGEST_BYTES, tensor.end - start)))
    return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    """One entry of a safetensors header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    file: Path
    start: int
    """First byte of the data in `file`."""
    end: int


def _tensors(path: Path) -> Iterator[_Tensor]:
    """Header of a safetensors file: its length as 8 bytes little-endian, then JSON; data offsets count from its end."""
    for file in weight_files(path):
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            try:
                header = json.loads(stream.read(length)) if length <= file.stat().st_size else None
            except ValueError as error:
                raise UserError("is no safetensors file", path=str(file), hint="copy or download it again") from error
        if not isinstance(header, dict):
            raise UserError("is cut off or no safetensors file", path=str(file), hint="copy or download it again")
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            size = 1
            for axis in entry["shape"]:
                size *= axis
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            if end > file.stat().st_size:
                raise UserError(f"is cut off: {name} is not whole", path=str(file), hint="copy or download it again")
            yield _Tensor(
                name=name, dtype=entry["dtype"], shape=tuple(entry["shape"]), size=size, file=file, start=start, end=end
            )


NEEDED = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
)


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {error}", path=str(file)) from error
    if not isinstance(config, dict):
        raise UserError("is no JSON object", path=str(file), hint="copy or download it again")
    missing = [name for name in NEEDED if type(config.get(name)) is not int or config[name] < 1]
    if missing:
        raise UserError(
            f"says nothing of {', '.join(missing)}", path=str(file), hint="a Qwen3 or Llama model is needed"
        )
    return config
