"""Jobs of every kind and all children that the operator makes of them, for tests that look at manifests."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from opd_api.documents import ModelsReport, ModelSummary, Request
from opd_api.load import job_from_document
from opd_api.memory import estimate
from opd_api.spec import OPDJob
from opd_operator import build
from opd_operator.objects import Manifest
from opd_operator.settings import GIB, Settings

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples" / "arithmetic"
NAMESPACE = "research"
UID = "6f1c2b3a-0d4e-4f5a-8b6c-7d8e9f0a1b2c"
REQUEST = Request(attempt=1, stop="Suspend", time="2026-01-02T03:04:05Z")


def make_summary(**changes: Any) -> ModelSummary:
    """Qwen3-8B."""
    shape: dict[str, Any] = {
        "architecture": "Qwen3ForCausalLM",
        "hidden_size": 4096,
        "num_layers": 36,
        "num_heads": 32,
        "num_kv_heads": 8,
        "head_dim": 128,
        "ffn_hidden_size": 12288,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
        "parameter_count": 8_190_735_360,
        "tokenizer_fingerprint": "a" * 64,
        "eos_token_ids": (151645,),
    }
    return ModelSummary(**shape | changes)


TINY = make_summary(
    hidden_size=128, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=32, ffn_hidden_size=256, vocab_size=32
)
QWEN3_8B = make_summary()
QWEN3_32B = make_summary(hidden_size=5120, num_layers=64, num_heads=64, ffn_hidden_size=25600)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCase:
    """A job as the operator sees it."""

    job: OPDJob
    models: ModelsReport
    settings: Settings
    attempt: int = 1

    def children(self) -> list[Manifest]:
        """In the order the operator applies them over the job's life."""
        job, settings = self.job, self.settings
        memory = estimate(job, self.models.models, gpu_memory_bytes=settings.gpu_memory_bytes)
        found = [*build.foundation(job, self.attempt, self.models, REQUEST, settings), build.models_job(job, settings)]
        for teacher in job.spec.teachers:
            if teacher.mode == "SGLang" and not teacher.sglang.endpoint:
                found += build.teacher_set(job, teacher, settings, memory)
        return [*found, build.rayjob(job, self.attempt, settings, memory)]


def make_settings(**changes: Any) -> Settings:
    known: dict[str, Any] = {"key_seed": "a seed for tests", "gpu_memory_bytes": 80 * GIB}
    return Settings(**known | changes)


def make_job(document: dict[str, Any], *, namespace: str = NAMESPACE, uid: str = UID) -> OPDJob:
    """As read from the API server."""
    metadata = document["metadata"] | {"namespace": namespace, "uid": uid}
    return job_from_document(document | {"metadata": metadata})


def cases(namespace: str = NAMESPACE, uids: dict[str, str] | None = None) -> dict[str, JobCase]:
    """By name; `uids` are those of jobs that really exist."""
    found = {}
    for document in documents():
        name = document["metadata"]["name"]
        job = make_job(document, namespace=namespace, uid=(uids or {}).get(name, UID))
        teacher = job.spec.teachers[0]
        student, other = (TINY, TINY) if job.spec.device == "CPU" else (QWEN3_8B, QWEN3_32B)
        models = {"student": student} | ({teacher.name: other} if teacher.model else {})
        secrets = ("registry",) if name == "everything" else ()
        settings = make_settings(image_pull_secrets=secrets)
        found[name] = JobCase(job=job, models=ModelsReport(models=models), settings=settings)
    return found


def documents() -> list[dict[str, Any]]:
    examples = [yaml.safe_load(file.read_text()) for file in sorted(EXAMPLES.glob("opdjob*.yaml"))]
    return [*examples, *yaml.safe_load_all((HERE / "child_jobs.yaml").read_text())]


def pod_templates(children: list[Manifest]) -> dict[str, Manifest]:
    """By role, of every child that makes pods."""
    found = {}
    for child in children:
        match child["kind"]:
            case "Job" | "Deployment":
                templates = [child["spec"]["template"]]
            case "RayJob":
                cluster = child["spec"]["rayClusterSpec"]
                templates = [each["template"] for each in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
            case _:
                templates = []
        found |= {template["metadata"]["labels"]["opd.dev/role"]: template for template in templates}
    return found
