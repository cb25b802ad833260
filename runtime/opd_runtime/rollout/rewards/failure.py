"""What a verifier raises when it cannot judge a sample."""

from opd_api.errors import OPDError


class RewardFailed(OPDError):
    """The sample is masked; the message says what happened."""
