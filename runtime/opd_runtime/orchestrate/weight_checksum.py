"""What an engine's weight checksums must be, computed from the trainer's Hugging Face tensors. Pure; talks to nobody.

SGLang hashes the parameters it holds: q, k, v (and gate, up) fused into one, split over tensor-parallel ranks, the
vocabulary's rows padded with zeros. The same bytes are put together here from the trainer's export, and hashed the
same way. Equal sums mean that the engine computes with the trainer's weights, bit for bit; a tensor that was never
sent, went into the wrong place or is from an earlier step has its name in the error.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_FUSED = {
    "q_proj": ("qkv_proj", ("q_proj", "k_proj", "v_proj")),
    "k_proj": ("qkv_proj", ("q_proj", "k_proj", "v_proj")),
    "v_proj": ("qkv_proj", ("q_proj", "k_proj", "v_proj")),
    "gate_proj": ("gate_up_proj", ("gate_proj", "up_proj")),
    "up_proj": ("gate_up_proj", ("gate_proj", "up_proj")),
}
_VOCAB_PADDING = 64
"""SGLang pads the vocabulary to a multiple of this."""


class ExpectedChecksums:
    """Collects tensors one by one, in any order; `differences` compares with what an engine reports."""

    def __init__(self, *, tensor_parallel: int, kv_heads: int) -> None:
        self.tensor_parallel, self.kv_heads = tensor_parallel, kv_heads
        self._sums: list[dict[str, str]] = [{} for _ in range(tensor_parallel)]
        self._incomplete: dict[str, dict[str, Tensor]] = {}

    def add(self, name: str, tensor: Tensor) -> None:
        """A full tensor by its Hugging Face name, in the engine's dtype; kept until its parameter is complete."""
        target, parts = _engine_name(name)
        arrived = self._incomplete.setdefault(target, {})
        arrived[name] = tensor
        if len(arrived) < len(parts):
            return
        del self._incomplete[target]
        for rank, sums in enumerate(self._sums):
            sums[target] = checksum([self._shard(part, arrived[part], rank) for part in parts])

    def differences(self, ranks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        """A line for each parameter that is not the trainer's; `ranks` as `/weights_checker` answers."""
        if len(ranks) != self.tensor_parallel:
            yield f"{len(ranks)} ranks answered, {self.tensor_parallel} expected"
            return
        for rank in ranks:
            position = rank["parallelism_info"][0]["tp_rank"]
            want, got = dict(self._sums[position]), rank["checksums"]
            if "lm_head.weight" in got and "lm_head.weight" not in want and "model.embed_tokens.weight" in want:
                want["lm_head.weight"] = want["model.embed_tokens.weight"]  # tied: one tensor for both
            where = f" (rank {position})" if self.tensor_parallel > 1 else ""
            for name in sorted(want.keys() | got.keys()):
                if name not in got:
                    yield f"{name}: sent, but the engine has no such parameter{where}"
                elif name not in want:
                    yield f"{name}: the engine has it, the trainer did not send all of it{where}"
                elif want[name] != got[name]:
                    yield f"{name}: trainer {want[name]}, engine {got[name]}{where}"

    def _shard(self, name: str, tensor: Tensor, rank: int) -> Tensor:
        """The part of a full tensor that tensor-parallel rank `rank` of the engine holds."""
        size, module = self.tensor_parallel, name.rpartition(".")[0].rpartition(".")[2]
        if module in ("embed_tokens", "lm_head"):
            return _vocabulary_shard(tensor, rank, size)
        if size == 1:
            return tensor
        if module in ("k_proj", "v_proj") and self.kv_heads < size:
            return tensor.chunk(self.kv_heads)[rank * self.kv_heads // size]
        if module in _FUSED:
            return tensor.chunk(size)[rank]
        if module in ("o_proj", "down_proj") and tensor.dim() == 2:
            return tensor.chunk(size, dim=1)[rank]
        return tensor


def checksum(parts: Sequence[Tensor]) -> str:
    """SGLang's hash of a parameter that consists of `parts` one after the other, as 16 hex digits.

    CPU: the first 8 bytes of SHA-256. CUDA: SGLang's own word hash, so that nothing leaves the GPU.
    """
    raw = [part.detach().contiguous().reshape(-1).view(torch.uint8) for part in parts]
    if raw[0].is_cuda:
        return f"{_word_hash(torch.cat(raw) if len(raw) > 1 else raw[0]):016x}"
    digest = hashlib.sha256()
    for part in raw:
        digest.update(memoryview(part.numpy()))
    return digest.hexdigest()[:16]


def _engine_name(name: str) -> tuple[str, tuple[str, ...]]:
    """Name of the engine's parameter, and the Hugging Face names it is made of, in order."""
    stem, _, kind = name.rpartition(".")
    owner, _, module = stem.rpartition(".")
    if module not in _FUSED:
        return name, (name,)
    fused, parts = _FUSED[module]
    return f"{owner}.{fused}.{kind}", tuple(f"{owner}.{part}.{kind}" for part in parts)


def _vocabulary_shard(tensor: Tensor, rank: int, size: int) -> Tensor:
    """Rows of one rank. Padding is at the end of the whole vocabulary and zero."""
    vocabulary = tensor.shape[0]
    padding = _VOCAB_PADDING if _padded(vocabulary, _VOCAB_PADDING) % size == 0 else _VOCAB_PADDING * size
    rows = _padded(vocabulary, padding) // size
    own = tensor[rank * rows : (rank + 1) * rows]
    if own.shape[0] == rows:
        return own
    return torch.cat([own, own.new_zeros(rows - own.shape[0], *tensor.shape[1:])])


def _padded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


_CHUNK_TILES = 512
_TILE_WORDS = 8192
_SEED = 0x243F6A88


def _word_hash(raw: Tensor) -> int:
    """SGLang's hash of a CUDA tensor, in torch operations that run on any device.

    Each 32-bit word is mixed with its position and summed over tiles of 8192 words, twice with different seeds; the
    64-bit tile hashes are summed and mixed once more. int32 arithmetic wraps like uint32; right shifts do not.
    """
    if raw.numel() % 4:
        raw = torch.nn.functional.pad(raw, (0, -raw.numel() % 4))
    words, total = raw.view(torch.int32), 0
    if not words.numel():
        return 0
    seeds = (_SEED, (_SEED * 0x9E3779B1) ^ 0xDEADBEEF)
    for start in range(0, words.numel(), _CHUNK_TILES * _TILE_WORDS):
        chunk = words[start : start + _CHUNK_TILES * _TILE_WORDS]
        position = torch.arange(start, start + chunk.numel(), device=raw.device).to(torch.int32)
        halves = []
        for seed, factor, turn in zip(seeds, (0x27D4EB2D, 0x165667B1), (15, 13), strict=True):
            rotated = (position << turn) | _shift_right(position, 32 - turn)
            mixed = _mix((position * _signed(factor) + _signed(seed)) ^ rotated ^ chunk)
            mixed = torch.nn.functional.pad(mixed, (0, -mixed.numel() % _TILE_WORDS))
            tiles = mixed.view(-1, _TILE_WORDS).sum(dim=1, dtype=torch.int64).to(torch.int32)
            halves.append(_mix(tiles ^ _signed(words.numel() * 4)).to(torch.int64) & 0xFFFFFFFF)
        # The sum of 64-bit tile hashes, as two sums that cannot overflow.
        high, low = (int(half.sum()) for half in halves)
        total += (high << 32) + low
    return _final_mix(total & (2**64 - 1))


def _mix(x: Tensor) -> Tensor:
    """murmur3's 32-bit finalizer."""
    x = (x ^ _shift_right(x, 16)) * _signed(0x85EBCA6B)
    x = (x ^ _shift_right(x, 13)) * _signed(0xC2B2AE35)
    return x ^ _shift_right(x, 16)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (32 - bits)) - 1)


def _signed(value: int) -> int:
    """The int32 with the same bits as the low 32 of `value`."""
    value &= 0xFFFFFFFF
    return value - 2**32 if value >= 2**31 else value


def _final_mix(x: int) -> int:
    """splitmix64's finalizer."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return x ^ (x >> 31)
