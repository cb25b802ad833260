"""Where what a job names lies on this machine: has what is remote fetched, says what is missing. Asks neither hubs nor
buckets itself: that is `remote`'s.
"""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path

from . import remote
from .errors import UserError
from .uri import Scheme, Uri, parse_uri, volumes_dir

TRACKER_FILE = "latest_checkpointed_iteration.txt"
INDEX_FILE = "model.safetensors.index.json"
MODEL_PATTERNS = ["*.json", "*.jinja", "*.txt", "*.model"]
"""Config and tokenizer; weights are WEIGHT_PATTERNS."""
WEIGHT_PATTERNS = ["*.safetensors"]


def resolve_model(uri: str, volumes: Mapping[str, Path], cache_dir: Path, *, weights: bool = True) -> Path:
    """The local folder with config.json, tokenizer, safetensors; fetched if need be. UserError names what lacks.

    Without `weights` those of the hub stay there.
    """
    parsed = parse_uri(uri)
    folder = _locate(parsed, volumes, cache_dir, weights=weights)
    missing = missing_model_files(folder, weights=weights or parsed.scheme is not Scheme.HF_MODEL)
    if missing:
        raise UserError(
            f"{uri}: {folder} is no Hugging Face model: it lacks {', '.join(missing)}", hint=_place_hint(parsed)
        )
    return folder


def resolve_checkpoint(uri: str, volumes: Mapping[str, Path], cache_dir: Path, *, step: int | None = None) -> Path:
    """The local folder of a Megatron checkpoint (`step`, or else tracker file and the iteration it names) or a Hugging
    Face model."""
    parsed = parse_uri(uri)
    folder = _locate(parsed, volumes, cache_dir)
    if step is not None:
        _find_step(folder, step)
        return folder
    if (folder / "config.json").exists():
        return resolve_model(uri, volumes, cache_dir)
    tracker = folder / TRACKER_FILE
    if not tracker.is_file():
        raise UserError(
            f"{uri}: {folder} is no checkpoint: it has no tracker file {TRACKER_FILE}",
            hint="name the folder that holds the tracker file, not one of its iterations",
        )
    said = tracker.read_text().strip()
    if not (said == "release" or said.isdecimal()):
        raise UserError(
            f"{tracker}: {said!r} is neither an iteration nor `release`", hint="write the newest iteration into it"
        )
    iteration = folder / ("release" if said == "release" else f"iter_{int(said):07d}")
    if not iteration.is_dir():
        raise UserError(
            f"{tracker} names {iteration.name}, which is not there",
            hint="put the folder back, or name another checkpoint",
        )
    return folder


def _find_step(folder: Path, step: int) -> None:
    if not (folder / f"iter_{step:07d}").is_dir():
        there = ", ".join(sorted(each.name for each in folder.glob("iter_*"))) or "no iterations"
        raise UserError(
            f"{folder} has no iter_{step:07d}; it has {there}", hint="set checkpointStep to a step that was saved"
        )


def resolve_prompts(uri: str, volumes: Mapping[str, Path], cache_dir: Path) -> str:
    """A local file or folder; `hf://datasets/…` is left as it is: the datasets library keeps its own cache."""
    parsed = parse_uri(uri)
    if parsed.scheme is Scheme.HF_DATASET:
        return uri
    if parsed.scheme is Scheme.HF_MODEL:
        raise UserError(f"{uri} names a model, not prompts", hint=f"hf://datasets/{parsed.place} names a data set")
    return str(_locate(parsed, volumes, cache_dir))


def is_remote(uri: str) -> bool:
    """Whether it names a folder of the hub or of a bucket."""
    return parse_uri(uri).scheme in (Scheme.HF_MODEL, Scheme.S3)


def pinned(uri: str, folder: Path) -> str:
    """The URI of what `folder` holds: of the hub's names, that of the commit."""
    parsed = parse_uri(uri)
    return f"hf://{parsed.place}@{folder.name}" if parsed.scheme is Scheme.HF_MODEL else uri


def fetch_here(uri: str, path: Path, cache_dir: Path, step: int | None = None) -> None:
    """Brings what another machine has at `path` to the same place here, unless it is there. One process at a time."""
    if path.is_dir() and not ((path / "config.json").exists() and missing_model_files(path)):
        return
    cache_dir.mkdir(parents=True, exist_ok=True)
    with open(cache_dir / ".fetching", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = resolve_checkpoint(uri, {}, cache_dir, step=step)
    assert found == path, f"{uri} is at {found} here, elsewhere at {path}"


def missing_model_files(folder: Path, *, weights: bool = True) -> list[str]:
    """What a Hugging Face model folder lacks, in words; empty when it is whole."""
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        missing.append("a tokenizer (tokenizer.json)")
    if weights:
        files = weight_files(folder)
        missing += [file.name for file in files if not file.is_file()] if files else ["weights (*.safetensors)"]
    return missing


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a model's tensors: those its index names, else every safetensors file."""
    index = folder / INDEX_FILE
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    try:
        return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError("is no index of safetensors", path=str(index), hint="copy or download it again") from error


def _locate(uri: Uri, volumes: Mapping[str, Path], cache_dir: Path, *, weights: bool = True) -> Path:
    """The file or folder on this machine; it exists."""
    match uri.scheme:
        case Scheme.HF_MODEL:
            return remote.from_hub(uri, cache_dir, MODEL_PATTERNS + WEIGHT_PATTERNS * weights)
        case Scheme.S3:
            return remote.from_s3(uri, cache_dir)
        case Scheme.PVC:
            path = (volumes.get(uri.place, volumes_dir() / uri.place) / uri.path).absolute()
        case Scheme.FILE:
            path = Path(uri.path)
        case Scheme.HF_DATASET:
            raise UserError(f"{uri.text} names a data set, not a model", hint="hf://ORG/NAME names a model")
    if not path.exists():
        raise UserError(f"{uri.text}: {path} does not exist", hint=_place_hint(uri))
    return path


def _place_hint(uri: Uri) -> str:
    if uri.scheme is Scheme.PVC and "OPD_VOLUMES" in os.environ:
        return f"put it on the claim {uri.place}, or correct the path"
    if uri.scheme is Scheme.PVC:
        return f"put it there, or say where the claim's files are: --volume {uri.place}=DIR"
    return "correct the URI, or put the files there"


def hub_parameter_count(uri: str) -> int | None:
    """Numbers in the weights of `hf://…`, from their headers on the hub; None for any other place."""
    parsed = parse_uri(uri)
    return remote.parameter_count(parsed) if parsed.scheme is Scheme.HF_MODEL else None
