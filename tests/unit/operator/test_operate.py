"""What a look at a job that fails becomes: a number, and a time to try again."""

import asyncio
from typing import Any

import pytest
from child_jobs import make_settings

from opd_operator import metrics, operate
from opd_operator.kube.api import ApiError, ApiUnavailable
from opd_operator.kube.queue import NotNow
from opd_operator.objects import JobKey


@pytest.mark.parametrize(
    ("raised", "want"),
    [
        pytest.param(ApiUnavailable("reset"), NotNow, id="an API server that is away"),
        pytest.param(ApiError(403, "no"), NotNow, id="a refusal"),
        pytest.param(KeyError("a bug"), KeyError, id="a bug of ours"),
    ],
)
def test_a_look_that_fails_is_counted(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, want: type[Exception]
) -> None:
    async def broken(*_: Any) -> None:
        raise raised

    async def main() -> None:
        work = operate.Work(None, make_settings(), None)  # type: ignore[arg-type]
        await work._reconcile(JobKey("ml", "demo"))

    monkeypatch.setattr(operate, "reconcile", broken)
    before = metrics.reconcile_errors._value.get()
    with pytest.raises(want):
        asyncio.run(main())
    assert metrics.reconcile_errors._value.get() == before + 1
