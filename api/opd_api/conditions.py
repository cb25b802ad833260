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
    RELEASED = "Released"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    UNSCHEDULABLE = "Unschedulable"
    OOM_KILLED = "OOMKilled"
    CRASH_LOOP_BACK_OFF = "CrashLoopBackOff"
    CONTAINER_FAILED = "ContainerFailed"
    REPLICA_FAILURE = "ReplicaFailure"
    PREVIOUS_PODS_REMAIN = "PreviousPodsRemain"
    NAME_TAKEN = "NameTaken"
    HEAD_LOST = "HeadLost"
    WORKER_LOST = "WorkerLost"
    READY = "Ready"
    RUNNING = "Running"
    STARTING = "Starting"
    RETRYING = "Retrying"
    STOPPED = "Stopped"
    PROGRESS_STALE = "ProgressStale"
    QUEUED = "Queued"
    ADMITTED = "Admitted"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"
    HEALTHY = "Healthy"
    FINISHED = "Finished"
    SUCCEEDED = "Succeeded"
    KL_SPIKE = "KLSpike"
    KL_NOT_FALLING = "KLNotFalling"
    REWARD_FALLING = "RewardFalling"
    SCORES_FAILING = "ScoresFailing"
    NO_CHECKPOINT = "NoCheckpoint"
    USER_ERROR = "UserError"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    STARTUP_DEADLINE_EXCEEDED = "StartupDeadlineExceeded"
    ACTIVE_DEADLINE_EXCEEDED = "ActiveDeadlineExceeded"


_POD_REASONS: Final = (
    Reason.IMAGE_PULL_FAILED,
    Reason.UNSCHEDULABLE,
    Reason.OOM_KILLED,
    Reason.CRASH_LOOP_BACK_OFF,
    Reason.CONTAINER_FAILED,
    Reason.REPLICA_FAILURE,
)
"""What can be wrong with pods, whoever they serve."""

REASONS: Final[dict[ConditionType, tuple[Reason, ...]]] = {
    ConditionType.ACCEPTED: (
        Reason.VALID,
        Reason.INVALID,
        Reason.INSUFFICIENT_GPU_MEMORY,
        Reason.INSUFFICIENT_TEACHER_MEMORY,
        Reason.KUBERAY_MISSING,
        Reason.NAME_TAKEN,
    ),
    ConditionType.QUOTA_RESERVED: (Reason.ADMITTED, Reason.QUEUED),
    ConditionType.MODELS_READY: (
        Reason.FETCHED,
        Reason.FETCHING,
        Reason.FETCH_FAILED,
        Reason.TOKENIZER_MISMATCH,
        Reason.CHECKPOINT_MISSING,
        *_POD_REASONS,
    ),
    ConditionType.TEACHER_READY: (
        Reason.PROBED,
        Reason.TEACHER_STARTING,
        Reason.LOGPROBS_UNAVAILABLE,
        Reason.UNIFORM_LOGPROBS,
        Reason.SAME_AS_STUDENT,
        Reason.TOKENIZER_MISMATCH,
        Reason.IN_PROCESS,
        Reason.RELEASED,
        *_POD_REASONS,
    ),
    ConditionType.CLUSTER_READY: (
        Reason.READY,
        Reason.PROVISIONING,
        Reason.RELEASED,
        Reason.HEAD_LOST,
        Reason.WORKER_LOST,
        Reason.PREVIOUS_PODS_REMAIN,
        *_POD_REASONS,
    ),
    ConditionType.TRAINING: (
        Reason.RUNNING,
        Reason.STARTING,
        Reason.RETRYING,
        Reason.PROGRESS_STALE,
        Reason.STOPPED,
    ),
    ConditionType.SUSPENDED: (Reason.SUSPENDED, Reason.SUSPENDING, Reason.RESUMED, Reason.FINISHED),
    ConditionType.DEGRADED: (
        Reason.HEALTHY,
        Reason.KL_SPIKE,
        Reason.KL_NOT_FALLING,
        Reason.REWARD_FALLING,
        Reason.SCORES_FAILING,
        Reason.NO_CHECKPOINT,
    ),
    ConditionType.COMPLETE: (Reason.SUCCEEDED,),
    ConditionType.FAILED: (
        Reason.USER_ERROR,
        Reason.BACKOFF_LIMIT_EXCEEDED,
        Reason.STARTUP_DEADLINE_EXCEEDED,
        Reason.ACTIVE_DEADLINE_EXCEEDED,
    ),
}
"""Reasons a condition can have."""
