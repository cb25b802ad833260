"""Weights reach the engines though some die meanwhile. Trainers and engines are played; no server runs."""

from types import SimpleNamespace

import pytest

from opd_runtime.errors import EngineUnavailable, WeightSyncFailed
from opd_runtime.orchestrate import placement
from opd_runtime.orchestrate.placement import Weights

DIES = EngineUnavailable("connection refused")
REFUSES = WeightSyncFailed("refused with 500")


class Played:
    """`failures`: how each send ends, None well; after them all end well. `dead`: who is found dead each time."""

    def __init__(self, failures, dead):
        self.failures, self.dead_each_time = list(failures), list(dead)
        self.urls = ["http://engine-0", "http://engine-1"]
        self.did: list[object] = []

    async def sync(self, transport, urls, scratch_dir):
        self.did.append("send")
        if self.failures and (failure := self.failures.pop(0)):
            raise failure
        return "sent"

    async def disconnect(self):
        """So that the next send connects anew."""

    async def dead(self):
        return self.dead_each_time.pop(0)

    async def restart(self, index):
        self.did.append(index)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.setattr(placement, "DYING_SECONDS", 0.0)

    def make(played):
        cfg = SimpleNamespace(run_dir=tmp_path, rollout=SimpleNamespace(weight_sync="Auto"))
        return Weights(cfg, played, played)

    return make


@pytest.mark.parametrize(
    ("failures", "dead", "want"),
    [
        pytest.param([], [], ["send"], id="all is well"),
        pytest.param([DIES], [[1]], ["send", 1, "send"], id="an engine had died"),
        pytest.param([DIES, DIES], [[], [1]], ["send", "send", 1, "send"], id="its death shows only the second time"),
        pytest.param([REFUSES, DIES], [[], [0]], ["send", "send", 0, "send"], id="it refuses, being about to die"),
        pytest.param([DIES], [[0, 1]], ["send", 0, 1, "send"], id="both had died"),
    ],
)
async def test_the_dead_come_back_and_get_the_weights(weights, failures, dead, want):
    played = Played(failures, dead)
    assert await weights(played).sync() == "sent"
    assert played.did == want


async def test_engines_that_live_and_refuse_end_it(weights):
    played = Played([REFUSES] * 3, [[], []])
    with pytest.raises(WeightSyncFailed):
        await weights(played).sync()
    assert played.did == ["send"] * 3
