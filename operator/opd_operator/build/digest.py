"""Digests of manifests: what was applied already is known by them. Compares nothing itself."""

import hashlib
import json

from ..objects import MANIFEST_DIGEST, Manifest

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
