"""The three ways weights reach SGLang: over a process group, inside HTTP requests, through a folder. No proof here.

All take buckets of (Hugging Face name, full tensor); the engines fuse and shard. SGLang lets running generations finish
before it touches its weights and lets new ones wait, so nothing is paused; the loop syncs between rollouts anyway.
"""

import base64
import io
import os
import pickle
import shutil
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol
from unittest.mock import patch
from urllib.parse import urlsplit

import httpx
import orjson
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from ..errors import EngineUnavailable, WeightSyncFailed

NamedTensors = Iterable[tuple[str, Tensor]]
Call = Future[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Bucket:
    """Some tensors of one dtype that travel together."""

    named: tuple[tuple[str, Tensor], ...]
    last: bool
    """With the last one the engine takes the new version and forgets the old weights' KV cache."""

    def flat(self) -> Tensor:
        """All bytes, one tensor after the other."""
        return torch.cat([tensor.detach().reshape(-1).view(torch.uint8) for _, tensor in self.named])


def buckets(weights: NamedTensors, limit_bytes: int) -> Iterator[Bucket]:
    """Cut at `limit_bytes` (a larger tensor travels alone) and where the dtype changes, so every view is aligned."""
    held: list[tuple[str, Tensor]] = []
    size = 0
    for name, tensor in weights:
        if held and (size + tensor.nbytes > limit_bytes or tensor.dtype != held[0][1].dtype):
            yield Bucket(tuple(held), last=False)
            held, size = [], 0
        held.append((name, tensor))
        size += tensor.nbytes
    if held:
        yield Bucket(tuple(held), last=True)


class Engines:
    """Control calls to all engines at once, each on its own pooled connection."""

    def __init__(self, urls: Sequence[str], deadline_seconds: float) -> None:
        self.urls = [url.rstrip("/") for url in urls]
        self.deadline_seconds = deadline_seconds
        # For each engine a call that hangs and the one that cleans up after it; a broadcast and its abort.
        self._threads = ThreadPoolExecutor(2 * len(urls) + 2, thread_name_prefix="weight-sync")
        # The server drops an idle connection after 5 s: ours go first, or a request could meet one that is closing.
        self._http = httpx.Client(timeout=deadline_seconds, trust_env=False, limits=httpx.Limits(keepalive_expiry=2))

    def get(self, path: str) -> list[dict[str, Any]]:
        return self.settle([self.run(self._request, "GET", url + path) for url in self.urls])

    def post(self, path: str, body: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """The same request to every engine; their answers in order."""
        return self.settle(self.start(path, body))

    def start(self, path: str, body: dict[str, Any] | None = None) -> list[Call]:
        """As `post`, without waiting."""
        content = orjson.dumps(body or {})
        return [self.run(self._request, "POST", url + path, content) for url in self.urls]

    def start_each(self, path: str, bodies: Sequence[dict[str, Any]]) -> list[Call]:
        """One body for each engine, without waiting."""
        pairs = zip(self.urls, bodies, strict=True)
        return [self.run(self._request, "POST", url + path, orjson.dumps(body)) for url, body in pairs]

    def settle(self, calls: Sequence[Call], beside: Future[Any] | None = None) -> list[dict[str, Any]]:
        """Answers of `calls`; the first failure, of a call or of what runs `beside` them, ends the wait."""
        everything = [*calls, *([beside] if beside else [])]
        done, pending = wait(everything, timeout=self.deadline_seconds, return_when=FIRST_EXCEPTION)
        for future in everything:
            if future in done:
                future.result()  # raises what it raised
        if pending:
            raise EngineUnavailable(
                f"no answer to a weight update within {self.deadline_seconds:.0f} s from {self.urls}"
            )
        return [call.result() for call in calls]

    def run(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """`function` in one of the threads."""
        return self._threads.submit(function, *arguments)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._http.close()

    def _request(self, method: str, url: str, content: bytes = b"") -> dict[str, Any]:
        try:
            headers = {"Content-Type": "application/json"} if content else None
            response = self._http.request(method, url, content=content, headers=headers)
        except httpx.HTTPError as error:
            raise EngineUnavailable(f"{url}: {type(error).__name__}: {error}") from error
        try:
            answer = response.json() if response.content else {}
        except ValueError:
            answer = {"message": response.text[:500]}
        if response.is_error or answer.get("success") is False:
            raise WeightSyncFailed(f"{url} refused with {response.status_code}: {_reason(answer)}")
        return answer


class Transport(Protocol):
    """How the sender sees a transport."""

    def connect(self) -> None: ...

    def publish(self, parts: Iterator[Bucket], version: str) -> None:
        """All buckets to all engines. Raises WeightSyncFailed or EngineUnavailable; engines may then hold a part."""

    def settled(self) -> None:
        """Every rank of every engine has proven its weights, or the sync has failed."""

    def close(self) -> None: ...


class TensorTransport:
    """Weights in the body of a POST. Needs nothing but HTTP; base64 makes it the slow one for large models."""

    def __init__(self, engines: Engines, tensor_parallel: int) -> None:
        self.engines, self.tensor_parallel = engines, tensor_parallel

    def connect(self) -> None: ...

    def publish(self, parts: Iterator[Bucket], version: str) -> None:
        open_session(self.engines)
        sending: list[Call] = []
        for part in parts:
            body = {
                "serialized_named_tensors": [_pickled(part)] * self.tensor_parallel,
                "load_format": "flattened_bucket",
                **_final(part, version),
            }
            self.engines.settle(sending)  # so one bucket is in flight while the next is packed
            sending = self.engines.start("/update_weights_from_tensor", body)
        self.engines.settle(sending)
        self.engines.post("/end_weight_update")

    def settled(self) -> None: ...

    def close(self) -> None: ...


class DistributedTransport:
    """Broadcast from this process (rank 0) to all tensor-parallel ranks of all engines: NCCL on GPUs, gloo on CPUs."""

    def __init__(self, engines: Engines, tensor_parallel: int, *, cuda: bool) -> None:
        self.engines, self.tensor_parallel, self.cuda = engines, tensor_parallel, cuda
        # SGLang can make a group of a name only once, so a name is never used again.
        self.name = f"opd-{uuid.uuid4().hex[:12]}"
        self._group: Any = None

    def connect(self) -> None:
        timeout = timedelta(seconds=self.engines.deadline_seconds)
        host = _address_towards(self.engines.urls[0])
        store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timeout)
        world_size = 1 + len(self.engines.urls) * self.tensor_parallel
        bodies = [
            {
                "master_address": host,
                "master_port": store.port,
                "rank_offset": 1 + index * self.tensor_parallel,
                "world_size": world_size,
                "group_name": self.name,
                "backend": "cuda:nccl" if self.cuda else "cpu:gloo",
            }
            for index in range(len(self.engines.urls))
        ]
        joining = self.engines.start_each("/init_weights_update_group", bodies)
        group = self.engines.run(_make_group, store, self.name, world_size, timeout, self.cuda)
        self.engines.settle(joining, beside=group)
        self._group = group.result()

    def publish(self, parts: Iterator[Bucket], version: str) -> None:
        open_session(self.engines)
        for part in parts:
            body = {
                "names": [name for name, _ in part.named],
                "dtypes": [str(tensor.dtype).removeprefix("torch.") for _, tensor in part.named],
                "shapes": [list(tensor.shape) for _, tensor in part.named],
                "group_name": self.name,
                "load_format": "flattened_bucket",
                **_final(part, version),
            }
            receiving = self.engines.start("/update_weights_from_distributed", body)
            # An engine that refuses never joins the broadcast, which would then wait for ever: both are watched.
            broadcast = self.engines.run(self._broadcast, part.flat())
            try:
                self.engines.settle(receiving, beside=broadcast)
            except Exception:
                self.close()
                raise
        self.engines.post("/end_weight_update")

    def settled(self) -> None: ...

    def close(self) -> None:
        """Leaves the group. Engines destroy it first, which ends a broadcast that one of them refused to join."""
        if self._group is None:
            return
        leaving = self.engines.start("/destroy_weights_update_group", {"group_name": self.name})
        wait(leaving, timeout=10)
        self.engines.run(self._group.abort)  # waits for a pending broadcast, so not here
        self._group = None

    def _broadcast(self, flat: Tensor) -> None:
        options = dist.BroadcastOptions()
        options.rootRank = 0
        try:
            self._group.broadcast([flat], options).wait(timedelta(seconds=self.engines.deadline_seconds))
        except RuntimeError as error:
            raise EngineUnavailable(f"broadcasting weights to {self.engines.urls}: {error}") from error


class DiskTransport:
    """Safetensors in a folder that every engine can read; gone when the sync ends."""

    def __init__(self, engines: Engines, scratch_dir: Path) -> None:
        self.engines, self.scratch_dir = engines, scratch_dir
        self._folders: list[Path] = []

    def connect(self) -> None: ...

    def publish(self, parts: Iterator[Bucket], version: str) -> None:
        folder = self.scratch_dir / f"weights-{version}-{uuid.uuid4().hex[:8]}"
        partial = folder.with_suffix(".partial")
        self._folders = [partial, folder]
        partial.mkdir(parents=True)
        for number, part in enumerate(parts):
            # Cloned, because safetensors refuses tensors that share memory and an export may hand out views.
            tensors = {name: tensor.detach().clone().contiguous() for name, tensor in part.named}
            save_file(tensors, partial / f"model-{number:05d}.safetensors", metadata={"format": "pt"})
        partial.rename(folder)
        self.engines.post("/update_weights_from_disk", {"model_path": str(folder), "weight_version": version})

    def settled(self) -> None:
        # Not before the proof: an engine answers once its first rank has read, and dies if another then cannot.
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        self.settled()


def open_session(engines: Engines) -> None:
    """SGLang takes tensors only in a session. One that a dead sender left open is ended first."""
    try:
        engines.post("/begin_weight_update")
    except WeightSyncFailed:
        for call in engines.start("/end_weight_update"):
            call.exception(engines.deadline_seconds)
        engines.post("/begin_weight_update")


def _final(part: Bucket, version: str) -> dict[str, Any]:
    return {"flush_cache": part.last} | ({"weight_version": version} if part.last else {})


def _load_from_bytes(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


# Importing megatron-core 0.19 replaces `torch.storage._load_from_bytes`, and every tensor pickled afterwards names
# Megatron's function, which SGLang's unpickler forbids (it ends the server). pickle writes a function as its module and
# name and insists on finding it there, so one of the right name stands there while we pickle. It does the same:
# a thread that unpickles a tensor meanwhile is not disturbed.
_load_from_bytes.__module__, _load_from_bytes.__qualname__ = "torch.storage", "_load_from_bytes"


def _pickled(part: Bucket) -> str:
    """SGLang's flattened bucket: one storage for all, and no class of SGLang is needed to say what is in it."""
    contents, position = [], 0
    for name, tensor in part.named:
        contents.append(
            SimpleNamespace(
                name=name,
                shape=tensor.shape,
                dtype=tensor.dtype,
                start_idx=position,
                end_idx=position + tensor.nbytes,
                numel=tensor.nbytes,
            )
        )
        position += tensor.nbytes
    with patch.object(torch.storage, "_load_from_bytes", _load_from_bytes):
        raw = pickle.dumps({"flattened_tensor": part.flat().cpu(), "metadata": contents}, protocol=5)
    return base64.b64encode(raw).decode()


_NCCL_RAISES = "TORCH_NCCL_BLOCKING_WAIT"
"""`wait` then waits for the GPU, and raises what went wrong."""


def _make_group(store: dist.Store, name: str, world_size: int, timeout: timedelta, cuda: bool) -> Any:
    """A group known to nobody else: the trainer's default group and SGLang's stay as they are.

    The prefixes are those on SGLang's side of the store: its own, torch's for the group, torch's for the device.
    """
    for prefix in (name, f"{name}/", "cuda/" if cuda else "cpu/"):
        store = dist.PrefixStore(prefix, store)
    if not cuda:
        return dist.ProcessGroupGloo(store, 0, world_size, timeout)
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timeout
    # Read by the constructor alone. Without it a watchdog ends this process, the trainer, for an engine that died.
    os.environ[_NCCL_RAISES] = "1"
    try:
        return dist.ProcessGroupNCCL(store, 0, world_size, options)
    finally:
        del os.environ[_NCCL_RAISES]


def _address_towards(url: str) -> str:
    """This machine's address as the engine sees it. Sends nothing: UDP only picks a route."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((parts.hostname, parts.port))
        return str(probe.getsockname()[0])


def _reason(answer: dict[str, Any]) -> str:
    return str(answer.get("message") or answer.get("error") or answer.get("detail") or answer)[:1000]
