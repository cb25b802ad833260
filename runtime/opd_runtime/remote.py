"""Fetches what a job names on the hub or in a bucket, and says whose fault it is when it cannot.

UserError: the name, the right to read it, or what lies there; the same again would fail the same way.
SourceUnavailable: the network or the other side; later it may work.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
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


@contextmanager
def dataset_errors(uri: Uri) -> Iterator[None]:
    """What the datasets library raises, as an error that says who can do what."""
    import httpx
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (OSError, ValueError, RuntimeError, httpx.HTTPError, DatasetsError) as error:
        _refuse_full_disk(uri, error)
        # A name or split that is not there is a DatasetsError or a ValueError; a hub that fails, any OSError.
        by_user = isinstance(error, DatasetsError | ValueError | RuntimeError) or _status(error) in DENIED
        message = f"could not be loaded: {_first_line(error) or type(error).__name__}"
        if by_user:
            hint = "check name, split (#train) and network; a private data set needs HF_TOKEN"
            raise UserError(message, path=uri.text, hint=hint) from error
        raise SourceUnavailable(message, path=uri.text, hint="check the network or HF_ENDPOINT") from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, then what it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int:
    """HTTP status of an error or of what caused it; 0 without one."""
    statuses = (getattr(getattr(cause, "response", None), "status_code", 0) for cause in _chain(error))
    return next((int(status) for status in statuses if status), 0)


def _refuse_full_disk(uri: Uri, error: Exception) -> None:
    if any(getattr(cause, "errno", None) in NO_SPACE for cause in _chain(error)):
        hint = "enlarge the cache: $OPD_CACHE here, modelCache.claimName in a cluster"
        raise UserError(f"{uri.text}: no space left for it", hint=hint) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def from_s3(uri: Uri, cache_dir: Path) -> Path:
    """Copies what is there once: a folder or a file, below a name of its own. Only a whole copy has its last name."""
    from pyarrow import fs

    # Not below its own path: fetching s3://b/x/y would make a folder that looks like a copy of s3://b/x.
    target = cache_dir / "s3" / uri.place / sha256(uri.path.encode()).hexdigest()[:32] / (Path(uri.path).name or "_")
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
