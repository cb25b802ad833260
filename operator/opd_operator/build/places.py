"""Which URIs of a job a kind of pod reads, and where they lead: a claim, or something to fetch. Mounts nothing."""

from collections.abc import Iterable

from opd_api.spec import OPDJob, Teacher


def all_uris(job: OPDJob) -> list[str]:
    """The models Job compares everything with everything."""
    return _unique([*head_uris(job), *(teacher.model for teacher in job.spec.teachers)])


def head_uris(job: OPDJob) -> list[str]:
    """The driver finds what trainers read and its prompts; a teacher behind a server is not its to read."""
    sources = (*job.spec.data.prompts, *job.spec.evaluation.prompts)
    return _unique([*trainer_uris(job), *(source.uri for source in sources)])


def trainer_uris(job: OPDJob) -> list[str]:
    spec = job.spec
    inside = [teacher for teacher in spec.teachers if teacher.mode == "Megatron"]
    teachers = [uri for teacher in inside for uri in (teacher.model, teacher.megatron.load)]
    algorithm = spec.algorithm
    return _unique(
        [spec.student.model, spec.student.load, *teachers, algorithm.reference.model, algorithm.critic.model]
    )


def engine_uris(job: OPDJob) -> list[str]:
    """Config and tokenizer; weights come from the trainers."""
    return [job.spec.student.model]


def teacher_uris(teacher: Teacher) -> list[str]:
    return [teacher.model]


def claim_of(uri: str) -> str:
    """`pvc://CLAIM/PATH` -> CLAIM; "" for any other place."""
    return uri.removeprefix("pvc://").split("/", 1)[0] if uri.startswith("pvc://") else ""


def is_hub_dataset(uri: str) -> bool:
    return uri.startswith("hf://datasets/")


def is_remote(uri: str) -> bool:
    return uri.startswith(("hf://", "s3://"))


def _unique(uris: Iterable[str]) -> list[str]:
    """In order, without the empty ones."""
    return [uri for uri in dict.fromkeys(uris) if uri]
