"""A Hugging Face config -> Megatron's configuration -> GPTModel. Dense Qwen3 and Llama; all else is refused by name."""

import warnings
from pathlib import Path

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn.functional import silu
from transformers import AutoConfig, PretrainedConfig

from ..errors import UserError
from .spec import layer_spec, uses_transformer_engine

MODEL_TYPES = {"qwen3", "llama"}
_LLAMA3_ROPE = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""What Megatron's rotary embedding has built in."""


def read_hf_config(path: Path) -> PretrainedConfig:
    """Raises UserError for an architecture or a feature that the converter has no words for."""
    hf = AutoConfig.from_pretrained(path)
    if hf.model_type not in MODEL_TYPES:
        raise UserError(
            f"model_type {hf.model_type!r} is not available in this version",
            path=str(path),
            hint="Qwen3 or Llama, dense",
        )
    rope = getattr(hf, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") not in ("default", "llama3"):
        raise UserError(f"rope scaling {rope['rope_type']!r} is not available in this version", path=str(path))
    for name, value in _LLAMA3_ROPE.items() if rope.get("rope_type") == "llama3" else ():
        if rope.get(name, value) != value:
            raise UserError(
                f"rope_parameters.{name}: {rope[name]} is not available in this version; {value} is", path=str(path)
            )
    for feature in ("attention_bias", "mlp_bias", "use_sliding_window"):
        if getattr(hf, feature, False):
            raise UserError(f"{feature} is not available in this version", path=str(path))
    if hf.hidden_act != "silu":
        raise UserError(f"hidden_act {hf.hidden_act!r} is not available in this version; 'silu' is", path=str(path))
    return hf


def megatron_config(
    hf: PretrainedConfig, *, bf16: bool, sequence_parallel: bool = False, recompute_full: bool = False
) -> TransformerConfig:
    """Parallel sizes come from Megatron's process groups, which must exist."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    recompute = (
        dict(recompute_granularity="full", recompute_method="uniform", recompute_num_layers=1) if recompute_full else {}
    )
    return TransformerConfig(
        num_layers=hf.num_hidden_layers,
        hidden_size=hf.hidden_size,
        num_attention_heads=hf.num_attention_heads,
        num_query_groups=hf.num_key_value_heads,
        kv_channels=head_dim(hf),
        ffn_hidden_size=hf.intermediate_size,
        add_bias_linear=False,
        add_qkv_bias=False,
        gated_linear_unit=True,
        activation_func=silu,
        normalization="RMSNorm",
        layernorm_epsilon=hf.rms_norm_eps,
        qk_layernorm=hf.model_type == "qwen3",
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tensor_model_parallel_size=parallel_state.get_tensor_model_parallel_world_size(),
        sequence_parallel=sequence_parallel,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=bf16,
        use_cpu_initialization=not torch.cuda.is_available(),
        # The weights are always loaded; drawing random ones first would cost seconds for nothing.
        perform_initialization=False,
        gradient_accumulation_fusion=False,
        persist_layer_norm=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=uses_transformer_engine(),
        # silu(gate) x up in kernels that torch compiles: a step is 5 % shorter, and keeps two numbers of five. On a CPU
        # a compiler would be needed, and tiny models would wait for it.
        bias_activation_fusion=torch.cuda.is_available(),
        bias_dropout_fusion=False,
        attention_softmax_in_fp32=True,
        calculate_per_token_loss=True,
        **recompute,
    )


def build_model(hf: PretrainedConfig, config: TransformerConfig) -> GPTModel:
    """Weights are whatever memory held: load them before use. Logits stay split over the tensor-parallel group.

    Raises UserError when the group's size does not divide the vocabulary.
    """
    rope, tensor = hf.rope_parameters, config.tensor_model_parallel_size
    if hf.vocab_size % tensor:
        raise UserError(
            f"{tensor} does not divide the vocabulary of {hf.vocab_size} rows",
            path="spec.student.parallelism.tensor",
            hint=f"choose a divisor of {hf.vocab_size}",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GPTModel(
            config=config,
            transformer_layer_spec=layer_spec(config),
            vocab_size=hf.vocab_size,
            max_sequence_length=hf.max_position_embeddings,
            parallel_output=True,
            share_embeddings_and_output_weights=hf.tie_word_embeddings,
            position_embedding_type="rope",
            rotary_base=rope["rope_theta"],
            rope_scaling=rope.get("rope_type") == "llama3",
            rope_scaling_factor=rope.get("factor", 8.0),
        )


def head_dim(hf: PretrainedConfig) -> int:
    return getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
