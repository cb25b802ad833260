"""SGLang's torch-native attention, many sequences a call instead of one: for servers on a CPU (`cpu_launch.py`).

The backend that SGLang ships for CPUs without AMX walks through the sequences of a batch in Python; with short ones
that loop is most of a step. This one pads and masks, and gives the same numbers up to rounding. It takes the place of
`torch_native` in SGLang's registry of attention backends; sliding windows and cross attention go to the original.

Shapes: B sequences, Q new tokens of the longest, L cached and new tokens of the longest, H heads, G key-value heads,
D head size, T new tokens of all sequences, one after the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from sglang.srt.layers.attention.attention_registry import register_attention_backend
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from torch import Tensor
from torch.nn.functional import embedding, scaled_dot_product_attention

PADDED_NUMBERS = 2**22
"""Most numbers in the padded keys of one call (16 MiB in FP32): larger batches go in several calls."""
MULTIPLE = 16
"""L is rounded up to it: torch multiplies aligned matrices up to three times faster (measured)."""
LONG = 128
"""New tokens of a sequence from which on one call each is faster: it needs no mask and no padding (measured)."""


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring sequences that go in one call; the same for all layers of a pass."""

    tokens: slice
    """Of the query."""
    slots_BL: Tensor
    """Of the cache. Those past a sequence's end are read and masked: whose they are does not matter."""
    bias_BQL: Tensor
    """0 where a query sees a key, -inf elsewhere."""
    valid_BQ: Tensor | None
    """Which padded queries are real; None when all are."""


class BatchedTorchAttention(TorchNativeAttnBackend):  # type: ignore[misc]  # SGLang carries no types
    """Overrides the two inner functions; storing keys and values stays SGLang's."""

    def __init__(self, model_runner: Any) -> None:
        super().__init__(model_runner)
        self._parts: list[Part] | None = None

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """SGLang calls this before each pass; its first layer makes the parts."""
        super().init_forward_metadata(forward_batch)
        self._parts = None

    def _run_sdpa_forward_extend(
        self,
        query: Tensor,
        output: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        req_to_token: Tensor,
        req_pool_indices: Tensor,
        seq_lens: Tensor,
        extend_prefix_lens: Tensor,
        extend_seq_lens: Tensor,
        encoder_lens: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """query and output [T, H, D]; the new tokens of a sequence follow `extend_prefix_lens` cached ones."""
        if self._parts is None and int(extend_seq_lens.max()) > LONG:
            self._parts = []
        if not (self._parts != [] and options["causal"] and _is_plain(encoder_lens, options)):
            cached = (k_cache, v_cache, req_to_token, req_pool_indices, seq_lens)
            lengths = (extend_prefix_lens, extend_seq_lens, encoder_lens)
            return super()._run_sdpa_forward_extend(query, output, *cached, *lengths, **options)
        if self._parts is None:
            new = extend_prefix_lens, extend_seq_lens
            self._parts = self._divide(k_cache, req_to_token, req_pool_indices, seq_lens, new)
        return self._attend(query, output, k_cache, v_cache, options["scaling"])

    def _run_sdpa_forward_decode(
        self,
        query: Tensor,
        output: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        req_to_token: Tensor,
        req_pool_indices: Tensor,
        seq_lens: Tensor,
        encoder_lens: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """query and output [B, H, D]: one new token each, the last of its sequence."""
        if not _is_plain(encoder_lens, options):
            cached = (k_cache, v_cache, req_to_token, req_pool_indices, seq_lens)
            return super()._run_sdpa_forward_decode(query, output, *cached, encoder_lens, **options)
        if self._parts is None:
            self._parts = self._divide(k_cache, req_to_token, req_pool_indices, seq_lens, None)
        return self._attend(query, output, k_cache, v_cache, options["scaling"])

    def _divide(
        self,
        k_cache: Tensor,
        req_to_token: Tensor,
        req_pool_indices: Tensor,
        seq_lens: Tensor,
        new: tuple[Tensor, Tensor] | None,
    ) -> list[Part]:
        """`new`: of each sequence, how many tokens are cached and how many follow; None: one follows."""
        parts, first = [], 0
        for sequences in self._slices(seq_lens, k_cache):
            lens = seq_lens[sequences, None]
            longest = -(-int(lens.max()) // MULTIPLE) * MULTIPLE
            slots_BL = req_to_token[req_pool_indices[sequences], :longest]
            valid_BQ, positions_BQ = None, lens - 1
            tokens = sequences
            if new is not None:
                cached, lengths = (numbers[sequences, None] for numbers in new)
                queries = torch.arange(int(lengths.max()))
                valid_BQ, positions_BQ = queries < lengths, cached + queries
                tokens = slice(first, first + int(lengths.sum()))
                first = tokens.stop
            hidden_BQL = torch.arange(slots_BL.shape[1]) > positions_BQ[..., None]
            bias_BQL = torch.zeros(hidden_BQL.shape).masked_fill_(hidden_BQL, float("-inf"))
            parts.append(Part(tokens, slots_BL, bias_BQL, valid_BQ))
        return parts

    def _attend(self, query: Tensor, output: Tensor, k_cache: Tensor, v_cache: Tensor, scaling: float) -> Tensor:
        assert self._parts is not None
        for part in self._parts:
            batch, queries, _ = part.bias_BQL.shape
            query_THD = query[part.tokens]
            if part.valid_BQ is None:
                query_BQHD = query_THD[:, None]
            else:
                query_BQHD = query.new_zeros(batch, queries, *query.shape[1:])
                query_BQHD[part.valid_BQ] = query_THD
            key_BGLD, value_BGLD = (_rows(cache, part.slots_BL).to(query.dtype) for cache in (k_cache, v_cache))
            # The heads that share keys go as that many tokens of one head: a third faster than enable_gqa (measured).
            shared = query.shape[1] // k_cache.shape[1]
            folded = query_BQHD.unflatten(2, (-1, shared)).permute(0, 2, 3, 1, 4).flatten(2, 3)
            bias = part.bias_BQL.to(query.dtype)
            bias = bias.repeat(1, shared, 1) if queries > 1 else bias
            out = scaled_dot_product_attention(folded, key_BGLD, value_BGLD, attn_mask=bias[:, None], scale=scaling)
            out_BQHD = out.unflatten(2, (shared, queries)).permute(0, 3, 1, 2, 4).flatten(2, 3)
            output[part.tokens] = out_BQHD[:, 0] if part.valid_BQ is None else out_BQHD[part.valid_BQ]
        return output

    @staticmethod
    def _slices(seq_lens: Tensor, k_cache: Tensor) -> list[slice]:
        """Neighbouring sequences whose keys, padded to the longest of the batch, stay within PADDED_NUMBERS."""
        numbers = int(seq_lens.max()) * k_cache.shape[-2] * k_cache.shape[-1]
        size = max(1, PADDED_NUMBERS // numbers)
        count = seq_lens.shape[0]
        return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _is_plain(encoder_lens: Tensor | None, options: Mapping[str, Any]) -> bool:
    return encoder_lens is None and not options["is_cross_attn"] and options["sliding_window_size"] is None


def _rows(cache: Tensor, slots_BL: Tensor) -> Tensor:
    """[B, G, L, D] of a cache [slots, G, D]. `index_select` takes up to twice, `cache[slots]` six times as long."""
    return embedding(slots_BL, cache.flatten(1)).unflatten(2, cache.shape[1:]).transpose(1, 2)


register_attention_backend("torch_native")(BatchedTorchAttention)
