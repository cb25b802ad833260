"""A loop whose clock jumps to the next timer instead of waiting, and makers of raw objects. Asserts nothing."""

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

type Body = dict[str, Any]


class JumpingLoop(asyncio.SelectorEventLoop):
    """Hours pass in no time."""

    def __init__(self) -> None:
        self._seconds = 1000.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self._seconds

    def jump(self, seconds: float) -> None:
        self._seconds += seconds


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("everybody waits and no timer is set: a deadlock")
        self._loop.jump(timeout)
        return super().select(0)


@pytest.fixture
def run() -> Callable[[Awaitable[Any]], Any]:
    """Runs a coroutine on a jumping clock."""

    def run_on_jumping_clock(main: Any) -> Any:
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            return runner.run(main)

    return run_on_jumping_clock


@pytest.fixture
def job_body() -> Callable[..., Body]:
    """An OPDJob as the API server sends it."""

    def make(version: int = 10, *, uid: str = "job-uid", name: str = "demo", status: Body | None = None) -> Body:
        return {
            "apiVersion": "opd.dev/v1alpha1",
            "kind": "OPDJob",
            "metadata": {
                "name": name,
                "namespace": "ml",
                "uid": uid,
                "resourceVersion": str(version),
                "generation": 1,
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
            },
            "spec": {
                "student": {"model": "hf://Qwen/Qwen3-8B"},
                "teachers": [{"mode": "SGLang", "model": "hf://Qwen/Qwen3-32B"}],
                "data": {"prompts": [{"uri": "hf://datasets/a/b"}]},
                "steps": 10,
            },
            **({"status": status} if status is not None else {}),
        }

    return make


@pytest.fixture
def child_body() -> Callable[..., Body]:
    """A child of job `demo`."""

    def make(name: str, version: int = 10, *, uid: str = "", role: str = "trainer", **parts: Any) -> Body:
        labels = {"opd.dev/job": "demo", "opd.dev/role": role, "opd.dev/attempt": "1", "opd.dev/teacher": "teacher"}
        return {
            "metadata": {
                "name": name,
                "namespace": "ml",
                "uid": uid or f"uid-of-{name}",
                "resourceVersion": str(version),
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": labels,
                "annotations": {"opd.dev/manifest": "0123456789abcdef"},
                "ownerReferences": [
                    {"kind": "Other", "uid": "bystander"},
                    {"kind": "OPDJob", "uid": "job-uid", "controller": True},
                ],
                **parts.pop("metadata", {}),
            },
            **parts,
        }

    return make
