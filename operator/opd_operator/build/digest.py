"""Digests of manifests and documents: what was applied already is known by them, and what it was made from."""

import hashlib
import json
from functools import cache

from opd_api.spec import OPDJob, Spec

from ..objects import DOCUMENT_DIGEST, MANIFEST_DIGEST, Manifest

_ALIVE: dict[str, bool | dict[str, bool]] = {
    "suspend": True,
    "steps": True,
    "run_policy": True,
    "checkpoint": {"keep": True},
}
"""Of the spec, what a living attempt takes over."""
_SMALLEST = """{"student": {"model": "hf://a/b"}, "teachers": [{"mode": "SGLang", "model": "hf://a/b"}],
  "data": {"prompts": [{"uri": "file:///p"}]}, "steps": 1}"""
DIGITS = 16
"""Hex digits that are kept: 64 bits tell manifests of one job apart."""


def digest(value: object) -> str:
    """Of canonical JSON: the order of keys does not matter, that of lists does."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def stamped(manifest: Manifest, value: str | None = None) -> Manifest:
    """`manifest` with its digest as annotation; `value` is used instead where one object speaks for several."""
    metadata = manifest["metadata"]
    annotations = metadata.get("annotations", {}) | {MANIFEST_DIGEST: value or digest(manifest)}
    return manifest | {"metadata": metadata | {"annotations": annotations}}


def digest_of(manifest: Manifest) -> str:
    """The digest that `manifest` carries."""
    carried: str = manifest["metadata"]["annotations"][MANIFEST_DIGEST]
    return carried


def document_digest(job: OPDJob) -> str:
    """Of what a living attempt cannot take over, with the contract that read it: another may fill in other defaults."""
    return f"{_contract()}/{digest(job.spec.model_dump_json(exclude=_ALIVE))}"


def of_document(manifest: Manifest, job: OPDJob) -> Manifest:
    """`manifest` with the digest of the document it is made from as annotation."""
    metadata = manifest["metadata"]
    annotations = metadata.get("annotations", {}) | {DOCUMENT_DIGEST: document_digest(job)}
    return manifest | {"metadata": metadata | {"annotations": annotations}}


def is_of_another(carried: str, job: OPDJob) -> bool:
    """Whether what carries this digest was made from a document that the job has no more, as far as we can tell."""
    return carried.partition("/")[0] == _contract() and carried != document_digest(job)


@cache
def _contract() -> str:
    """Digest of all that a version fills in."""
    return digest(Spec.model_validate_json(_SMALLEST).model_dump_json())
