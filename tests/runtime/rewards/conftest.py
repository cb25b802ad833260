"""Makers for reward tests with real processes and a real HTTP server."""

from collections.abc import Callable

import pytest

from opd_runtime.rollout.sample import Prompt, Sample


@pytest.fixture
def make_sample() -> Callable[..., Sample]:
    def make(response: str, label: str | None = None, **record: object) -> Sample:
        prompt = Prompt(index=0, text="1+1=", token_ids=(1,), label=label, record=dict(record))
        return Sample(prompt=prompt, group=0, response=response)

    return make
