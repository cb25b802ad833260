"""Conditions of an OPDJob and their reasons: one table. Sets no condition; that is the operator's."""

from enum import StrEnum
from typing import Final


class ConditionType(StrEnum):
    """What a condition is about. All follow `True is good` but Suspended, Degraded and Failed."""

    ACCEPTED = "Accepted"
    QUOTA_RESERVED = "QuotaReserved"
    MODELS_READY = "ModelsReady"
    TEACHER_READY = "TeacherReady"
    CLUSTER_READY = "ClusterReady"
    TRAINING = "Training"
    SUSPENDED = "Suspended"
    DEGRADED = "Degraded"
    COMPLETE = "Complete"
    FAILED = "Failed"


class Reason(StrEnum):
    """One word for programs; the message beside it is for people."""

    VALID = "Valid"
    INVALID = "Invalid"
    INSUFFICIENT_GPU_MEMORY = "InsufficientGPUMemory"
    INSUFFICIENT_TEACHER_MEMORY = "InsufficientTeacherMemory"
    KUBERAY_MISSING = "KubeRayMissing"
    FETCHING = "Fetching"
    FETCHED = "Fetched"
    FETCH_FAILED = "FetchFailed"
    TOKENIZER_MISMATCH = "TokenizerMismatch"
    CHECKPOINT_MISSING = "CheckpointMissing"
    TEACHER_STARTING = "TeacherStarting"
    LOGPROBS_UNAVAILABLE = "LogprobsUnavailable"
    UNIFORM_LOGPROBS = "UniformLogprobs"
    SAME_AS_STUDENT = "SameAsStudent"
    IN_PROCESS = "InProcess"
    PROBED = "Probed"
    PROVISIONING = "Provisioning"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    UNSCHEDULABLE = "Unschedulable"
    HEAD_LOST = "HeadLost"
    WORKER_LOST = "WorkerLost"
    READY = "Ready"
    RUNNING = "Running"
    PROGRESS_STALE = "ProgressStale"
    KL_SPIKE = "KLSpike"
    KL_NOT_FALLING = "KLNotFalling"
    REWARD_FALLING = "RewardFalling"
    SCORES_FAILING = "ScoresFailing"
    NO_CHECKPOINT = "NoCheckpoint"
    USER_ERROR = "UserError"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    STARTUP_DEADLINE_EXCEEDED = "StartupDeadlineExceeded"
    ACTIVE_DEADLINE_EXCEEDED = "ActiveDeadlineExceeded"


REASONS: Final[dict[ConditionType, tuple[Reason, ...]]] = {
    ConditionType.ACCEPTED: (
        Reason.VALID,
        Reason.INVALID,
        Reason.INSUFFICIENT_GPU_MEMORY,
        Reason.INSUFFICIENT_TEACHER_MEMORY,
        Reason.KUBERAY_MISSING,
    ),
    ConditionType.MODELS_READY: (
        Reason.FETCHED,
        Reason.FETCHING,
        Reason.FETCH_FAILED,
        Reason.TOKENIZER_MISMATCH,
        Reason.CHECKPOINT_MISSING,
    ),
    ConditionType.TEACHER_READY: (
        Reason.PROBED,
        Reason.TEACHER_STARTING,
        Reason.LOGPROBS_UNAVAILABLE,
        Reason.UNIFORM_LOGPROBS,
        Reason.SAME_AS_STUDENT,
        Reason.TOKENIZER_MISMATCH,
        Reason.IN_PROCESS,
    ),
    ConditionType.CLUSTER_READY: (
        Reason.READY,
        Reason.PROVISIONING,
        Reason.IMAGE_PULL_FAILED,
        Reason.UNSCHEDULABLE,
        Reason.HEAD_LOST,
        Reason.WORKER_LOST,
    ),
    ConditionType.TRAINING: (Reason.RUNNING, Reason.PROGRESS_STALE),
    ConditionType.DEGRADED: (
        Reason.KL_SPIKE,
        Reason.KL_NOT_FALLING,
        Reason.REWARD_FALLING,
        Reason.SCORES_FAILING,
        Reason.NO_CHECKPOINT,
    ),
    ConditionType.FAILED: (
        Reason.USER_ERROR,
        Reason.BACKOFF_LIMIT_EXCEEDED,
        Reason.STARTUP_DEADLINE_EXCEEDED,
        Reason.ACTIVE_DEADLINE_EXCEEDED,
    ),
}
"""Reasons a condition can have. Types that are not here say all with their status."""
