"""What a URI of the contract says. Looks nowhere: `sources` finds what it names.

`pvc://CLAIM/PATH` is the folder `CLAIM/PATH` below $OPD_VOLUMES (in a pod, where claims are mounted; on one machine
`runs/volumes`), or what `--volume CLAIM=DIR` says.
"""

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from .errors import UserError

FORMS = "hf://ORG/NAME[@REVISION], hf://datasets/ORG/NAME[@REVISION][#SPLIT], s3://BUCKET/PREFIX, pvc://CLAIM/PATH, file:///PATH"


class Scheme(StrEnum):
    """What kind of place a URI names."""

    HF_MODEL = "hf"
    HF_DATASET = "hf-dataset"
    S3 = "s3"
    PVC = "pvc"
    FILE = "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Uri:
    """One parsed URI of the contract."""

    text: str
    scheme: Scheme
    place: str
    """ORG/NAME, bucket or claim; "" for a file."""
    path: str = ""
    """Path inside the bucket or claim, absolute for a file; "" on the hub."""
    revision: str | None = None
    split: str | None = None


HF_PATTERN = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[^#@]+))?(#(?P<split>[^#]+))?")


def parse_uri(text: str) -> Uri:
    """Raises UserError for any other form, and for `..` in a path: it would lead out of the claim or bucket."""
    scheme, separator, rest = text.partition("://")
    if ".." in PurePosixPath(rest).parts:
        raise UserError(f"`..` in {text}", hint="name the folder itself")
    if scheme == "hf" and separator:
        return _parse_hf(text, rest)
    if scheme == "file" and rest.startswith("/"):
        path = unquote(rest)  # file:///home/j%C3%BCrgen/my%20model: how a URI says what it has no letters for
        if ".." in PurePosixPath(path).parts:
            raise UserError(f"`..` in {text}", hint="name the folder itself")
        return Uri(text=text, scheme=Scheme.FILE, place="", path=path)
    place, _, path = rest.partition("/")
    if scheme in ("s3", "pvc") and place:
        return Uri(text=text, scheme=Scheme(scheme), place=place, path=path.strip("/"))
    if scheme == "file":
        raise UserError(f"{text} is a relative path", hint="file:/// and an absolute path, for example file:///data/x")
    raise UserError(f"{text!r} is not a URI this job can use", hint=f"one of {FORMS}")


def _parse_hf(text: str, rest: str) -> Uri:
    is_dataset = rest.startswith("datasets/")
    match = HF_PATTERN.fullmatch(rest.removeprefix("datasets/"))
    if match is None or (match["split"] and not is_dataset):
        raise UserError(f"{text} does not name a repository", hint=f"one of {FORMS}")
    return Uri(
        text=text,
        scheme=Scheme.HF_DATASET if is_dataset else Scheme.HF_MODEL,
        place=match["name"],
        revision=match["revision"],
        split=match["split"],
    )


def volumes_dir() -> Path:
    """The folder with a folder for each claim."""
    return Path(os.environ.get("OPD_VOLUMES", "runs/volumes"))


def uri_of(path: Path) -> str:
    """`pvc://CLAIM/PATH` of what lies on a mounted claim, `file:///PATH` of anything else."""
    volumes = volumes_dir().absolute()
    return f"pvc://{path.relative_to(volumes)}" if path.is_relative_to(volumes) else path.as_uri()
