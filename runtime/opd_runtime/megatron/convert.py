"""Hugging Face weights <-> Megatron weights of dense Qwen3 and Llama, under tensor parallelism, one layer at a time.

Only two shapes differ: q, k and v are interleaved by key-value group in `linear_qkv`; gate and up stand behind each
other in `linear_fc1`, per tensor-parallel rank; everything else is renamed. Parameter names of the portable and the
Transformer Engine spec are both known: the latter keeps a layer's norms inside the linear layer that follows.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PretrainedConfig

from ..errors import UserError
from .model import head_dim

SHARD_BYTES = 4 * 2**30
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".gguf", ".pt", ".pth")


class HFWeights(Mapping[str, Tensor]):
    """The tensors of a Hugging Face folder, read from disk one at a time."""

    def __init__(self, path: Path) -> None:
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise UserError("has no *.safetensors", path=str(path), hint="save the model with save_pretrained")
        self.path = path
        self._file_of: dict[str, Any] = {}
        for file in files:
            handle = safe_open(file, framework="pt")
            self._file_of.update(dict.fromkeys(handle.keys(), handle))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._file_of:
            raise UserError(f"has no tensor {name!r}", path=str(self.path), hint="its config.json and weights differ")
        return self._file_of[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


@torch.no_grad()
def load_hf(model: GPTModel, hf: PretrainedConfig, weights: Mapping[str, Tensor]) -> None:
    """Copies this rank's part into the model's parameters (in place: they may be views of Megatron's flat buffer)."""
    rank, size = parallel_state.get_tensor_model_parallel_rank(), parallel_state.get_tensor_model_parallel_world_size()
    own, loaded = dict(model.named_parameters()), set()
    for name, parts in _layout(own, hf):
        parameter = own[name]
        tensors = [weights[part] for part in parts]
        if len(parts) == 3:
            value = _merge_qkv(tensors, hf).chunk(size)[rank]
        elif len(parts) == 2:
            value = torch.cat([tensor.chunk(size)[rank] for tensor in tensors])
        elif size > 1 and getattr(parameter, "tensor_model_parallel", False):
            value = tensors[0].chunk(size, dim=parameter.partition_dim)[rank]
        else:
            value = tensors[0]
        if value.shape != parameter.shape:
            raise UserError(
                f"{' + '.join(parts)} makes {tuple(value.shape)}, config.json asks for {tuple(parameter.shape)}",
                hint="config.json and the weights are not of one model",
            )
        parameter.copy_(value)
        loaded.add(name)
    assert loaded == set(own), set(own) ^ loaded


@torch.no_grad()
def export_hf(model: GPTModel, hf: PretrainedConfig) -> Iterator[tuple[str, Tensor]]:
    """(Hugging Face name, full tensor), one by one. A collective: the tensor-parallel group's ranks iterate in step."""
    own = dict(model.named_parameters())
    for name, parts in _layout(own, hf):
        shards = _gather(own[name])
        if len(parts) == 3:
            yield from zip(parts, _split_qkv(torch.cat(shards), hf), strict=True)
        elif len(parts) == 2:
            halves = [shard.chunk(2) for shard in shards]
            for position, part in enumerate(parts):
                yield part, torch.cat([half[position] for half in halves])
        else:
            yield parts[0], shards[0] if len(shards) == 1 else torch.cat(shards, dim=own[name].partition_dim)


def _layout(own: Mapping[str, Tensor], hf: PretrainedConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(Megatron name, the Hugging Face names it is made of) for every parameter."""
    yield "embedding.word_embeddings.weight", ("model.embed_tokens.weight",)
    for layer in range(hf.num_hidden_layers):
        ours, theirs = f"decoder.layers.{layer}.", f"model.layers.{layer}."
        fused_norms = f"{ours}self_attention.linear_qkv.layer_norm_weight" in own
        yield (
            ours + ("self_attention.linear_qkv.layer_norm_weight" if fused_norms else "input_layernorm.weight"),
            (theirs + "input_layernorm.weight",),
        )
        yield ours + "self_attention.linear_qkv.weight", tuple(f"{theirs}self_attn.{x}_proj.weight" for x in "qkv")
        if hf.model_type == "qwen3":
            yield ours + "self_attention.q_layernorm.weight", (theirs + "self_attn.q_norm.weight",)
            yield ours + "self_attention.k_layernorm.weight", (theirs + "self_attn.k_norm.weight",)
        yield ours + "self_attention.linear_proj.weight", (theirs + "self_attn.o_proj.weight",)
        yield (
            ours + ("mlp.linear_fc1.layer_norm_weight" if fused_norms else "pre_mlp_layernorm.weight"),
            (theirs + "post_attention_layernorm.weight",),
        )
        yield ours + "mlp.linear_fc1.weight", (theirs + "mlp.gate_proj.weight", theirs + "mlp.up_proj.weight")
        yield ours + "mlp.linear_fc2.weight", (theirs + "mlp.down_proj.weight",)
    yield "decoder.final_layernorm.weight", ("model.norm.weight",)
    if not hf.tie_word_embeddings:
        yield "output_layer.weight", ("lm_head.weight",)


def _merge_qkv(qkv: list[Tensor], hf: PretrainedConfig) -> Tensor:
    """For each key-value group: its query heads, its key head, its value head."""
    groups = hf.num_key_value_heads
    return torch.cat([part.view(groups, -1, hf.hidden_size) for part in qkv], dim=1).view(-1, hf.hidden_size)


def _split_qkv(qkv: Tensor, hf: PretrainedConfig) -> list[Tensor]:
    width, per_group = head_dim(hf), hf.num_attention_heads // hf.num_key_value_heads
    grouped = qkv.view(hf.num_key_value_heads, (per_group + 2) * width, hf.hidden_size)
    return [part.reshape(-1, hf.hidden_size) for part in grouped.split([per_group * width, width, width], dim=1)]


def _gather(parameter: Tensor) -> list[Tensor]:
    """The parameter's shards in rank order; one for a parameter that is not split."""
    size = parallel_state.get_tensor_model_parallel_world_size()
    if size == 1 or not getattr(parameter, "tensor_model_parallel", False):
        return [parameter.data]
    shards = [torch.empty_like(parameter) for _ in range(size)]
    dist.all_gather(shards, parameter.data.contiguous(), group=parallel_state.get_tensor_model_parallel_group())
    return shards


def copy_companions(source: Path, destination: Path) -> None:
    """Everything of a Hugging Face folder that is no weight: config, generation config, tokenizer, chat template."""
    for file in source.iterdir():
        if file.is_file() and not file.name.startswith("model") and file.suffix not in WEIGHT_SUFFIXES:
            shutil.copy2(file, destination)


def save_hf_shards(tensors: Iterator[tuple[str, Tensor]], path: Path, *, write: bool) -> None:
    """safetensors files of at most SHARD_BYTES, with an index for several. With `write` False only iterates."""
    shards: list[dict[str, Tensor]] = [{}]
    files: dict[str, str] = {}
    filled = total = 0

    def flush() -> None:
        if write and shards[0]:
            number = len(set(files.values())) + 1
            file = f"model-{number:05d}.safetensors"
            save_file(shards[0], path / file, metadata={"format": "pt"})
            files.update(dict.fromkeys(shards[0], file))

    for name, tensor in tensors:
        size = tensor.nbytes
        if filled and filled + size > SHARD_BYTES:
            flush()
            shards[0], filled = {}, 0
        filled, total = filled + size, total + size
        if write:
            shards[0][name] = tensor.to("cpu", copy=True).contiguous()
    flush()
    if not write:
        return
    if len(set(files.values())) == 1:
        (path / "model-00001.safetensors").rename(path / "model.safetensors")
        return
    index = {"metadata": {"total_size": total}, "weight_map": files}
    (path / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
