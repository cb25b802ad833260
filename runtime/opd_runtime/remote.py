"""Fetches what a job names on the hub or in a bucket, and says whose fault it is when it cannot.

UserError: the name, the right to read it, or what lies there; the same again would fail the same way.
SourceUnavailable: the network or the other side; later it may work.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import NO_SPACE, SourceUnavailable, UserError
from .uri import Uri

DENIED = {401, 403}
BUCKET_OUT_OF_REACH = re.compile(
    r"NETWORK_CONNECTION|curlCode|SLOW_DOWN|THROTTLING|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT|"
    r"HTTP status (429|5\d\d)|[Tt]ime(d )?out"
)
"""What Arrow's words for an S3 error have when nobody has to change anything."""


def from_hub(uri: Uri, cache_dir: Path, patterns: list[str]) -> Path:
    """The snapshot's folder; its name is the commit, so another machine can fetch the very same."""
    from huggingface_hub import snapshot_download

    with _hub_errors(uri):
        folder = snapshot_download(
            uri.place, revision=uri.revision, cache_dir=cache_dir / "hub", allow_patterns=patterns
        )
    return Path(folder)


def parameter_count(uri: Uri) -> int:
    """Numbers in the weights of a model of the hub, from their headers there."""
    from huggingface_hub import get_safetensors_metadata

    with _hub_errors(uri):
        return sum(get_safetensors_metadata(uri.place, revision=uri.revision).parameter_count.values())


@contextmanager
def _hub_errors(uri: Uri) -> Iterator[None]:
    """What the hub's library raises, as an error that says who can do what."""
    import httpx
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(f"{uri.text} is gated", hint="accept its terms on the hub and set HF_TOKEN") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"{uri.text}: no revision {uri.revision}", hint="a branch, tag or commit of the repository"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise UserError(
            f"{uri.text}: the hub has no such model, or not for you",
            hint="check the name; a private one needs HF_TOKEN",
        ) from error
    except (errors.NotASafetensorsRepoError, errors.SafetensorsParsingError) as error:
        raise UserError(f"{uri.text} has no safetensors", hint="choose a model that has, or convert it") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        if _status(error) in DENIED:
            raise UserError(f"{uri.text}: the hub refuses the token", hint="check HF_TOKEN and its rights") from error
        _refuse_full_disk(uri, error)
        raise SourceUnavailable(
            f"{uri.text}: could not be fetched from the hub ({_first_line(error)})",
            hint="check the network or HF_ENDPOINT; or download the model elsewhere and name it as file:/// or pvc://",
        ) from error


def _status(error: BaseException | None) -> int:
    """HTTP status of an error or of what caused it; 0 without one."""
    while error is not None:
        if status := getattr(getattr(error, "response", None), "status_code", 0):
            return int(status)
        error = error.__cause__
    return 0


def _refuse_full_disk(uri: Uri, error: Exception) -> None:
    if getattr(error, "errno", None) in NO_SPACE:
        hint = "enlarge the cache: $OPD_CACHE here, modelCache.claimName in a cluster"
        raise UserError(f"{uri.text}: no space left for it", hint=hint) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def from_s3(uri: Uri, cache_dir: Path) -> Path:
    """Copies the prefix once; a copy that was interrupted leaves only `….part`, which the next try replaces."""
    from pyarrow import fs

    target = cache_dir / "s3" / uri.place / (uri.path or "_")
    if target.exists():
        return target
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    source = f"{uri.place}/{uri.path}".rstrip("/")
    try:
        bucket = s3_filesystem()
        kind = bucket.get_file_info(source).type
        if kind is fs.FileType.NotFound:
            raise UserError(f"{uri.text}: nothing there", hint="check bucket and prefix")
        (part if kind is fs.FileType.Directory else part.parent).mkdir(parents=True, exist_ok=True)
        fs.copy_files(source, str(part), source_filesystem=bucket, destination_filesystem=fs.LocalFileSystem())
        if not target.exists():
            part.rename(target)
    except OSError as error:
        _refuse_full_disk(uri, error)
        kind_of_error = SourceUnavailable if BUCKET_OUT_OF_REACH.search(str(error)) else UserError
        raise kind_of_error(
            f"{uri.text}: could not be fetched ({_first_line(error)})",
            hint="check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL",
        ) from error
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)
    return target


def s3_filesystem():
    """Credentials, region and endpoint come from the usual AWS_… environment."""
    from pyarrow import fs

    return fs.S3FileSystem(connect_timeout=10, request_timeout=60)
