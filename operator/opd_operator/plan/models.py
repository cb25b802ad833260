"""What is known about the job's models: a report, a reason to wait, or a reason to refuse. Reads no model."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from opd_api.conditions import Reason
from opd_api.documents import DocumentError, FieldProblem, ModelsReport, parse_models
from opd_api.errors import Problem
from opd_api.memory import MemoryEstimate
from opd_api.rules import check_models
from opd_api.rules.shapes import tokenizers_are_equal
from opd_api.spec import OPDJob

from ..build import is_of_another
from ..observed import ModelsJobFacts
from . import memory
from .situation import Situation
from .verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Where the models of the job stand."""

    report: ModelsReport | None = None
    """Shapes of all of them, for the URIs of the document as it is now."""
    stored: bool = False
    """Whether the config ConfigMap remembers the report; until then the models Job is kept."""
    estimate: MemoryEstimate | None = None
    """Given with every report."""
    trying: Verdict | None = None
    """What the newest try found wrong, while the models Job goes on trying: a claim may still be filled."""
    failed: Verdict | None = None
    """The models Job has given up."""
    failed_by_user: bool = True
    refused: Verdict | None = None
    """The models are there and the job cannot be run with them."""
    again: bool = False
    """The models Job ended and its words are lost: it has to run once more."""


def source_digest(job: OPDJob) -> str:
    """Of all that the models Job reads: equal digest, equal report."""
    spec = job.spec
    read = {
        "student": [spec.student.model, spec.student.load],
        "teachers": [
            [each.name, each.mode, each.model, each.sglang.endpoint, each.megatron.load, each.megatron.checkpoint_step]
            for each in spec.teachers
        ],
        "reference": spec.algorithm.reference.model,
        "prompts": [each.uri for each in (*spec.data.prompts, *spec.evaluation.prompts)],
        "cache": spec.model_cache.claim_name,
    }
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()[:16]


def models_of(situation: Situation, job: OPDJob) -> Models:
    """From the config ConfigMap, or from the models Job while that does not hold them yet; judged."""
    stored = stored_models(situation, job)
    if stored.report is not None:
        return replace(stored, refused=_refusal(situation, job, stored.report))
    fetched = situation.models_job
    if fetched is None:
        return Models()
    if is_of_another(fetched.document, job):
        return Models(again=True)
    report = _newest_report(situation)
    if isinstance(report, ModelsReport) and _is_whole(report):
        told = report.model_copy(update={"source": source_digest(job)})
        refused = _refusal(situation, job, told)
        return Models(report=told, estimate=_estimate(situation, job, told), refused=refused)
    if fetched.failed or fetched.succeeded:
        return _gave_up(situation, fetched, report)
    if isinstance(report, ModelsReport) and report.problems:
        message = f"{joined(report.problems)}; trying again"
        return Models(trying=Verdict(reason=_reason(report.problems), message=message))
    return Models()


def stored_models(situation: Situation, job: OPDJob) -> Models:
    """What the config ConfigMap remembers, if it is about the document's models as they are now."""
    stored = remembered(situation, job)
    return stored if stored.report is not None and stored.report.source == source_digest(job) else Models()


def remembered(situation: Situation, job: OPDJob) -> Models:
    """What the config ConfigMap remembers: what the living attempt was made with. No question is asked again."""
    report = situation.config.models if situation.config else None
    if report is None or not _is_whole(report):
        return Models()
    return Models(report=report, stored=True, estimate=_estimate(situation, job, report))


def _estimate(situation: Situation, job: OPDJob, report: ModelsReport) -> MemoryEstimate:
    return memory.estimate_of(job, report.models, situation.settings)


def _is_whole(report: ModelsReport) -> bool:
    return not report.problems and "student" in report.models


def _newest_report(situation: Situation) -> ModelsReport | DocumentError | None:
    """Of the models Job's pods; a later try knows better."""
    told = [pod.termination_message for pod in situation.pods("models") if pod.termination_message]
    return parse_models(told[-1].encode()) if told else None


def _gave_up(situation: Situation, job: ModelsJobFacts, report: ModelsReport | DocumentError | None) -> Models:
    if isinstance(report, ModelsReport) and report.problems:
        return Models(failed=Verdict(reason=_reason(report.problems), message=joined(report.problems)))
    if job.succeeded and report is None:
        # The pod went before anybody read it. While there is a pod, its words may still be on their way.
        return Models(again=not situation.pods("models"))
    if report is not None:
        why = report.message if isinstance(report, DocumentError) else "it does not describe the student"
        message = f"the models Job's report cannot be used ({why}); is the runtime image of this operator's version?"
        return Models(failed=Verdict(reason=Reason.FETCH_FAILED, message=message))
    words = next((pod.last_words for pod in reversed(situation.pods("models")) if pod.last_words), "")
    message = f"the models could not be read: {job.failed}" + (f" ({words})" if words else "")
    return Models(failed=Verdict(reason=Reason.FETCH_FAILED, message=message), failed_by_user=False)


def _reason(problems: tuple[FieldProblem, ...]) -> Reason:
    missing = all(problem.path.endswith(("load", "checkpointStep")) for problem in problems)
    return Reason.CHECKPOINT_MISSING if missing else Reason.FETCH_FAILED


def _refusal(situation: Situation, job: OPDJob, report: ModelsReport) -> Verdict | None:
    """Do the models fit each other, the layout and the GPUs?"""
    if problems := check_models(job, report.models):
        words = any(tokenizers_are_equal(job, report.models))
        return Verdict(reason=Reason.TOKENIZER_MISMATCH if words else Reason.INVALID, message=joined(problems))
    return memory.refusal(job, report.models, situation.settings)


def joined(problems: Sequence[FieldProblem | Problem]) -> str:
    """All of them in one line."""
    return "; ".join(
        f"{problem.path}: {problem.message}" + (f" ({problem.hint})" if problem.hint else "") for problem in problems
    )
