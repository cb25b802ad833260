"""Megatron-LM's checkpoint folder: `ROOT/latest_checkpointed_iteration.txt` and `ROOT/iter_NNNNNNN/` (torch_dist).

A checkpoint of a run also holds `driver_state.json`, written after everything else: the driver's state, whose
checkpoint it is, and the size of every file. Without it, or with a file of another size, a checkpoint is incomplete
and never picked.
"""

import argparse
import json
import os
import pickle
import queue
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    FullyParallelLoadStrategyWrapper,
    FullyParallelSaveStrategyWrapper,
)
from megatron.core.dist_checkpointing.strategies.torch import TorchDistLoadShardedStrategy, TorchDistSaveShardedStrategy
from megatron.core.dist_checkpointing.utils import add_prefix_for_sharding
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch.distributed.checkpoint.api import CheckpointException

from ..errors import CheckpointIncomplete, UserError
from .adam_state import own_what_was_loaded, prime_adam
from .convert import HFWeights, load_hf
from .gathered_state import gathered_state
from .model import read_hf_config

TRACKER = "latest_checkpointed_iteration.txt"
DRIVER_STATE = "driver_state.json"
EMBEDDING = "embedding.word_embeddings.weight"
REFERENCE = "reference."
_SHARDING = {
    "distrib_optim_sharding_type": "fully_reshardable",
    # The first data-parallel rank gathers the optimizer in its host memory; else every rank does, through its GPU.
    "distrib_optim_fully_reshardable_mem_efficient": True,
    "singleton_local_shards": False,
    "chained_optim_avoid_prefix": True,
}

# Megatron's writer asks a multiprocessing manager for its queue of results: a process that imports everything again.
# We only save synchronously, where writer and reader are one thread.
filesystem_async._results_queue = queue.SimpleQueue()
DistributedOptimizer.get_parameter_state_dp_zero = gathered_state


def iteration_dir(root: Path, step: int) -> Path:
    return root / f"iter_{step:07d}"


def complete_checkpoints(root: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every complete checkpoint of a run, oldest first. Needs no process group."""
    found = []
    for step, folder in _iterations(root):
        try:
            read_driver_state(folder)
        except CheckpointIncomplete:
            continue
        found.append((step, folder))
    return sorted(found)


def _iterations(root: Path) -> Iterator[tuple[int, Path]]:
    """(step, folder) of every checkpoint of a run, complete or not."""
    for folder in root.glob("iter_*"):
        if match := re.fullmatch(r"iter_(\d{7,})", folder.name):
            yield int(match[1]), folder


def read_driver_state(folder: Path) -> dict[str, Any]:
    """`{identity, state, files}`. Raises CheckpointIncomplete unless every file is there in full."""
    try:
        document = json.loads((folder / DRIVER_STATE).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointIncomplete(f"{folder} has no {DRIVER_STATE}") from error
    for name, size in document["files"].items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size:
            raise CheckpointIncomplete(f"{file} is missing or cut short")
    return document


def save(
    root: Path, step: int, model, optimizer, *, reference=None, identity: str, state: dict[str, Any], keep: int
) -> Path:
    """A collective. The tracker names the new checkpoint only once it is complete; what is not kept goes last.

    `reference`: a model whose weights have changed since the run began.
    """
    folder = iteration_dir(root, step)
    if dist.get_rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    dist.barrier()
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    strategy = FullyParallelSaveStrategyWrapper(TorchDistSaveShardedStrategy(), group)
    content = _sharded_state(model, optimizer, reference, step)
    dist_checkpointing.save(content, str(folder), strategy, content_metadata=_SHARDING)
    dist.barrier()
    if dist.get_rank() == 0:
        files = {str(file.relative_to(folder)): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
        _replace(folder / DRIVER_STATE, json.dumps({"identity": identity, "state": state, "files": files}))
        _replace(root / TRACKER, str(step))
        _remove_others(root, {folder, *(path for _, path in complete_checkpoints(root)[-keep:])})
    dist.barrier()
    return folder


def _remove_others(root: Path, kept: set[Path]) -> None:
    """Checkpoints beyond those kept, and incomplete ones: nothing picks them, and they fill the disk."""
    for _, folder in list(_iterations(root)):
        if folder not in kept:
            (folder / DRIVER_STATE).unlink(missing_ok=True)  # incomplete from here on, whatever interrupts the removal
            shutil.rmtree(folder)


def load_latest(root: Path, model, optimizer, *, reference=None, identity: str) -> tuple[int, dict[str, Any]] | None:
    """The newest complete checkpoint into model, optimizer and reference; its step and driver state. None without one.

    Raises UserError when it is another job's: continuing there would overwrite that job's work.
    """
    # One rank looks and tells: on shared storage others may not see the newest files yet, and all must load the same.
    newest = [_newest(root) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(newest)
    if newest[0] is None:
        return None
    step, folder, document = newest[0]
    if document["identity"] != identity:
        raise UserError(
            f"holds checkpoints of another job ({document['identity']}, this is {identity})",
            path=str(root),
            hint="choose another job name or run folder, or start over with --fresh",
        )
    if not any(key.startswith(REFERENCE) for key in dist_checkpointing.load_tensors_metadata(str(folder))):
        reference = None  # when this was saved it was still what the run began with
    content = _load(folder, _sharded_state(model, optimizer, reference))
    _load_weights(model, content["model"])
    optimizer.load_state_dict(content["optimizer"])
    own_what_was_loaded(optimizer)
    if reference is not None:
        _load_weights(reference, content["reference"])
    return step, document["state"]


def _newest(root: Path) -> tuple[int, Path, dict[str, Any]] | None:
    """Step, folder and driver document of the newest complete checkpoint."""
    found = complete_checkpoints(root)
    return (*found[-1], read_driver_state(found[-1][1])) if found else None


_SHAPE = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
    "tie_word_embeddings",
)
"""A deeper model would be cut, and nobody would notice."""


def load_weights(root: Path, model, hf, step: int | None = None) -> None:
    """Weights alone, from a Hugging Face folder or a Megatron checkpoint. Raises UserError."""
    if step is None and (root / "config.json").is_file():
        own = read_hf_config(root)
        if different := [name for name in _SHAPE if getattr(own, name, None) != getattr(hf, name, None)]:
            raise UserError(
                f"is of another model: {different[0]} is {getattr(own, different[0], None)}, "
                f"not {getattr(hf, different[0], None)}",
                path=str(root),
                hint="load weights of the model's own architecture and size",
            )
        load_hf(model, hf, HFWeights(root))
    else:
        load_model_weights(root, model, step)


def load_model_weights(root: Path, model, step: int | None = None) -> None:
    """Weights alone, from a torch_dist or legacy `torch` checkpoint. Raises UserError: no tracker, no such step, no
    checkpoint, another model's weights."""
    folder = find_iteration(root, step)
    if dist_checkpointing.check_is_distributed_checkpoint(str(folder)):
        _check_vocabulary(folder, model)
        try:
            content = _load(folder, {"model": _sharded_weights(model, loading=True)})["model"]
        except (CheckpointException, CheckpointingException) as error:
            raise UserError(
                f"its weights do not fit the model ({_reason(error)})",
                path=str(folder),
                hint="the checkpoint and the Hugging Face folder must be of one architecture and size",
            ) from error
    else:
        content = _load_legacy(folder)
    _load_weights(model, content)


def _load_legacy(folder: Path) -> dict[str, Any]:
    """This tensor-parallel rank's weights from the older `torch` format; it cannot be loaded under another layout."""
    file = folder / f"mp_rank_{parallel_state.get_tensor_model_parallel_rank():02d}" / "model_optim_rng.pt"
    if not file.is_file():
        raise UserError(
            "is neither a torch_dist nor a torch checkpoint", path=str(folder), hint=f"expected metadata.json or {file}"
        )
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)["model"]
    except pickle.UnpicklingError as error:
        raise UserError(
            "holds Python objects beside the weights, which are not loaded from a file",
            path=str(file),
            hint="convert it with Megatron-LM's --ckpt-convert-format torch_dist",
        ) from error


def find_iteration(root: Path, step: int | None = None) -> Path:
    """The iteration folder that `step`, or else the tracker file, names. Never "whatever is there"."""
    if re.fullmatch(r"iter_\d{7,}|release", root.name) and step is None:
        return root
    if step is None:
        try:
            said = (root / TRACKER).read_text().strip()
        except OSError as error:
            raise UserError(
                f"has no {TRACKER}: it is no Megatron checkpoint", path=str(root), hint="opd convert makes one"
            ) from error
        if not re.fullmatch(r"release|\d+", said):
            raise UserError(
                f"{TRACKER} says {said!r}, not a step", path=str(root), hint="write the step to use into it"
            )
        folder = root / "release" if said == "release" else iteration_dir(root, int(said))
    else:
        folder = iteration_dir(root, step)
    if not folder.is_dir():
        steps = ", ".join(sorted(f.name for f in root.glob("iter_*"))) or "none"
        raise UserError(f"has no {folder.name}; it has {steps}", path=str(root))
    return folder


def save_model_weights(root: Path, model) -> None:
    """Weights alone as a `release` checkpoint: what `opd convert` writes."""
    folder = root / "release"
    if dist.get_rank() == 0:
        folder.mkdir(parents=True)
    dist.barrier()
    content = {"model": _sharded_weights(model, loading=False), "checkpoint_version": 3.0}
    dist_checkpointing.save(content, str(folder), TorchDistSaveShardedStrategy(), content_metadata=_SHARDING)
    dist.barrier()
    if dist.get_rank() == 0:
        _replace(root / TRACKER, "release")


def _metadata() -> dict[str, Any]:
    return {**_SHARDING, "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True)}


def _sharded_state(model, optimizer, reference, step: int | None = None) -> dict[str, Any]:
    """What a run's checkpoint of `step` holds; to load one, no step is given."""
    prime_adam(optimizer)
    loading = step is None
    state = {"iteration": step, "checkpoint_version": 3.0, "model": _sharded_weights(model, loading=loading)}
    state["optimizer"] = optimizer.sharded_state_dict(state, is_loading=loading, metadata=_metadata())
    if reference is not None:
        state["reference"] = _sharded_weights(reference, loading=loading)
        add_prefix_for_sharding(state["reference"], REFERENCE)
    return state


def _sharded_weights(model, *, loading: bool) -> dict[str, Any]:
    weights = model.sharded_state_dict(metadata=_metadata())
    return {name: value for name, value in weights.items() if not (loading and _is_extra(name))}


def _load(folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    strategy = FullyParallelLoadStrategyWrapper(TorchDistLoadShardedStrategy(), group)
    return dist_checkpointing.load(state, str(folder), strategy)


def _load_weights(model, weights: dict[str, Any]) -> None:
    extra = {name: value for name, value in model.state_dict().items() if _is_extra(name)}
    model.load_state_dict({name: value for name, value in weights.items() if not _is_extra(name)} | extra)


def _is_extra(name: str) -> bool:
    """FP8 state, which we never have: Transformer Engine gives it to more layers than the portable spec does."""
    return name.endswith("_extra_state")


def _replace(path: Path, text: str) -> None:
    """Old or new text, never half of one, also when power fails."""
    part = path.with_name(path.name + ".part")
    with open(part, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _check_vocabulary(folder: Path, model) -> None:
    """Megatron loads an embedding of any number of rows, because it pads; missing ones would be what memory held."""
    stored = dist_checkpointing.load_tensors_metadata(str(folder)).get(EMBEDDING)
    if stored is not None and stored.global_shape[0] < model.vocab_size:
        raise UserError(
            f"its vocabulary has {stored.global_shape[0]} rows, the model's {model.vocab_size}",
            path=str(folder),
            hint="the checkpoint and the Hugging Face folder must be of one model",
        )


def _reason(error: Exception) -> str:
    """The first rank's failure, without the list of all tensors that follows."""
    failures = getattr(error, "failures", {0: (error, None)})
    return str(next(iter(failures.values()))[0]).strip("\"'").split(" not in state dict")[0][:200]
