"""Makers of what the operator observes: a job with everything in place, and what a test changes about it."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from child_jobs import NAMESPACE, UID, make_settings, make_summary

from opd_api import names
from opd_api.documents import ModelsReport, Progress
from opd_api.load import job_from_document
from opd_api.spec import OPDJob
from opd_api.status import Condition, Status
from opd_operator import build
from opd_operator.observed import (
    ConfigFacts,
    DeploymentFacts,
    MailboxFacts,
    ModelsJobFacts,
    Observed,
    PodFacts,
    RayClusterFacts,
    RayJobFacts,
)
from opd_operator.plan import Plan, plan
from opd_operator.plan.models import source_digest
from opd_operator.plan.times import stamp
from opd_operator.settings import Settings

JOB = "job"
NOW = datetime(2026, 11, 25, 20, 10, tzinfo=UTC)
SETTINGS = make_settings()
MODELS = ModelsReport(
    models={
        "student": make_summary(
            parameter_count=1_000_000, hidden_size=64, num_layers=2, ffn_hidden_size=128, vocab_size=64
        ),
        "teacher": make_summary(
            parameter_count=1_000_000, hidden_size=64, num_layers=4, ffn_hidden_size=128, vocab_size=64
        ),
    }
)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def document(spec: Mapping[str, Any] | None = None, **teacher: Any) -> dict[str, Any]:
    """Everything small; `teacher` fields come over mode SGLang."""
    return {
        "apiVersion": "opd.dev/v1alpha1",
        "kind": "OPDJob",
        "metadata": {"name": JOB, "namespace": NAMESPACE, "uid": UID},
        "spec": {
            "device": "CPU",
            "student": {"model": "pvc://models/student"},
            "teachers": [{"mode": "SGLang", "model": "pvc://models/teacher"} | teacher],
            "data": {"prompts": [{"uri": "pvc://models/prompts.jsonl"}]},
            "rollout": {"batchSize": 4, "samplesPerPrompt": 4, "maxPromptTokens": 16, "maxResponseTokens": 16},
            "checkpoint": {"claimName": "checkpoints"},
            "steps": 300,
        }
        | dict(spec or {}),
    }


def make_job(spec: Mapping[str, Any] | None = None, **teacher: Any) -> OPDJob:
    return job_from_document(document(spec, **teacher))


def stored_models(job: OPDJob, models: ModelsReport = MODELS) -> ModelsReport:
    """As the config ConfigMap remembers them."""
    return models.model_copy(update={"source": source_digest(job)})


def make_condition(kind: str, status: str = "True", reason: str = "Valid", *, seconds_ago: float = 600) -> Condition:
    return Condition(type=kind, status=status, reason=reason, last_transition_time=stamp(ago(seconds_ago)))


def make_status(*conditions: Condition, accepted_seconds_ago: float = 600, **fields: Any) -> Status:
    """Accepted, models read."""
    accepted = make_condition("Accepted", seconds_ago=accepted_seconds_ago)
    known = {each.type: each for each in (accepted, make_condition("ModelsReady", reason="Fetched"))}
    known |= {each.type: each for each in conditions}
    return Status(observed_generation=1, conditions=tuple(known.values()), **fields)


def attempt_status(attempt: int = 1, *conditions: Condition, seconds_ago: float = 500, **fields: Any) -> Status:
    """An attempt whose RayJob was seen."""
    known = {
        "attempt": attempt,
        "attempt_start_time": stamp(ago(seconds_ago)),
        "start_time": stamp(ago(seconds_ago)),
        "ray_job_name": names.rayjob(JOB, attempt),
    }
    return make_status(*conditions, accepted_seconds_ago=seconds_ago + 60, **known | fields)


def training_status(attempt: int = 1, *conditions: Condition, **fields: Any) -> Status:
    return attempt_status(attempt, make_condition("Training", reason="Running", seconds_ago=300), *conditions, **fields)


def make_progress(attempt: int = 1, phase: str = "Training", *, seconds_ago: float = 10, **fields: Any) -> Progress:
    known = {"attempt": attempt, "phase": phase, "step": 120, "total_steps": 300, "time": stamp(ago(seconds_ago))}
    return Progress.model_validate(known | fields)


def make_mailbox(progress: Any = None, request: Any = None) -> MailboxFacts:
    return MailboxFacts(owner_uid=UID, resource_version="7", progress=progress, request=request)


def make_config(job: OPDJob | None = None, **fields: Any) -> ConfigFacts:
    known: dict[str, Any] = {"owner_uid": UID, "models": stored_models(job or make_job())}
    return ConfigFacts(**known | fields)


def make_models_job(**fields: Any) -> ModelsJobFacts:
    return ModelsJobFacts(**{"owner_uid": UID, "created": ago(20)} | fields)


def make_rayjob(attempt: int = 1, **fields: Any) -> RayJobFacts:
    known = {
        "name": names.rayjob(JOB, attempt),
        "owner_uid": UID,
        "attempt": attempt,
        "job_status": "RUNNING",
        "deployment_status": "Running",
        "cluster_name": f"{names.rayjob(JOB, attempt)}-x7k2p",
        "dashboard_url": "job-a1-head-svc:8265",
    }
    return RayJobFacts(**known | fields)


def make_cluster(attempt: int = 1, **fields: Any) -> RayClusterFacts:
    known = {
        "name": f"{names.rayjob(JOB, attempt)}-x7k2p",
        "attempt": attempt,
        "head_ready": True,
        "desired_workers": 2,
        "ready_workers": 2,
    }
    return RayClusterFacts(**known | fields)


def make_deployment(**fields: Any) -> DeploymentFacts:
    known = {"name": "job-teacher", "owner_uid": UID, "teacher": "teacher", "replicas": 1, "ready_replicas": 1}
    return DeploymentFacts(**known | fields)


def make_pod(role: str, *, attempt: int | None = 1, **fields: Any) -> PodFacts:
    ray = role in ("head", "trainer", "engine")
    known = {
        "name": f"job-{role}",
        "role": role,
        "attempt": attempt if ray else None,
        "teacher": "teacher" if role == "teacher" else "",
        "created": ago(400),
        "phase": "Running",
        "ready": True,
        "scheduled": True,
        "node": "node-1",
    }
    return PodFacts(**known | fields)


def ray_pods(attempt: int = 1, **fields: Any) -> tuple[PodFacts, ...]:
    return tuple(make_pod(role, attempt=attempt, **fields) for role in ("head", "trainer", "engine"))


def recorded(attempt: int = 1, *conditions: Condition, seconds_ago: float = 5, **fields: Any) -> Status:
    """An attempt that is written down, and nothing of it made."""
    start = stamp(ago(seconds_ago))
    return make_status(*conditions, **{"attempt": attempt, "attempt_start_time": start, "start_time": start} | fields)


def settled(observed: Observed) -> Observed:
    """The foundation is as it should be: its digest says so."""
    attempt, models = observed.status.attempt or 1, observed.config.models if observed.config else None
    assert observed.job is not None
    digest = build.foundation_digest(observed.job, attempt, models, SETTINGS)
    mailbox = observed.mailbox or make_mailbox()
    return replace(observed, config=ConfigFacts(owner_uid=UID, digest=digest, models=models), mailbox=mailbox)


def make_models_pod(report: ModelsReport | None = MODELS, **fields: Any) -> PodFacts:
    """Done, with its last words."""
    known = {"phase": "Succeeded", "ready": False, "termination_message": report.model_dump_json() if report else ""}
    return make_pod("models", **known | fields)


def make_observed(job: OPDJob | None = None, **fields: Any) -> Observed:
    """A job just created; what exists is said by `fields`."""
    known = {
        "namespace": NAMESPACE,
        "name": JOB,
        "uid": UID,
        "generation": 1,
        "resource_version": "100",
        "created": ago(3600),
        "job": job or make_job(),
        "status": Status(),
        "kuberay": True,
    }
    return Observed(**known | fields)


def fetching(**fields: Any) -> Observed:
    """The models are not known, and nothing else is there."""
    known: dict[str, Any] = {"status": make_status(), "models_job": make_models_job()}
    return make_observed(**known | fields)


def make_running(job: OPDJob | None = None, **fields: Any) -> Observed:
    """Attempt 1 trains and all is well."""
    job = job or make_job()
    known: dict[str, Any] = {
        "status": training_status(),
        "config": make_config(job),
        "mailbox": make_mailbox(make_progress()),
        "rayjobs": (make_rayjob(),),
        "rayclusters": (make_cluster(),),
        "deployments": (make_deployment(),),
        "pods": ray_pods(),
    }
    return make_observed(job, **known | fields)


def decide(observed: Observed, *, now: datetime = NOW, settings: Settings = SETTINGS) -> Plan:
    return plan(observed, settings, now)


def condition(decision: Plan | Status, kind: str) -> Condition | None:
    status = decision.status if isinstance(decision, Plan) else decision
    return next((each for each in status.conditions if each.type == kind), None)


def states(decision: Plan) -> dict[str, str]:
    """`Reason` of every condition that is True, `not Reason` of the others."""
    prefix = {"True": "", "False": "not ", "Unknown": "maybe "}
    return {each.type: prefix[each.status] + each.reason for each in decision.status.conditions}


def applied(decision: Plan) -> list[str]:
    """`Kind name`, in order."""
    return [f"{each['kind']} {each['metadata']['name']}" for each in decision.apply]


def deleted(decision: Plan) -> list[str]:
    return [f"{each.kind.kind} {each.name}" for each in decision.delete]


def after(observed: Observed, decision: Plan) -> Observed:
    """With the status written, and nothing else done."""
    return replace(observed, status=decision.status)
