"""Makes the tiny models of the examples: a character tokenizer, a Qwen3 with random weights, training on a corpus.

Runs on one CPU thread and is seeded, so that the models in git can be made again. No example needs this file to run.
"""

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
IGNORED = -100
"""Label of a token that is not trained (the value that torch's cross entropy skips)."""

Pair = tuple[str, str]
"""A prompt and its answer."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Of a Qwen3 model. Heads have 16 dimensions, and two of them are key-value heads."""

    layers: int
    hidden: int


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a model is taught."""

    steps: int
    batch: int = 256
    lr: float = 3.0e-3
    """Peak; a short warm-up before it, a cosine after it."""
    seed: int


def character_tokenizer(alphabet: str, phrases: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """One token a character, and one for each of `phrases`; what is neither becomes <unk>."""
    vocabulary = {token: i for i, token in enumerate([PAD, EOS, UNKNOWN, *alphabet, *phrases])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join([*map(re.escape, phrases), r"[\s\S]"])), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def new_model(shape: Shape, tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """Random weights. The vocabulary is padded to a multiple of 8, as real models' are."""
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=8 * math.ceil((len(tokenizer) + 1) / 8),
            hidden_size=shape.hidden,
            intermediate_size=2 * shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.hidden // 16,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            initializer_range=0.05,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def teach(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    corpus: Callable[[random.Random, int], Sequence[Pair]],
    course: Course,
) -> None:
    """Next-token training on the answers alone. `corpus` draws that many fresh pairs."""
    draw = random.Random(course.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=course.lr, betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    for step in range(course.steps):
        rate = (
            course.lr * min(1.0, (step + 1) / 50) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / course.steps)))
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        tokens, labels = _padded(tokenizer, corpus(draw, course.batch))
        loss = model(input_ids=tokens, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


def _padded(tokenizer: PreTrainedTokenizerFast, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Tokens and labels, padded at the end: a causal model does not see what comes later."""
    prompts = [tokenizer.encode(prompt) for prompt, _ in pairs]
    answers = [[*tokenizer.encode(answer), tokenizer.eos_token_id] for _, answer in pairs]
    length = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    tokens = torch.full((len(pairs), length), tokenizer.pad_token_id)
    labels = torch.full((len(pairs), length), IGNORED)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        tokens[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return tokens, labels


@torch.no_grad()
def pass_at_1(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, pairs: Sequence[Pair], limit: int) -> float:
    """Share of greedy answers, at most `limit` tokens long, that equal the right one."""
    right, by_length = 0, dict[int, list[tuple[list[int], str]]]()
    for prompt, answer in pairs:
        ids = tokenizer.encode(prompt)
        by_length.setdefault(len(ids), []).append((ids, answer))
    for group in by_length.values():
        tokens = torch.tensor([ids for ids, _ in group])
        written = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=limit, do_sample=False)
        texts = tokenizer.batch_decode(written[:, tokens.shape[1] :], skip_special_tokens=True)
        right += sum(text == answer for text, (_, answer) in zip(texts, group, strict=True))
    return right / len(pairs)


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """A Hugging Face folder in FP32."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
