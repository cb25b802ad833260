"""SGLang's torch-native attention, many sequences a call instead of one: for servers on a CPU (`cpu_launch.py`).

The backend that SGLang ships for CPUs without AMX walks through the sequences of a batch in Python; with short ones
that loop is most of a step. This one pads and masks, and gives the same numbers up to rounding. It takes the place of
`torch_native` in SGLang's registry of attention backends; sliding windows and cross attention go to the original.

Shapes: B sequences, Q new tokens of the longest, L cached and new tokens of the longest, H heads, G key-value heads,
D head size, T new tokens of all sequences, one after the other.
"""

from collections.abc import Mapping
from typing import Any

import torch
from sglang.srt.layers.attention.attention_registry import register_attention_backend
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

PADDED_NUMBERS = 2**22
"""Most numbers in the padded keys of one call (16 MiB in FP32): larger batches go in several calls."""
LONG = 128
"""New tokens of a sequence from which on one call each is faster: it needs no mask and no padding (measured)."""


class BatchedTorchAttention(TorchNativeAttnBackend):  # type: ignore[misc]  # SGLang carries no types
    """Overrides the two inner functions; storing keys and values stays SGLang's."""

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
        cached = (k_cache, v_cache, req_to_token, req_pool_indices, seq_lens)
        short = int(extend_seq_lens.max()) <= LONG
        if not (short and options["causal"] and _is_plain(encoder_lens, options)):
            lengths = (extend_prefix_lens, extend_seq_lens, encoder_lens)
            return super()._run_sdpa_forward_extend(query, output, *cached, *lengths, **options)
        ends = extend_seq_lens.cumsum(0).tolist()
        first = 0
        for part in self._parts(seq_lens, k_cache):
            last = ends[part.stop - 1]
            new = extend_seq_lens[part]
            valid_BQ = torch.arange(int(new.max())) < new[:, None]
            query_BQHD = query.new_zeros(*valid_BQ.shape, *query.shape[1:])
            query_BQHD[valid_BQ] = query[first:last]
            positions_BQ = extend_prefix_lens[part, None] + torch.arange(valid_BQ.shape[1])
            tokens_BL = req_to_token[req_pool_indices[part], : int(seq_lens[part].max())]
            mask_BQL = torch.arange(tokens_BL.shape[1]) <= positions_BQ[..., None]
            out = _attend(query_BQHD, k_cache, v_cache, tokens_BL, mask_BQL, options)
            output[first:last] = out[valid_BQ]
            first = last
        return output

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
        for part in self._parts(seq_lens, k_cache):
            lengths = seq_lens[part]
            tokens_BL = req_to_token[req_pool_indices[part], : int(lengths.max())]
            mask_BQL = (torch.arange(tokens_BL.shape[1]) < lengths[:, None])[:, None]
            # The heads that share keys go as that many tokens of one head: a third faster than enable_gqa (measured).
            query_BQGD = query[part].unflatten(1, (k_cache.shape[-2], -1)).transpose(1, 2)
            out = _attend(query_BQGD, k_cache, v_cache, tokens_BL, mask_BQL, {**options, "enable_gqa": False})
            output[part] = out.transpose(1, 2).flatten(1, 2)
        return output

    @staticmethod
    def _parts(seq_lens: Tensor, k_cache: Tensor) -> list[slice]:
        """Neighbouring sequences whose keys, padded to the longest of the batch, stay within PADDED_NUMBERS."""
        numbers = int(seq_lens.max()) * k_cache.shape[-2] * k_cache.shape[-1]
        size = max(1, PADDED_NUMBERS // numbers)
        count = seq_lens.shape[0]
        return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _is_plain(encoder_lens: Tensor | None, options: Mapping[str, Any]) -> bool:
    return encoder_lens is None and not options["is_cross_attn"] and options["sliding_window_size"] is None


def _attend(
    query_BQHD: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    tokens_BL: Tensor,
    mask_BQL: Tensor,
    options: Mapping[str, Any],
) -> Tensor:
    """[B, Q, H, D]. Cache rows past a sequence's end are read and masked: whose they are does not matter."""
    key_BGLD, value_BGLD = (_rows(cache, tokens_BL).to(query_BQHD.dtype) for cache in (k_cache, v_cache))
    out_BHQD = scaled_dot_product_attention(
        query_BQHD.transpose(1, 2),
        key_BGLD,
        value_BGLD,
        attn_mask=mask_BQL[:, None],
        scale=options["scaling"],
        enable_gqa=options["enable_gqa"],
    )
    return out_BHQD.transpose(1, 2)


def _rows(cache: Tensor, tokens_BL: Tensor) -> Tensor:
    """[B, G, L, D] of a cache [slots, G, D]. `cache[tokens_BL]` takes three times as long (measured)."""
    rows = cache.flatten(1).index_select(0, tokens_BL.flatten())
    return rows.view(*tokens_BL.shape, *cache.shape[1:]).transpose(1, 2)


register_attention_backend("torch_native")(BatchedTorchAttention)
