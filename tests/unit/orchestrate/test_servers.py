"""How a group of servers ends when its keepers do not listen. Keepers are played; no Ray runs."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from opd_runtime.orchestrate import placement
from opd_runtime.orchestrate.actors import ServerSpec
from opd_runtime.orchestrate.placement import ENGINE_RESOURCE, Servers

SPEC = ServerSpec(
    name="engine",
    model_path=Path("model"),
    device="cpu",
    bf16=False,
    replicas=2,
    gpus=1,
    memory_fraction=0.8,
    args=(),
    api_key="",
    log_dir=Path("logs"),
)


@pytest.fixture
def did(monkeypatch) -> list[object]:
    """What happened to keepers and their place."""
    did: list[object] = []
    monkeypatch.setattr(placement.ray, "kill", lambda actor: did.append(("killed", actor.name)))
    monkeypatch.setattr(placement, "remove_placement_group", did.append)
    return did


def servers(did: list[object], *, urls: list[str], busy: str = "") -> Servers:
    """Two keepers; the one named `busy` takes no call."""

    def keeper(name: str) -> SimpleNamespace:
        async def stop() -> None:
            if name == busy:
                await asyncio.Event().wait()
            did.append(("stopped", name))

        return SimpleNamespace(name=name, stop=SimpleNamespace(remote=stop))

    made = Servers(SPEC, ENGINE_RESOURCE, 1800.0)
    made.actors, made.urls, made._group = [keeper("0"), keeper("1")], urls, "place"
    return made


ENDED = [("killed", "0"), ("killed", "1"), "place"]
URLS = ["http://0", "http://1"]


async def test_servers_that_work_end_in_order(did):
    await servers(did, urls=URLS).stop()
    assert did == [("stopped", "0"), ("stopped", "1"), *ENDED]


async def test_servers_that_still_load_end_at_once(did):
    await servers(did, urls=[], busy="0").stop()
    assert did == ENDED


async def test_a_keeper_that_is_restarting_its_server_is_not_waited_for_beyond_the_limit(did, monkeypatch):
    monkeypatch.setattr(placement, "STOP_SECONDS", 0.05)
    await servers(did, urls=URLS, busy="1").stop()
    assert did == [("stopped", "0"), *ENDED]


async def test_a_stop_that_is_itself_cancelled_leaves_nothing(did):
    stopping = asyncio.create_task(servers(did, urls=URLS, busy="1").stop())
    await asyncio.sleep(0.01)
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    assert stopping.cancelled() and did == [("stopped", "0"), *ENDED]
