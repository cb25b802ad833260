"""Reward 1 when the response is the label, spaces around both aside; else 0."""

from ..sample import Sample
from .failure import RewardFailed


class ExactVerifier:
    async def verify(self, sample: Sample) -> float:
        if sample.label is None:
            raise RewardFailed("the record has no label to compare with")
        return float(sample.response.strip() == sample.label.strip())

    async def close(self) -> None:
        """Holds nothing."""
