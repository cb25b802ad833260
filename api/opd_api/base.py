"""What documents of the contract are made of: the strict base model and the kinds of text a field can hold."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, StringConstraints, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

_ACRONYMS = {
    "max_tokens_per_gpu": "maxTokensPerGPU",
    "target_kl": "targetKL",
    "reward_kl_coef": "rewardKLCoef",
    "loss_kl_coef": "lossKLCoef",
    "lambda_": "lambda",
    "reverse_kl": "reverseKL",
    "initial_reverse_kl": "initialReverseKL",
    "reverse_kl_p95": "reverseKLP95",
    "score_latency_p95_milliseconds": "scoreLatencyP95Milliseconds",
    "teacher_gpu_bytes": "teacherGPUBytes",
    "export_uri": "exportURI",
    "dashboard_url": "dashboardURL",
    "pass_at_1": "passAt1",
}


def contract_name(attribute: str) -> str:
    """`kl_coef` -> `klCoef`; a few acronyms keep the contract's spelling."""
    return _ACRONYMS.get(attribute) or to_camel(attribute)


class Contract(BaseModel):
    """Base of all documents: frozen, strict about types, no unknown field, no NaN."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        populate_by_name=True,
        alias_generator=contract_name,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        serialize_by_alias=True,
    )


INT32_MAX = 2**31 - 1
_WORD = r"[A-Za-z_][A-Za-z0-9_]*"
_HF = r"hf://[^/\s@#]+/[^/\s@#]+(@[^\s@#]+)?"
_HF_DATASET = r"hf://datasets/[^/\s@#]+/[^/\s@#]+(@[^\s@#]+)?(#[^\s#]+)?"
_FOLDER = r"s3://[^/\s]+/[^\s]*|pvc://[a-z0-9][-a-z0-9.]*/[^\s]*|file:///[^\s]*"
_FOLDER_WORDS = "s3://BUCKET/PREFIX, pvc://CLAIM/PATH or file:///PATH"

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
OBJECT_NAME = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$"
MODEL_URI = rf"^({_HF}|{_FOLDER})$"
OPTIONAL_MODEL_URI = rf"^({_HF}|{_FOLDER})?$"
CHECKPOINT_URI = rf"^({_FOLDER})?$"
DATA_URI = rf"^({_HF_DATASET}|{_FOLDER})$"
HTTP_URL = r"^(https?://[^\s/]+[^\s]*)?$"
HOOK = rf"^([A-Za-z_][A-Za-z0-9_.]*\.{_WORD}|[^\s:]+\.py:{_WORD})?$"
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei)?$"

PATTERN_WORDS = {
    DNS_LABEL: "lower-case letters, digits and '-', for example math-teacher",
    OBJECT_NAME: "the name of a Kubernetes object: lower-case letters, digits, '-' and '.'",
    MODEL_URI: f"hf://ORG/NAME[@REVISION], {_FOLDER_WORDS}",
    OPTIONAL_MODEL_URI: f"hf://ORG/NAME[@REVISION], {_FOLDER_WORDS}",
    CHECKPOINT_URI: _FOLDER_WORDS,
    DATA_URI: f"hf://datasets/ORG/NAME[@REVISION][#SPLIT], {_FOLDER_WORDS}",
    HTTP_URL: "http://HOST[:PORT][/PATH] or https://…",
    HOOK: "package.module.function or path/to/file.py:function",
}
"""What a pattern asks for, for people."""


def _quantity(value: object) -> str | int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and len(value) <= 32 and re.fullmatch(QUANTITY.strip("^$"), value):
        return value
    raise PydanticCustomError("quantity", "is not a Kubernetes quantity such as 500m, 4 or 16Gi")


DNSLabel = Annotated[str, StringConstraints(pattern=DNS_LABEL, max_length=63)]
ObjectName = Annotated[str, StringConstraints(pattern=OBJECT_NAME, max_length=253)]
"""Name of another Kubernetes object, or empty."""
ModelURI = Annotated[str, StringConstraints(pattern=MODEL_URI, max_length=1024)]
OptionalModelURI = Annotated[str, StringConstraints(pattern=OPTIONAL_MODEL_URI, max_length=1024)]
CheckpointURI = Annotated[str, StringConstraints(pattern=CHECKPOINT_URI, max_length=1024)]
"""A Megatron checkpoint folder, or empty."""
DataURI = Annotated[str, StringConstraints(pattern=DATA_URI, max_length=1024)]
HttpURL = Annotated[str, StringConstraints(pattern=HTTP_URL, max_length=1024)]
"""A URL, or empty."""
Hook = Annotated[str, StringConstraints(pattern=HOOK, max_length=512)]
"""`package.module.function` or `path/to/file.py:function`, or empty."""
Text = Annotated[str, StringConstraints(max_length=512)]
Argument = Annotated[str, StringConstraints(max_length=1024)]
Quantity = Annotated[
    str | int,
    PlainValidator(_quantity),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": QUANTITY, "maxLength": 32, "minimum": 0}),
]
Positive = Annotated[int, Field(ge=1, le=INT32_MAX)]
NonNegative = Annotated[int, Field(ge=0, le=INT32_MAX)]
PodTemplate = dict[str, Any]
"""A PodTemplateSpec; its fields are Kubernetes' to check."""
