"""Brings the trainer's weights into the rollout engines and proves that they arrived. Runs in trainer rank 0.

After every sync each engine hashes the parameters it computes with, and the sums must be those of the tensors that the
trainer exported. A version number proves nothing: SGLang accepts unknown names and keeps what it was not sent.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..errors import WeightSyncFailed
from .weight_checksum import ExpectedChecksums
from .weight_transports import (
    DiskTransport,
    DistributedTransport,
    Engines,
    NamedTensors,
    TensorTransport,
    Transport,
    buckets,
)

BUCKET_BYTES = {"Distributed": 128 * 2**20, "Tensor": 16 * 2**20, "Disk": 128 * 2**20}
"""A request of 170 MB takes SGLang's HTTP server four times as long as ten of 17 MB."""
DEADLINE_SECONDS = 600.0
"""For one call. SGLang first lets running generations finish, so it is longer than a bucket takes."""
_SHOWN_DIFFERENCES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncReport:
    """One proven sync."""

    version: int
    seconds: float
    """All of it: export, transport, proof."""
    proof_seconds: float
    """What the proof added: the engines' hashing and the comparison."""
    bytes: int
    """Of the weights, once, however many engines took them."""
    tensors: int
    checksums: dict[str, str]
    """Engine URL -> SGLang's checksum over all its parameters and ranks."""


class WeightSender:
    """Connections to a set of engines. After an engine restarted: `close`, and make a new one."""

    def __init__(
        self,
        transport: Literal["Distributed", "Tensor", "Disk"],
        urls: Sequence[str],
        *,
        scratch_dir: Path,
        kv_heads: int,
        bucket_bytes: int | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        """`scratch_dir`: for Disk, a folder all engines can read. `kv_heads`: the model's; how k and v are split."""
        self.transport: Transport | None = None
        self.kind, self.scratch_dir = transport, scratch_dir
        self.kv_heads, self.bucket_bytes = kv_heads, bucket_bytes or BUCKET_BYTES[transport]
        self.engines = Engines(urls, deadline_seconds)

    def connect(self) -> None:
        """Asks the engines how they are split, and joins them in a process group where the transport needs one."""
        self._ask_layout()
        self.transport = self._new_transport()
        self.transport.connect()

    def send(self, weights: Iterator[tuple[str, Tensor]], version: int) -> SyncReport:
        """The weights (Hugging Face names, full tensors, the engines' dtype) into every engine, then the proof.

        Connects first where that was not done. Raises WeightSyncFailed when an engine refuses or then holds other
        weights, EngineUnavailable when one does not answer in time. What the engines hold is undefined then: restart
        the dead, make a new sender, send again. `weights` is iterated to its end always: other ranks export in step.
        """
        started = time.perf_counter()
        try:
            if self.transport is None:
                self.connect()
            assert self.transport is not None
            watched = self._watched(weights)
            try:
                self.transport.publish(buckets(watched, self.bucket_bytes), str(version))
                return self._prove(watched, version, started)
            finally:
                self.transport.settled()
        finally:
            _exhaust(weights)

    def verify(self, weights: Iterator[tuple[str, Tensor]], version: int) -> SyncReport:
        """The proof alone, for engines that loaded these very weights from their folder; they take on `version`.

        An independent check of the trainer, too: what it exports must be what SGLang read from the same files.
        """
        started = time.perf_counter()
        try:
            self._ask_layout()
            watched = self._watched(weights)
            _exhaust(iter(watched))
            report = self._prove(watched, version, started)
        finally:
            _exhaust(weights)
        self.engines.post("/update_weight_version", {"new_version": str(version), "abort_all_requests": False})
        return report

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()
            self.transport = None
        self.engines.close()

    def _prove(self, sent: "_Watched", version: int, started: float) -> SyncReport:
        proof_started = time.perf_counter()
        if not sent.tensors:
            raise WeightSyncFailed("the trainer exported no weights")
        answers = self.engines.post("/weights_checker", {"action": "checksum"})
        for url, answer in zip(self.engines.urls, answers, strict=True):
            different = list(sent.expected.differences(answer["ranks"]))
            if different:
                raise WeightSyncFailed(_different(url, version, different))
        now = time.perf_counter()
        return SyncReport(
            version=version,
            seconds=now - started,
            proof_seconds=now - proof_started,
            bytes=sent.bytes,
            tensors=sent.tensors,
            checksums={u: answer["per_engine_checksum"] for u, answer in zip(self.engines.urls, answers, strict=True)},
        )

    def _ask_layout(self) -> None:
        sizes = {answer["tp_size"] for answer in self.engines.get("/server_info")}
        if len(sizes) != 1:
            raise WeightSyncFailed(f"engines with different tensor-parallel sizes: {sorted(sizes)}")
        self.tensor_parallel = sizes.pop()

    def _watched(self, weights: NamedTensors) -> "_Watched":
        return _Watched(weights, ExpectedChecksums(tensor_parallel=self.tensor_parallel, kv_heads=self.kv_heads))

    def _new_transport(self) -> Transport:
        match self.kind:
            case "Tensor":
                return TensorTransport(self.engines, self.tensor_parallel)
            case "Distributed":
                return DistributedTransport(self.engines, self.tensor_parallel, cuda=torch.cuda.is_available())
            case "Disk":
                return DiskTransport(self.engines, self.scratch_dir)


class _Watched:
    """Hands tensors on and hashes each on its way, so the proof needs no second export."""

    def __init__(self, weights: NamedTensors, expected: ExpectedChecksums) -> None:
        self.weights, self.expected = weights, expected
        self.bytes = self.tensors = 0

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self.weights:
            self.expected.add(name, tensor)
            self.bytes += tensor.nbytes
            self.tensors += 1
            yield name, tensor


def _exhaust(iterator: Iterator[object]) -> None:
    for _ in iterator:
        pass


def _different(url: str, version: int, lines: Sequence[str]) -> str:
    more = f"\n  and {len(lines) - _SHOWN_DIFFERENCES} more" if len(lines) > _SHOWN_DIFFERENCES else ""
    shown = "".join(f"\n  {line}" for line in lines[:_SHOWN_DIFFERENCES])
    return f"{url} does not hold the trainer's weights of version {version}:{shown}{more}"
