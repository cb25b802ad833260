"""Rules that need the models' configs and tokenizers: do they fit each other, the layout, the lengths?

A rule is given the job and the summaries by role; a missing role (a teacher behind an endpoint) is not judged.
"""

from collections.abc import Callable, Iterator, Mapping

from ..documents import ModelSummary
from ..errors import Problem
from ..spec import OPDJob

type Models = Mapping[str, ModelSummary]
type ModelRule = Callable[[OPDJob, Models], Iterator[Problem]]

ARCHITECTURES = ("Qwen3ForCausalLM", "LlamaForCausalLM")
"""What the trainer can build."""


def architecture_is_known(job: OPDJob, models: Models) -> Iterator[Problem]:
    """Models in the trainer process must be of a known family; one behind a server may be any."""
    for path, _, model in _in_trainer(job, models):
        if model.architecture not in ARCHITECTURES:
            yield Problem(
                path=path,
                message=f"{model.architecture} is not available in this version",
                hint=f"use one of {', '.join(ARCHITECTURES)}",
            )


def tokenizers_are_equal(job: OPDJob, models: Models) -> Iterator[Problem]:
    """Scores are per token id: another tokenizer would score other words."""
    student = models.get("student")
    for path, _, model in _others(job, models):
        if student is not None and model.tokenizer_fingerprint != student.tokenizer_fingerprint:
            yield Problem(
                path=path,
                message="its tokenizer differs from the student's, so its log-probs would be of other words",
                hint="take a model of the student's family: the same text must become the same ids",
            )


def vocabulary_covers_the_students(job: OPDJob, models: Models) -> Iterator[Problem]:
    """Families pad one vocabulary to several sizes. More rows do no harm; fewer cannot score all the student writes."""
    student = models.get("student")
    for path, _, model in _others(job, models):
        if student is not None and model.vocab_size < student.vocab_size:
            yield Problem(
                path=path,
                message=f"its vocabulary has {model.vocab_size} rows, the student's {student.vocab_size}",
                hint="take a model whose vocabulary is as large as the student's",
            )


def context_holds_the_longest_sample(job: OPDJob, models: Models) -> Iterator[Problem]:
    """Prompt, response, and the one more token that a scoring request asks for."""
    rollout, evaluation = job.spec.rollout, job.spec.evaluation
    response = rollout.max_response_tokens
    for path, role, model in [*_student(models), *_others(job, models)]:
        evaluated = (evaluation.max_response_tokens or 0) if role == "student" and evaluation.every_steps else 0
        needed = rollout.max_prompt_tokens + max(response, evaluated) + 1
        context = model.max_position_embeddings
        longest = "evaluation.maxResponseTokens" if evaluated > response else "rollout.maxResponseTokens"
        if context < needed:
            yield Problem(
                path=path,
                message=f"its context of {context} tokens is shorter than prompt + response + 1 = {needed}",
                hint=f"lower rollout.maxPromptTokens or {longest}, or take a model with a longer context",
            )


def tensor_parallelism_divides_the_trainers_models(job: OPDJob, models: Models) -> Iterator[Problem]:
    """A Megatron teacher and a reference have the trainer's layout."""
    tensor = job.spec.student.parallelism.tensor
    for path, role, model in _in_trainer(job, models):
        for what, count in (
            ("attention heads", model.num_heads),
            ("key-value heads", model.num_kv_heads),
            ("feed-forward columns", model.ffn_hidden_size),
            ("vocabulary rows", model.vocab_size),
        ):
            if count % tensor:
                yield Problem(
                    path="spec.student.parallelism.tensor",
                    message=f"{tensor} does not divide the {count} {what} of {role} ({path})",
                    hint=f"choose a divisor of {count}",
                )


SHAPE = (
    "architecture",
    "hidden_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "ffn_hidden_size",
    "vocab_size",
    "tie_word_embeddings",
)
"""What two models must have in common for one to hold the other's weights."""


def reference_can_hold_the_student(job: OPDJob, models: Models) -> Iterator[Problem]:
    """A reference that follows the student takes over its weights."""
    if not job.spec.algorithm.reference.update_every_steps or not {"student", "reference"} <= models.keys():
        return
    ours, its = models["student"], models["reference"]
    different = [name for name in SHAPE if getattr(ours, name) != getattr(its, name)]
    if different:
        [first, *_] = different
        yield Problem(
            path="spec.algorithm.reference.updateEverySteps",
            message=f"the student's weights do not fit into reference.model: {first.replace('_', ' ')} is "
            f"{getattr(its, first)}, the student's {getattr(ours, first)}",
            hint="drop updateEverySteps, or drop reference.model: it then begins as the student",
        )


def pipeline_divides_layers(job: OPDJob, models: Models) -> Iterator[Problem]:
    """Every stage holds as many layers as the others."""
    pipeline = job.spec.student.parallelism.pipeline
    for path, role, model in _in_trainer(job, models):
        if model.num_layers % pipeline:
            yield Problem(
                path="spec.student.parallelism.pipeline",
                message=f"{pipeline} does not divide the {model.num_layers} layers of {role} ({path})",
                hint=f"choose a divisor of {model.num_layers}",
            )


def servers_divide_heads(job: OPDJob, models: Models) -> Iterator[Problem]:
    """An SGLang server splits its model over its GPUs by attention heads."""
    servers = [("student", "spec.rollout.engines.gpusPerReplica", job.spec.rollout.engines.gpus_per_replica)]
    for index, teacher in enumerate(job.spec.teachers):
        if teacher.mode == "SGLang" and not teacher.sglang.endpoint:
            path = f"spec.teachers[{index}].sglang.gpusPerReplica"
            servers.append((teacher.name, path, teacher.sglang.gpus_per_replica))
    for role, path, gpus in servers:
        model = models.get(role)
        if model is not None and model.num_heads % gpus:
            yield Problem(
                path=path,
                message=f"{gpus} does not divide the {model.num_heads} attention heads of {role}",
                hint=f"choose a divisor of {model.num_heads}",
            )


MODEL_RULES: tuple[ModelRule, ...] = (
    architecture_is_known,
    tokenizers_are_equal,
    vocabulary_covers_the_students,
    context_holds_the_longest_sample,
    tensor_parallelism_divides_the_trainers_models,
    reference_can_hold_the_student,
    pipeline_divides_layers,
    servers_divide_heads,
)


def _student(models: Models) -> Iterator[tuple[str, str, ModelSummary]]:
    if "student" in models:
        yield "spec.student.model", "student", models["student"]


def _others(job: OPDJob, models: Models) -> Iterator[tuple[str, str, ModelSummary]]:
    """Path, role and summary of teachers and reference."""
    for index, teacher in enumerate(job.spec.teachers):
        if teacher.name in models:
            yield f"spec.teachers[{index}].model", teacher.name, models[teacher.name]
    if "reference" in models:
        yield "spec.algorithm.reference.model", "reference", models["reference"]


def _in_trainer(job: OPDJob, models: Models) -> Iterator[tuple[str, str, ModelSummary]]:
    """Student, Megatron teachers and reference: what Megatron must build."""
    by_server = {teacher.name for teacher in job.spec.teachers if teacher.mode == "SGLang"}
    yield from _student(models)
    yield from ((path, role, model) for path, role, model in _others(job, models) if role not in by_server)
