"""Converts whole models without a trainer: one process, host memory, no GPU and no port.

Weights keep the type they are stored in, so there and back gives the same bits.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import cpu

cpu.install()

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state, tensor_parallel
from megatron.core.models.gpt import GPTModel
from transformers import PretrainedConfig

from ..errors import UserError
from .checkpoint import EMBEDDING, find_iteration, load_model_weights, save_model_weights
from .convert import HFWeights, copy_companions, export_hf, load_hf, save_hf_shards
from .model import build_model, megatron_config, read_hf_config


def hf_to_megatron(source: Path, destination: Path) -> torch.dtype:
    """A `release` checkpoint (torch_dist) of a Hugging Face folder's weights."""
    hf, weights = read_hf_config(source), HFWeights(source)
    dtype = weights["model.embed_tokens.weight"].dtype
    with _single_process():
        model = _build(hf, dtype)
        load_hf(model, hf, weights)
        save_model_weights(destination, model)
    return dtype


def megatron_to_hf(source: Path, destination: Path, like: Path, step: int | None) -> torch.dtype:
    """A Hugging Face folder of a checkpoint's weights; config and tokenizer of `like`, a model of the same shape."""
    hf, folder = read_hf_config(like), find_iteration(source, step)
    dtype = _stored_dtype(folder)
    with _single_process():
        model = _build(hf, dtype)
        load_model_weights(folder, model)
        destination.mkdir(parents=True)
        copy_companions(like, destination)
        save_hf_shards(export_hf(model, hf), destination, write=True)
    _say_dtype(destination / "config.json", dtype)
    return dtype


@contextmanager
def _single_process() -> Iterator[None]:
    """torch.distributed and Megatron's groups with one rank, this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        parallel_state.initialize_model_parallel()
        tensor_parallel.model_parallel_cuda_manual_seed(0)
        yield
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def _build(hf: PretrainedConfig, dtype: torch.dtype) -> GPTModel:
    """In BF16 for BF16 weights; FP32 holds those of every other type exactly."""
    return build_model(hf, megatron_config(hf, bf16=dtype == torch.bfloat16))


def _stored_dtype(folder: Path) -> torch.dtype:
    if not dist_checkpointing.check_is_distributed_checkpoint(str(folder)):
        return torch.float32
    stored = dist_checkpointing.load_tensors_metadata(str(folder)).get(EMBEDDING)
    if stored is None:
        raise UserError(f"has no {EMBEDDING}", path=str(folder), hint="only language models can be converted")
    return stored.dtype


def _say_dtype(file: Path, dtype: torch.dtype) -> None:
    """Loaders believe config.json."""
    config = json.loads(file.read_text())
    config.pop("torch_dtype", None)
    file.write_text(json.dumps(config | {"dtype": str(dtype).removeprefix("torch.")}, indent=2) + "\n")
