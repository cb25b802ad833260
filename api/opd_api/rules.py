"""What an OPDJob may not say although each field alone is fine: one table. Field types and bounds are in `spec`."""

from collections.abc import Mapping

from .documents import ModelSummary
from .errors import Problem
from .spec import OPDJob


def check_static(job: OPDJob) -> list[Problem]:
    """Problems the document alone shows."""
    return []


def check_models(job: OPDJob, models: Mapping[str, ModelSummary]) -> list[Problem]:
    """Problems the models show; `models` by role: "student", a teacher's name, "reference"."""
    return []
