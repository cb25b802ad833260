"""What one pass sends although something of it was refused."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from opd_operator import reconcile as module
from opd_operator.kube.api import ApiError
from opd_operator.objects import JobKey

NO = ApiError(403, "admission says no")


class Refusing:
    """A Kube that refuses what `what` names."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.sent: list[str] = []

    def observe(self, key: JobKey) -> str:
        return "seen"

    async def write_status(self, *_: Any) -> str:
        return "1"

    async def send_events(self, *_: Any) -> None: ...

    async def delete(self, *_: Any) -> None:
        self._send("delete")

    async def apply(self, *_: Any) -> None:
        self._send("apply")

    def _send(self, what: str) -> None:
        self.sent.append(what)
        if what == self.what:
            raise NO


@pytest.mark.parametrize("what", ["delete", "apply"])
def test_what_is_refused_holds_nothing_else_back(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """A RayJob must go although its teacher is refused; a teacher must come although an old Job cannot be deleted."""
    decision = SimpleNamespace(status=None, events=(), fence=None, apply=(), delete=(), delete_job=False)
    monkeypatch.setattr(module, "plan", lambda *_: decision)
    kube = Refusing(what)
    with pytest.raises(ApiError):
        asyncio.run(module.reconcile(JobKey("n", "j"), kube, None, lambda: datetime.now(UTC)))  # type: ignore[arg-type]
    assert sorted(kube.sent) == ["apply", "delete"]
