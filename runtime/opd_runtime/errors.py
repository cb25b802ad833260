"""What can go wrong while a job runs. The class says who acts.

OPDError                    (opd_api.errors)
├── InvalidJob              the user: a document's problems, all at once (opd_api.errors)
├── UserError               the user: found at start or while running; a retry would fail the same way
├── SourceUnavailable       nobody: a hub or bucket does not answer; later it may
├── TeacherUnavailable      nobody yet: the scorer retries until its deadline, then the attempt fails
├── LogprobsUnusable        nobody: the sample is masked and counted; above a share the step fails
├── EngineUnavailable       the loop: the engine is restarted with the current weights
├── TrainerLost             nobody: the attempt ends, the next one resumes from the newest checkpoint
├── AttemptLost             nobody: another driver has this attempt or a later one; this one ends and touches nothing
├── WeightSyncFailed        the loop: dead engines restart; three times in a row fails the attempt
└── CheckpointIncomplete    the resume: an older checkpoint is used
"""

import errno

from opd_api.errors import OPDError

NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
"""Numbers of the system's error when a volume or a quota is full."""


class LocatedError(OPDError):
    """`path` names the field or file, `hint` the way out."""

    def __init__(self, message: str, *, path: str = "", hint: str = "") -> None:
        self.path = path
        self.message = message
        self.hint = hint
        super().__init__((f"{path}: " if path else "") + message + (f"\nhint: {hint}" if hint else ""))


class UserError(LocatedError):
    """Something the user must change."""


class SourceUnavailable(LocatedError):
    """A hub or bucket could not be reached, or is out of order: the same job may work later."""


class TeacherUnavailable(OPDError):
    """The teacher did not answer within its deadline, or failed the semantic probe."""

    def __init__(self, message: str, *, reason: str = "TeacherUnavailable", hint: str = "") -> None:
        self.reason = reason
        super().__init__(message + (f"\nhint: {hint}" if hint else ""))


class LogprobsUnusable(OPDError):
    """A teacher answered with rows that are missing, not finite, positive, or of other tokens."""


class EngineUnavailable(OPDError):
    """A rollout engine died or stopped answering."""


class TrainerLost(OPDError):
    """A trainer process died: its ranks cannot go on without it."""


class AttemptLost(OPDError):
    """Somebody else has run this attempt, or runs a later one: this driver must leave everything as it is."""


class WeightSyncFailed(OPDError):
    """An engine's checksum differs from the trainer's, or it refused the weights."""


class CheckpointIncomplete(OPDError):
    """A checkpoint folder without its metadata or tracker."""
