"""What a verifier raises when it cannot judge a sample."""

from opd_api.errors import OPDError


class RewardFailed(OPDError):
    """The sample is masked. `kind` is a short word for the counter, the message says what happened."""

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)
