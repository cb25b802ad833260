"""Layer specs: Transformer Engine's where it is installed and CUDA is there, else the portable one (Megatron's
ModuleSpec with torch's own RMSNorm and scaled-dot-product attention). The converter knows the parameter names of both.
"""

import torch
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn.functional import scaled_dot_product_attention


def uses_transformer_engine() -> bool:
    if not torch.cuda.is_available():
        return False
    try:
        import transformer_engine  # noqa: F401 - asked for its presence only
    except ImportError:
        return False
    return True


def layer_spec(config: TransformerConfig):
    """What GPTModel takes as `transformer_layer_spec`."""
    if uses_transformer_engine():
        return get_gpt_layer_with_transformer_engine_spec(qk_layernorm=config.qk_layernorm)
    spec = get_gpt_layer_local_spec(qk_layernorm=config.qk_layernorm, normalization="RMSNorm")
    layer = spec.submodules
    layer.input_layernorm = layer.pre_mlp_layernorm = PortableRMSNorm
    attention = layer.self_attention.submodules
    attention.core_attention = PortableAttention
    if config.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = PortableRMSNorm
    return TransformerBlockSubmodules(layer_specs=[spec] * get_num_layers_to_build(config), layer_norm=PortableRMSNorm)


class PortableRMSNorm(torch.nn.RMSNorm):
    """RMSNorm whose gradient Megatron reduces over the tensor-parallel group under sequence parallelism."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel


class PortableAttention(MegatronModule):
    """Causal attention by torch over [s, b, h, d]. Behind a causal mask right padding changes nothing."""

    def __init__(self, config, layer_number, attn_mask_type, attention_type, softmax_scale=None, **_) -> None:
        super().__init__(config=config)
        self.softmax_scale = softmax_scale

    def forward(
        self, query, key, value, attention_mask=None, attn_mask_type=None, attention_bias=None, packed_seq_params=None
    ):
        grouped = query.shape[2] != key.shape[2]
        query, key, value = (tensor.permute(1, 2, 0, 3) for tensor in (query, key, value))
        out = scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=self.softmax_scale, enable_gqa=grouped
        )
        return out.permute(2, 0, 1, 3).flatten(2)

    def sharded_state_dict(self, prefix="", sharded_offsets=(), metadata=None) -> dict:
        return {}
