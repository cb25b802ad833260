"""Rules of the document alone about what runs where: the name, the student's layout, rollout, teachers, queueing."""

import re

from ..models import Student, Teacher
from ..names import JOB_NAME_LENGTH, RESERVED_TEACHER_NAMES
from ..spec import Spec
from .rule import Rule, ignored_unless, not_available

_WORLD = "{0}.trainers.replicas * {0}.trainers.gpusPerReplica"
_MODEL_PARALLEL = "({0}.parallelism.tensor * {0}.parallelism.pipeline * {0}.parallelism.context)"
_SHARES = f"({_WORLD} / {_MODEL_PARALLEL} * self.algorithm.updatesPerStep)".format("self.student")
_SAMPLES = "self.rollout.batchSize * self.rollout.samplesPerPrompt"
_BY_SERVER = "self.teachers.exists(t, t.mode == 'SGLang')"
_TASK_REWARD = "(self.reward.type != 'None' && self.reward.weight > 0.0)"
_NEEDS_PLAIN_SAMPLING = (
    "{value} does not fit a teacher with mode: SGLang. The server scores the plain distribution at temperature 1, "
    "so reverse KL would be biased"
)
_SERVER = ("replicas", "gpusPerReplica", "memoryFraction", "args", "resources", "podTemplate")
_UNTOUCHED = Teacher(mode="SGLang")


def has_task_reward(spec: Spec) -> bool:
    """Whether a task reward enters the advantages."""
    return spec.reward.type != "None" and spec.reward.weight > 0


def _samples_plainly(spec: Spec, value: float, plain: float) -> bool:
    return value == plain or all(teacher.mode != "SGLang" for teacher in spec.teachers)


def _data_parallel(student: Student) -> float:
    """Not whole when the layout does not fit the world size, which is another rule's problem."""
    split = student.parallelism.tensor * student.parallelism.pipeline * student.parallelism.context
    return student.trainers.replicas * student.trainers.gpus_per_replica / split


def _batch_divides(spec: Spec) -> bool:
    shares = int(_data_parallel(spec.student)) * spec.algorithm.updates_per_step
    return shares == 0 or spec.rollout.batch_size * spec.rollout.samples_per_prompt % shares == 0


def _compares_groups(spec: Spec) -> bool:
    return has_task_reward(spec) and spec.algorithm.advantage_estimator in ("GRPO", "GSPO", "CISPO")


def _only_in(mode: str, field: str) -> Rule:
    """A setting of one mode, in a teacher of the other."""
    name = field.rpartition(".")[2]
    return ignored_unless(
        lambda teacher: teacher.mode == mode,
        f"self.mode == '{mode}'",
        untouched=_UNTOUCHED,
        node="spec.teachers[]",
        field=field,
        why=f"this teacher has mode: {'Megatron' if mode == 'SGLang' else 'SGLang'}",
        hint=f"drop {name}, or set mode: {mode}",
    )


def _only_deployed(field: str) -> Rule:
    """A setting of a server that we start, beside the endpoint of one that runs."""
    name = field.rpartition(".")[2]
    return ignored_unless(
        lambda teacher: teacher.mode != "SGLang" or teacher.sglang.endpoint == "",
        "self.mode != 'SGLang' || self.sglang.endpoint == ''",
        untouched=_UNTOUCHED,
        node="spec.teachers[]",
        field=field,
        why="sglang.endpoint is used as it is, nothing is deployed",
        hint=f"drop {name}, or drop endpoint and give model",
    )


def _one_way(kind: str) -> Rule:
    """A kind of parallelism that is in the contract and not built yet."""
    return Rule(
        node="spec.student",
        field=f"parallelism.{kind}",
        holds=lambda student: getattr(student.parallelism, kind) == 1,
        cel=f"self.parallelism.{kind} == 1",
        message=f"{kind} parallelism is not available in this version",
        hint=f"set {kind}: 1; split over tensor parallelism and data parallelism",
    )


DOCUMENT_RULES: list[Rule] = [
    Rule(
        node="",
        field="metadata.name",
        holds=lambda job: len(job.metadata.name) <= JOB_NAME_LENGTH,
        cel=f"size(self.metadata.name) <= {JOB_NAME_LENGTH}",
        message=f"{{value}} is longer than {JOB_NAME_LENGTH} characters, and its children add suffixes",
        hint=f"choose a name of at most {JOB_NAME_LENGTH} characters",
    ),
    Rule(
        node="",
        field="metadata.name",
        holds=lambda job: job.metadata.name != "default",
        cel="self.metadata.name != 'default'",
        message="{value} is the name of every namespace's own ServiceAccount, and a job's has the job's name",
        hint="choose another name",
    ),
    Rule(
        node="",
        field="metadata.name",
        holds=lambda job: re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", job.metadata.name) is not None,
        cel="self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        message="{value} is no DNS label that starts with a letter, and its children are named after it",
        hint="use lower-case letters, digits and '-', starting with a letter: qwen3-8b-opd",
    ),
]

STUDENT_RULES: list[Rule] = [
    _one_way("pipeline"),
    _one_way("context"),
    _one_way("expert"),
    Rule(
        node="spec.student",
        field="parallelism.sequence",
        holds=lambda student: not student.parallelism.sequence or student.parallelism.tensor > 1,
        cel="!self.parallelism.sequence || self.parallelism.tensor > 1",
        message="sequence parallelism splits over the tensor-parallel group, which has one rank",
        hint="set parallelism.tensor above 1, or sequence: false",
    ),
    Rule(
        node="spec.student",
        field="parallelism",
        holds=lambda student: _data_parallel(student).is_integer(),
        cel=f"({_WORLD}) % {_MODEL_PARALLEL} == 0".format("self"),
        message="tensor x pipeline x context does not divide the trainer GPUs (replicas x gpusPerReplica)",
        hint="make trainers.replicas x trainers.gpusPerReplica a multiple of the product",
    ),
]

ROLLOUT_RULES: list[Rule] = [
    *not_available(
        "spec.rollout",
        "placement",
        "placement",
        ("Colocated",),
        "set placement: Dedicated; engines get GPUs of their own",
    ),
    Rule(
        node="spec.rollout",
        field="topK",
        holds=lambda rollout: rollout.top_k != 0,
        cel="self.topK != 0",
        message="0 would leave no token to choose from",
        hint="set topK: -1 (off), or at least 1",
    ),
    Rule(
        node="spec",
        field="rollout.temperature",
        holds=lambda spec: _samples_plainly(spec, spec.rollout.temperature, 1),
        cel=f"self.rollout.temperature == 1.0 || !{_BY_SERVER}",
        message=_NEEDS_PLAIN_SAMPLING,
        hint="set temperature: 1.0, or use a teacher with mode: Megatron",
    ),
    Rule(
        node="spec",
        field="rollout.topP",
        holds=lambda spec: _samples_plainly(spec, spec.rollout.top_p, 1),
        cel=f"self.rollout.topP == 1.0 || !{_BY_SERVER}",
        message=_NEEDS_PLAIN_SAMPLING,
        hint="set topP: 1.0, or use a teacher with mode: Megatron",
    ),
    Rule(
        node="spec",
        field="rollout.topK",
        holds=lambda spec: _samples_plainly(spec, spec.rollout.top_k, -1),
        cel=f"self.rollout.topK == -1 || !{_BY_SERVER}",
        message=_NEEDS_PLAIN_SAMPLING,
        hint="set topK: -1, or use a teacher with mode: Megatron",
    ),
    Rule(
        node="spec",
        field="rollout.samplesPerPrompt",
        holds=lambda spec: spec.rollout.samples_per_prompt > 1 or not _compares_groups(spec),
        cel=f"self.rollout.samplesPerPrompt > 1 || !{_TASK_REWARD}"
        " || !(self.algorithm.advantageEstimator in ['GRPO', 'GSPO', 'CISPO'])",
        message="1 leaves nothing to compare a task reward with: a prompt's samples are judged against their mean",
        hint="set samplesPerPrompt: 4 or more, or reward.type: None for pure distillation",
    ),
    Rule(
        node="spec",
        field="rollout.batchSize",
        holds=_batch_divides,
        cel=f"{_SHARES} == 0 || {_SAMPLES} % {_SHARES} == 0",
        message="{value} prompts x samplesPerPrompt do not divide evenly by data-parallel size x updatesPerStep",
        hint="make batchSize x samplesPerPrompt a multiple of data-parallel size x algorithm.updatesPerStep",
    ),
    Rule(
        node="spec",
        field="rollout.filter",
        holds=lambda spec: not spec.rollout.filter.endswith("nonzero_std") or has_task_reward(spec),
        cel=f"!self.rollout.filter.endsWith('nonzero_std') || {_TASK_REWARD}",
        message="{value} rejects groups of equal rewards; without a task reward all are equal, and it rejects for ever",
        hint='set filter: "", or give reward.type and a weight',
    ),
]

TEACHER_RULES: list[Rule] = [
    Rule(
        node="spec",
        field="teachers",
        holds=lambda spec: len(spec.teachers) <= 1,
        cel="size(self.teachers) <= 1",
        message="several teachers are not available in this version",
        hint="keep one teacher",
    ),
    Rule(
        node="spec",
        field="teachers",
        holds=lambda spec: len({teacher.name for teacher in spec.teachers}) == len(spec.teachers),
        cel="self.teachers.all(t, self.teachers.exists_one(u, u.name == t.name))",
        message="two teachers share a name",
        hint="give every teacher its own name",
    ),
    Rule(
        node="spec",
        field="data.teacherKey",
        holds=lambda spec: (len(spec.teachers) > 1) == (spec.data.teacher_key != ""),
        cel="(size(self.teachers) > 1) == (self.data.teacherKey != '')",
        message="goes with several teachers, and several teachers need it: it says which of them scores a record",
        hint="with one teacher drop it, with several set teacherKey to the field that holds a record's teacher",
    ),
    Rule(
        node="spec.teachers[]",
        field="name",
        holds=lambda teacher: re.match(RESERVED_TEACHER_NAMES, teacher.name) is None,
        cel=f"!self.name.matches('{RESERVED_TEACHER_NAMES}')",
        message="{value} already names another part of the job",
        hint="choose another name than student, reference, models, mailbox, config, ray, or a and a digit",
    ),
    Rule(
        node="spec.teachers[]",
        field="model",
        holds=lambda teacher: teacher.mode != "SGLang" or bool(teacher.model or teacher.sglang.endpoint),
        cel="self.mode != 'SGLang' || self.model != '' || self.sglang.endpoint != ''",
        message="is empty, and so is sglang.endpoint: there is no teacher to ask",
        hint="set model to deploy one (hf://Qwen/Qwen3-32B), or sglang.endpoint to use one that runs",
    ),
    Rule(
        node="spec.teachers[]",
        field="model",
        holds=lambda teacher: teacher.mode != "Megatron" or bool(teacher.model or teacher.megatron.load),
        cel="self.mode != 'Megatron' || self.model != '' || self.megatron.load != ''",
        message="is empty, and so is megatron.load: there is no teacher to load",
        hint="set model to a Hugging Face folder (hf://Qwen/Qwen3-32B)",
    ),
    Rule(
        node="spec.teachers[]",
        field="model",
        holds=lambda teacher: teacher.mode != "Megatron" or teacher.model != "" or teacher.megatron.load == "",
        cel="self.mode != 'Megatron' || self.model != '' || self.megatron.load == ''",
        message="is empty: a Megatron checkpoint without its Hugging Face folder is not available in this version",
        hint="set model to the folder that holds the checkpoint's config and tokenizer",
    ),
    Rule(
        node="spec.teachers[]",
        field="megatron.checkpointStep",
        holds=lambda teacher: teacher.megatron.checkpoint_step is None or teacher.megatron.load != "",
        cel="!has(self.megatron.checkpointStep) || self.megatron.load != ''",
        message="{value} picks a step of megatron.load, which is empty",
        hint="set megatron.load to the checkpoint folder, or drop checkpointStep",
    ),
    _only_in("Megatron", "megatron.load"),
    _only_in("Megatron", "megatron.placement"),
    _only_in("SGLang", "sglang.endpoint"),
    _only_in("SGLang", "sglang.apiKeySecret"),
    _only_in("SGLang", "sglang.startupTimeoutSeconds"),
    *(_only_in("SGLang", f"sglang.{name}") for name in _SERVER),
    *(_only_deployed(f"sglang.{name}") for name in _SERVER),
]

SCHEDULING_RULES: list[Rule] = not_available(
    "spec.scheduling",
    "gang",
    "gang",
    ("Full",),
    "set gang: Job; the Ray cluster is queued, the teacher starts beside it",
)

RUNNING_RULES = DOCUMENT_RULES + STUDENT_RULES + ROLLOUT_RULES + TEACHER_RULES + SCHEDULING_RULES
