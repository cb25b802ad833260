"""How much memory a job takes, from its document and the shapes of its models. Arithmetic only: measures nothing.

An estimate for choosing GPU counts and refusing what cannot fit. Counted are tensors that live as long as a step and
the largest that come and go within it; CUDA context, NCCL buffers and fragmentation are one constant.

Sources: Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models" (what a layer keeps
for its backward pass, counted here for gated MLPs, grouped keys and fused attention); Rajbhandari et al. 2020, "ZeRO"
(optimizer states split over data-parallel ranks).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .documents import ModelSummary
from .spec import Engines, OPDJob, Spec, TeacherSGLang
from .status import EngineMemory, MemoryPlan, TeacherMemory, TrainerMemory

GIB = 2**30
CUDA_BYTES = 2 * GIB
"""CUDA context, NCCL and cuBLAS buffers, fragmentation: per process on a GPU."""
TRAINER_HOST_BYTES = 3 * GIB
"""Python, torch, Megatron and Ray in one trainer process."""
SERVER_HOST_BYTES = 3 * GIB
"""The processes of one SGLang server without weights and cache; 2 GiB were seen on CPU."""
CPU_CACHE_BYTES = GIB // 2
"""KV cache that a server gets on CPU."""
LARGEST_SHOWN_BYTES = 2**53
"""Absurd shapes give absurd sizes; a JSON number is exact up to here."""
LOGPROB_ROWS = 1024
"""Rows of logits that the trainer holds in FP32 at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPart:
    """One model in a trainer rank, and what using it takes."""

    weights_bytes: int
    """This rank's share."""
    forward_bytes: int
    """While it scores: one layer's tensors and the logits."""
    visits: bool
    """True: weights live in host memory and come to the GPU to score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerEstimate:
    """One trainer rank."""

    cuda: bool
    student: ModelPart
    gradients_bytes: int
    """FP32, whole on every data-parallel rank."""
    optimizer_bytes: int
    """FP32 main parameters (with BF16 weights) and Adam's two moments: this rank's share."""
    optimizer_on_host: bool
    checkpoint_bytes: int
    """Host memory in which the optimizer passes into and out of a checkpoint."""
    activations_bytes: int
    """Kept from forward to backward pass."""
    logits_bytes: int
    """At the start of the backward pass."""
    update_bytes: int
    """Adam's temporaries."""
    teacher: ModelPart | None
    """The Megatron teacher."""
    reference: ModelPart | None

    @property
    def resident_bytes(self) -> int:
        """On the GPU all the time: weights, gradients, optimizer, models that do not leave."""
        stays = sum(part.weights_bytes for part in self._others if not part.visits)
        optimizer = 0 if self.optimizer_on_host else self.optimizer_bytes
        return self.student.weights_bytes + self.gradients_bytes + optimizer + stays

    @property
    def peak_bytes(self) -> int:
        """The most that comes and goes: a training pass, the update after it, or the largest scoring pass."""
        scoring = [part.forward_bytes + part.weights_bytes * part.visits for part in (self.student, *self._others)]
        update = 0 if self.optimizer_on_host else self.update_bytes
        return max(self.activations_bytes + self.logits_bytes, update, *scoring)

    @property
    def gpu_bytes(self) -> int:
        return self.resident_bytes + self.peak_bytes + CUDA_BYTES if self.cuda else 0

    @property
    def host_bytes(self) -> int:
        """With a checkpoint under way: this rank's weights and optimizer, for a moment."""
        if not self.cuda:
            return self.resident_bytes + max(self.peak_bytes, self.checkpoint_bytes) + TRAINER_HOST_BYTES
        visiting = sum(part.weights_bytes for part in self._others if part.visits)
        optimizer = self.optimizer_bytes if self.optimizer_on_host else 0
        return visiting + optimizer + self.student.weights_bytes + self.checkpoint_bytes + TRAINER_HOST_BYTES

    @property
    def teacher_gpu_bytes(self) -> int:
        """Resident: always there. Offloaded: while it scores."""
        return self.teacher.weights_bytes if self.teacher and self.cuda else 0

    @property
    def teacher_host_bytes(self) -> int:
        return self.teacher.weights_bytes if self.teacher and (self.teacher.visits or not self.cuda) else 0

    @property
    def _others(self) -> list[ModelPart]:
        return [part for part in (self.teacher, self.reference) if part is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEstimate:
    """One GPU of an SGLang server (on CPU: the server)."""

    name: str
    cuda: bool
    weights_bytes: int
    kv_bytes_per_token: int
    longest_tokens: int
    """Prompt and response of the longest sample."""
    memory_fraction: float
    gpu_memory_bytes: int | None
    """Of the GPU, where it is known."""

    @property
    def gpu_bytes(self) -> int:
        """Weights and KV cache: the server's share of a known GPU, else what one longest sample needs at least."""
        if not self.cuda:
            return 0
        if self.gpu_memory_bytes is not None:
            return int(self.memory_fraction * self.gpu_memory_bytes)
        return self.weights_bytes + self.longest_tokens * self.kv_bytes_per_token

    @property
    def host_bytes(self) -> int:
        return SERVER_HOST_BYTES + (0 if self.cuda else self.weights_bytes + CPU_CACHE_BYTES)

    @property
    def cache_tokens(self) -> int | None:
        """Tokens that fit beside the weights, all running samples together; None while the GPU is unknown."""
        if self.cuda and self.gpu_memory_bytes is None:
            return None
        room = self.gpu_bytes - self.weights_bytes if self.cuda else CPU_CACHE_BYTES
        return max(room, 0) // self.kv_bytes_per_token


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """All of a job's kinds of pod."""

    trainer: TrainerEstimate
    engine: ServerEstimate
    teachers: tuple[ServerEstimate, ...]
    """SGLang teachers that the job deploys and whose model is known."""

    def to_status(self) -> MemoryPlan:
        """As `status.memoryPlan`; what does not apply is left out, and what no JSON number can say is cut."""
        trainer = self.trainer
        return MemoryPlan(
            trainer=TrainerMemory(
                gpu_bytes=_shown(trainer.gpu_bytes),
                host_bytes=_shown(trainer.host_bytes),
                teacher_gpu_bytes=_shown(trainer.teacher_gpu_bytes),
                teacher_host_bytes=_shown(trainer.teacher_host_bytes),
            ),
            engine=EngineMemory(gpu_bytes=_shown(self.engine.gpu_bytes)),
            teachers=tuple(TeacherMemory(name=each.name, gpu_bytes=_shown(each.gpu_bytes)) for each in self.teachers),
        )


def _shown(size: int) -> int | None:
    return min(size, LARGEST_SHOWN_BYTES) or None


def estimate(job: OPDJob, models: Mapping[str, ModelSummary], *, gpu_memory_bytes: int | None = None) -> MemoryEstimate:
    """`models` by role: `student` (required), `reference`, and teachers by their name; unknown ones are left out."""
    spec = job.spec
    engines = spec.rollout.engines
    served = [teacher for teacher in spec.teachers if teacher.mode == "SGLang" and not teacher.sglang.endpoint]
    return MemoryEstimate(
        trainer=_trainer(spec, models),
        engine=_server("engine", spec, models["student"], engines, gpu_memory_bytes),
        teachers=tuple(
            _server(teacher.name, spec, models[teacher.name], teacher.sglang, gpu_memory_bytes)
            for teacher in served
            if teacher.name in models
        ),
    )


def _trainer(spec: Spec, models: Mapping[str, ModelSummary]) -> TrainerEstimate:
    shape, student = _Shape.of(spec), models["student"]
    tokens = max(spec.student.max_tokens_per_gpu, _longest(spec))
    share = shape.rank_parameters(student)
    teacher = next((each for each in spec.teachers if each.mode == "Megatron" and each.name in models), None)
    coefficients = spec.algorithm.reference
    reference = models.get("reference", student) if coefficients.reward_kl_coef or coefficients.loss_kl_coef else None
    offloaded = teacher is not None and teacher.megatron.placement == "Offloaded"
    return TrainerEstimate(
        cuda=shape.cuda,
        student=shape.part(student, tokens, visits=False),
        gradients_bytes=share * 4,
        # FP32 weights are their own main parameters; only Adam's moments come on top.
        optimizer_bytes=share * (12 if shape.element == 2 else 8) // shape.data,
        optimizer_on_host=spec.optimizer.offload and shape.cuda,
        # To load one, every rank reads main parameters and both moments whole (12 bytes) and lays them out as the
        # optimizer has them. To save one, the first of the data-parallel ranks gathers them one by one: less.
        checkpoint_bytes=share * 24,
        activations_bytes=shape.activations(student, tokens, recompute=spec.student.recompute == "Full"),
        logits_bytes=shape.logits(student, tokens, copies=2),
        # Adam goes through its parameters one by one; its share of the largest may be the whole of it.
        update_bytes=2 * 4 * min(shape.largest_matrix(student), share // shape.data),
        teacher=shape.part(models[teacher.name], tokens, visits=offloaded and shape.cuda) if teacher else None,
        reference=shape.part(reference, tokens, visits=shape.cuda) if reference else None,
    )


def parameters(model: ModelSummary) -> tuple[int, int]:
    """Numbers in matrices that tensor parallelism splits, and in norms that every rank has whole."""
    hidden, heads = model.hidden_size, model.head_dim
    attention = hidden * heads * (2 * model.num_heads + 2 * model.num_kv_heads)
    layer = attention + 3 * hidden * model.ffn_hidden_size
    embeddings = model.vocab_size * hidden * (1 if model.tie_word_embeddings else 2)
    norms = model.num_layers * (2 * hidden + (2 * heads if _normalizes_heads(model) else 0)) + hidden
    return model.num_layers * layer + embeddings, norms


def kv_bytes_per_token(model: ModelSummary, tensor: int, element: int) -> int:
    """Keys and values of all layers on one GPU; a key head is never split, so more GPUs than key heads hold copies."""
    return 2 * model.num_layers * -(-model.num_kv_heads // tensor) * model.head_dim * element


@dataclass(frozen=True, slots=True)
class _Shape:
    """How the trainers are laid out."""

    cuda: bool
    element: int
    tensor: int
    data: int
    sequence: bool

    @classmethod
    def of(cls, spec: Spec) -> "_Shape":
        trainers, tensor = spec.student.trainers, spec.student.parallelism.tensor
        data = max(trainers.replicas * trainers.gpus_per_replica // tensor, 1)
        return cls(spec.device == "CUDA", element_bytes(spec), tensor, data, spec.student.parallelism.sequence)

    def rank_parameters(self, model: ModelSummary) -> int:
        split, whole = parameters(model)
        return split // self.tensor + whole

    def largest_matrix(self, model: ModelSummary) -> int:
        """Numbers of it on one rank: an embedding, or gate and up in one."""
        return max(model.vocab_size, 2 * model.ffn_hidden_size) * model.hidden_size // self.tensor

    def part(self, model: ModelSummary, tokens: int, *, visits: bool) -> ModelPart:
        return ModelPart(
            weights_bytes=self.rank_parameters(model) * self.element,
            forward_bytes=self.forward(model, tokens) + self.logits(model, tokens, copies=1),
            visits=visits,
        )

    def forward(self, model: ModelSummary, tokens: int) -> int:
        """Without gradients one layer lives at a time: residual, its norm, and what is in the MLP."""
        return tokens * (3 * model.hidden_size + self._mlp(model) // self.tensor) * self.element

    def activations(self, model: ModelSummary, tokens: int, *, recompute: bool) -> int:
        """Recomputed: each layer's input, and one layer whole while its backward pass runs. Else every layer whole."""
        whole = self._layer(model, tokens)
        if not recompute:
            return model.num_layers * whole
        split = self.tensor if self.sequence else 1
        return model.num_layers * tokens * model.hidden_size // split * self.element + whole

    def _layer(self, model: ModelSummary, tokens: int) -> int:
        """Inputs of two norms and of the linear layers behind them; q, k and v in one, q again where its heads are
        normalised, q and k once rotated, the cosines and sines of both rotations, the attention's output and its FP32
        log-sum-exp; what is in the MLP."""
        queries, keys = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
        attention = (4 if _normalizes_heads(model) else 3) * queries + 3 * keys
        hidden = 4 * model.hidden_size // (self.tensor if self.sequence else 1)
        elements = hidden + (attention + self._mlp(model)) // self.tensor + 4 * model.head_dim
        return tokens * (elements * self.element + model.num_heads // self.tensor * 4)

    def _mlp(self, model: ModelSummary) -> int:
        """Gate and up in one, and the product; on a CPU, where they are not fused, also silu(gate) and a copy of up."""
        return (3 if self.cuda else 5) * model.ffn_hidden_size

    def logits(self, model: ModelSummary, tokens: int, *, copies: int) -> int:
        """`copies` in the model's precision (training: logits and their gradient; scoring: logits), and the FP32 chunk
        with its softmax, gradient and temporaries."""
        vocabulary = model.vocab_size // self.tensor
        return copies * tokens * vocabulary * self.element + 4 * min(LOGPROB_ROWS, tokens) * vocabulary * 4


def element_bytes(spec: Spec) -> int:
    """Of weights in trainers and engines: 2 in BF16, 4 in FP32. Auto is BF16 on CUDA."""
    precision = spec.student.precision
    return 2 if precision == "BF16" or (precision == "Auto" and spec.device == "CUDA") else 4


def _server(
    name: str, spec: Spec, model: ModelSummary, servers: Engines | TeacherSGLang, gpu_memory_bytes: int | None
) -> ServerEstimate:
    cuda, element, gpus = spec.device == "CUDA", element_bytes(spec), servers.gpus_per_replica
    split, whole = parameters(model)
    return ServerEstimate(
        name=name,
        cuda=cuda,
        weights_bytes=(split // gpus + whole) * element,
        kv_bytes_per_token=kv_bytes_per_token(model, gpus, element),
        longest_tokens=_longest_served(spec),
        memory_fraction=servers.memory_fraction,
        gpu_memory_bytes=gpu_memory_bytes if cuda else None,
    )


def _longest(spec: Spec) -> int:
    return spec.rollout.max_prompt_tokens + spec.rollout.max_response_tokens


def _longest_served(spec: Spec) -> int:
    """Engines and SGLang teachers answer the evaluation too."""
    evaluated = (spec.evaluation.max_response_tokens or 0) if spec.evaluation.every_steps else 0
    return spec.rollout.max_prompt_tokens + max(spec.rollout.max_response_tokens, evaluated)


def _normalizes_heads(model: ModelSummary) -> bool:
    return model.architecture.startswith("Qwen3")
