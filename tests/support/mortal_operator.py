"""An operator inside the test's process that ends before or after one chosen write, and can be started again."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from opd_operator.kube.api import Api, ApiUnavailable, Body
from opd_operator.kube.writer import Verb, Writer
from opd_operator.objects import JobKey, Kind
from opd_operator.operate import Operator
from opd_operator.settings import Settings

type Moment = Literal["before", "after"]


class MortalOperator:
    """Its own thread and event loop. `writes` counts those of all its lives; `dies_at` is the number of the last one.

    What reaches the API server is what a process killed at that point would have sent: nothing follows the last write.
    """

    def __init__(self, kubeconfig: Path, settings: Settings, *, dies_at: int = 0, moment: Moment = "before") -> None:
        self._kubeconfig, self._settings = kubeconfig, settings
        self._dies_at, self._moment = dies_at, moment
        self.writes = 0
        self.died = threading.Event()

    def start(self) -> None:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    def wait_end(self, seconds: float) -> None:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the operator has not ended"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._work.cancel)
        self.wait_end(30)

    def step_into(self) -> bool:
        """Counts a write; whether it is the last."""
        self.writes += 1
        return self.writes == self._dies_at

    def die(self) -> None:
        self.died.set()
        self._work.cancel()

    @property
    def dies_before(self) -> bool:
        return self._moment == "before"

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with await Api.connect(self._kubeconfig) as api:
            operator = Operator(api, self._settings, lambda api, leads: _Door(self, api, leads))
            self._work = asyncio.create_task(operator.run())
            await asyncio.wait([self._work])


class _Door(Writer):
    def __init__(self, owner: MortalOperator, api: Api, may_write: Callable[[], bool]) -> None:
        super().__init__(api, may_write)
        self._owner, self._dead = owner, False

    async def write(self, verb: Verb, kind: Kind | None, key: JobKey, body: Body) -> Body:
        if self._dead:
            raise ApiUnavailable("this operator is dead")
        self._dead = self._owner.step_into()
        if not self._dead:
            return await super().write(verb, kind, key, body)
        try:
            if not self._owner.dies_before:
                await super().write(verb, kind, key, body)
        finally:  # also of a write that was refused
            self._owner.die()
        raise ApiUnavailable("the operator died")
