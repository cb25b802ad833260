"""Documents that cross between operator and runtime, and what a models check leaves behind. Reads no file, writes none.

`progress.json` (runtime -> operator) and `request.json` (operator -> runtime) live in the job's mailbox ConfigMap. What
cannot be used becomes a DocumentError, which is a value: a bad report may never stop its reader.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError

from .base import Contract, NonNegative, Positive
from .status import Place, Sentence, ShortText, TeacherMode, Timestamp, Trend

PROGRESS_LIMIT_BYTES = 64 * 1024
"""Largest progress document a reader accepts; a ConfigMap holds 1 MiB in all."""
REPORT_INTERVAL_SECONDS = 5
"""The runtime reports at most this often."""

RunPhase = Literal["Starting", "Training", "Stopped", "Succeeded", "Failed"]


class ModelSummary(Contract):
    """What a Hugging Face folder says about itself: enough for shape rules, tokenizers and the memory plan."""

    architecture: str
    """First entry of `architectures` in config.json."""
    hidden_size: Positive
    num_layers: Positive
    num_heads: Positive
    num_kv_heads: Positive
    head_dim: Positive
    ffn_hidden_size: Positive
    vocab_size: Positive
    max_position_embeddings: Positive
    """Longest context in tokens."""
    tie_word_embeddings: bool
    """Whether input and output embedding are one tensor."""
    dtype: str
    """As stored, for example bfloat16."""
    parameter_count: Annotated[int, Field(ge=0)]
    tokenizer_fingerprint: str
    """Equal exactly when the same text becomes the same ids."""
    eos_token_ids: tuple[NonNegative, ...] = ()


class FieldProblem(Contract):
    """One thing that fetching found wrong."""

    path: Place
    """Field of the job, as in `spec.teachers[0].model`."""
    message: Sentence
    """What is wrong."""
    hint: Sentence = ""
    """What to do about it."""


class ModelsReport(Contract):
    """What `opd fetch` leaves as the termination message of the models Job: shapes, or what is wrong."""

    models: Annotated[dict[ShortText, ModelSummary], Field(max_length=16)] = Field(default_factory=dict)
    """By role: `student`, a teacher's name, `reference`."""
    problems: tuple[FieldProblem, ...] = Field((), max_length=32)
    """Empty when all could be read."""
    source: ShortText = ""
    """Digest of the URIs it is about, set by the operator: a job edited while it was suspended is read anew."""


class TeacherReport(Contract):
    """One teacher, as the runtime sees it."""

    name: ShortText
    mode: TeacherMode
    ready: bool = False
    """Whether it passed the semantic probe."""
    ready_replicas: NonNegative = 0
    """Servers that answer; in Megatron mode, ranks that hold it."""
    replicas: NonNegative = 0
    """Servers there should be."""
    failed_scores: NonNegative = 0
    """Samples it could not score, since the start."""
    score_latency_p95_milliseconds: Annotated[float, Field(ge=0)] | None = None
    reverse_kl: float | None = None
    """Mean over its samples of the newest step, nats per token."""


class CheckpointReport(Contract):
    """The newest complete checkpoint."""

    step: NonNegative
    uri: Place
    export_uri: Place | None = None


class ErrorReport(Contract):
    """Why an attempt ended."""

    actor: Literal["User", "Infrastructure"]
    """User: a retry would fail the same way. Infrastructure: try again."""
    reason: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    """One word for programs."""
    path: Place = ""
    """Field or file to change."""
    message: Sentence = ""


class Progress(Contract):
    """`progress.json`: the runtime's report."""

    attempt: Positive
    phase: RunPhase
    step: NonNegative
    """Finished steps."""
    total_steps: NonNegative
    time: Timestamp
    metrics: Annotated[dict[Annotated[str, StringConstraints(max_length=128)], float], Field(max_length=512)] = Field(
        default_factory=dict
    )
    """Of the newest step, by the names of the metrics table; every value is finite."""
    trend: Trend | None = None
    """Of reverse KL."""
    teachers: tuple[TeacherReport, ...] = Field((), max_length=8)
    checkpoint: CheckpointReport | None = None
    message: Sentence = ""
    """One sentence for people."""
    error: ErrorReport | None = None


class Request(Contract):
    """`request.json`: what the operator asks the runtime to do."""

    attempt: Positive
    stop: Literal["Suspend", "Delete", "Evict"] | None = None
    """Save a checkpoint, report `phase: Stopped`, end."""
    time: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentError:
    """Why a document cannot be used."""

    reason: Literal["TooLarge", "Unreadable"]
    message: str


def parse_progress(data: bytes) -> Progress | DocumentError:
    """Never raises."""
    return _parse(Progress, data)


def parse_models(data: bytes) -> ModelsReport | DocumentError:
    """Never raises."""
    return _parse(ModelsReport, data)


def parse_request(data: bytes) -> Request | DocumentError:
    """Never raises."""
    return _parse(Request, data)


def _parse[Document: Contract](kind: type[Document], data: bytes) -> Document | DocumentError:
    if len(data) > PROGRESS_LIMIT_BYTES:
        return DocumentError(reason="TooLarge", message=f"{len(data)} bytes; at most {PROGRESS_LIMIT_BYTES} are read")
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return DocumentError(reason="Unreadable", message=f"{where}: {first['msg']}" if where else first["msg"])
