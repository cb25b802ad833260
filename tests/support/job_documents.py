"""The smallest OPDJob, changes to it, and the tables of changes (tests/unit/api/*.yaml) that several rooms read."""

from pathlib import Path
from typing import Any

import yaml

from opd_api.kubectl_yaml import parse_document

TABLES = Path(__file__).parents[1] / "unit" / "api"

MINIMAL = """
apiVersion: opd.dev/v1alpha1
kind: OPDJob
metadata: {name: qwen3-8b-opd}
spec:
  student: {model: hf://Qwen/Qwen3-8B}
  teachers: [{mode: SGLang, model: hf://Qwen/Qwen3-32B}]
  data: {prompts: [{uri: hf://datasets/zhuzilin/dapo-math-17k}]}
  checkpoint: {claimName: checkpoints}
  steps: 300
"""


def changed_job(changes: str) -> dict[str, Any]:
    """The smallest job with YAML merged into its spec (or, from `metadata:` or `kind:` on, into the document)."""
    parsed = yaml.safe_load(changes) or {}
    whole = parsed if set(parsed) & {"apiVersion", "kind", "metadata", "spec", "status"} else {"spec": parsed}
    return _merged(yaml.safe_load(MINIMAL), whole)


def table(name: str) -> dict[str, Any]:
    """Sentence -> what the table says of it."""
    return {str(sentence): row for sentence, row in parse_document((TABLES / name).read_text(), name).items()}


def _merged(base: Any, changes: Any) -> Any:
    """Objects are merged, everything else is replaced; null takes a field out."""
    if not (isinstance(base, dict) and isinstance(changes, dict)):
        return changes
    result = {key: _merged(base.get(key), value) for key, value in {**base, **changes}.items() if key in changes}
    return {key: value for key, value in {**base, **result}.items() if value is not None}
