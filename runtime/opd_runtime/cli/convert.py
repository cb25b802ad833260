"""`opd convert`: Hugging Face folder -> Megatron checkpoint, and back. Which way is plain from what the source is."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError
from ..sources import missing_model_files, resolve_checkpoint
from .models import cache_dir
from .options import Volumes, volumes_of


def convert(
    source: Annotated[
        str, typer.Argument(help="A Hugging Face folder or a Megatron checkpoint; hf:// and pvc:// too.")
    ],
    destination: Annotated[Path, typer.Argument(help="A folder that does not exist yet, or is empty.")],
    model: Annotated[
        str | None, typer.Option(metavar="HF_DIR", help="Config and tokenizer; needed from Megatron to Hugging Face.")
    ] = None,
    step: Annotated[
        int | None, typer.Option(min=0, help="Which of a Megatron checkpoint's steps; default: its tracker file's.")
    ] = None,
    volumes: Volumes = None,
) -> None:
    """Convert a Hugging Face folder into a Megatron checkpoint (torch_dist), or a Megatron checkpoint back.

    \b
    opd convert hf://Qwen/Qwen3-8B models/qwen3-8b
    opd convert runs/demo/checkpoints exported --model hf://Qwen/Qwen3-8B

    Runs on the CPU. Weights keep their type, so there and back gives the same bits.
    """
    # Both directions are copies of bytes: a GPU would only be in the way. Before torch is imported.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    found = local_folder(source, volumes)
    if (found / "config.json").is_file():
        if model is not None or step is not None:
            raise typer.BadParameter(f"{source} is a Hugging Face folder: --model and --step do not apply to it")
        check_weights(found)
        with new_folder(destination) as part:
            from ..megatron.offline import hf_to_megatron

            kind, dtype = "Megatron checkpoint", hf_to_megatron(found, part)
    else:
        if model is None:
            raise typer.BadParameter(
                f"{source} is no Hugging Face folder (no config.json); if it is a Megatron checkpoint, add"
                " --model HF_DIR: a model of the same shape, for config and tokenizer"
            )
        like = local_folder(model, volumes)
        if not (like / "config.json").is_file():
            raise UserError("has no config.json", path=str(like), hint="--model wants a Hugging Face folder")
        with new_folder(destination) as part:
            from ..megatron.offline import megatron_to_hf

            kind, dtype = "Hugging Face folder", megatron_to_hf(found, part, like, step)
    typer.echo(f"{destination}: {kind}, {str(dtype).removeprefix('torch.')}")


def local_folder(text: str, volumes: list[str] | None) -> Path:
    """A path or a URI as a folder of this machine."""
    if "://" in text:
        return resolve_checkpoint(text, volumes_of(volumes), cache_dir())
    if not Path(text).is_dir():
        raise UserError("no such folder", path=text)
    return Path(text)


def check_weights(folder: Path) -> None:
    """Whole files with whole tensors."""
    from ..model_summary import parameter_count

    missing = missing_model_files(folder)
    if missing:
        raise UserError(f"lacks {', '.join(missing)}", path=str(folder), hint="copy or download it again")
    parameter_count(folder)


@contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """A name to write to, beside `destination`, whose name it takes only when the block ends well."""
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UserError("is there already", path=str(destination), hint="name a new folder, or remove this one")
    part = destination.absolute().with_name(f"{destination.absolute().name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        part.rename(destination)
    finally:
        shutil.rmtree(part, ignore_errors=True)
