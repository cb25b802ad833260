"""What the student is trained for: the OPD term, the estimator under it, the task reward, the optimizer."""

from typing import Annotated, Literal

from pydantic import Field

from .base import Contract, Hook, HttpURL, NonNegative, OptionalModelURI, Positive

AdvantageEstimator = Literal["GRPO", "GSPO", "CISPO", "PPO", "ReinforcePlusPlus", "ReinforcePlusPlusBaseline"]


class KLCoefSchedule(Contract):
    """How klCoef changes over the steps."""

    type: Literal["Constant", "Linear", "Cosine", "TargetKL"] = "Constant"
    """Linear and Cosine go from klCoef to `final`; TargetKL steers klCoef so that reverse KL meets `targetKL`."""
    final: Annotated[float, Field(ge=0)] | None = None
    """Coefficient at the end of Linear and Cosine."""
    steps: Positive | None = None
    """Length of Linear and Cosine, in steps; null: all steps of the job."""
    target_kl: Annotated[float, Field(gt=0)] | None = None
    """Reverse KL that TargetKL aims at, in nats per token."""


class Distillation(Contract):
    """The OPD term: A_t -= klCoef * (student log-prob - teacher log-prob)."""

    kl_coef: float = Field(1.0, ge=0)
    """Weight of the OPD term. With normalised advantages only its ratio to the batch's spread matters."""
    kl_coef_schedule: KLCoefSchedule = KLCoefSchedule()
    """How klCoef changes over the steps."""
    max_log_ratio: Annotated[float, Field(gt=0)] | None = None
    """Clamp of the per-token term, in nats; what was clamped is counted. null: none."""
    support: Literal["SampledToken", "FullVocabulary"] = "SampledToken"
    """FullVocabulary: the exact divergence of every position, in Megatron mode only."""
    divergence: Literal["ReverseKL", "ForwardKL", "JSD"] = "ReverseKL"
    """Others than ReverseKL need FullVocabulary."""


class Reference(Contract):
    """KL to a reference model, beside the teacher."""

    model: OptionalModelURI = ""
    """Empty: the student's first weights."""
    reward_kl_coef: float = Field(0.0, ge=0)
    """Weight of the KL in the advantage. Never together with lossKLCoef."""
    loss_kl_coef: float = Field(0.0, ge=0)
    """Weight of the KL as a loss."""
    estimator: Literal["K1", "K2", "K3", "LowVar"] = "LowVar"
    """Estimator of the KL from sampled tokens."""
    update_every_steps: Positive | None = None
    """Copy the student into the reference every so many steps; null: never."""


class Critic(Contract):
    """The value model of PPO."""

    model: OptionalModelURI = ""
    """Where the value model starts; needed with PPO."""
    lr: float = Field(1.0e-6, gt=0)
    """Its learning rate."""
    gamma: float = Field(1.0, ge=0, le=1)
    """Discount."""
    lambda_: float = Field(1.0, ge=0, le=1)
    """GAE's lambda."""
    value_clip: float = Field(0.2, gt=0)
    """Clip range of the value loss."""
    warmup_steps: NonNegative = 0
    """Steps that train the critic alone."""


class Algorithm(Contract):
    """The RL estimator under the OPD term, and its loss."""

    advantage_estimator: AdvantageEstimator = "GRPO"
    """How task rewards become advantages."""
    normalize_advantages: bool = False
    """Whiten advantages over the batch, after the OPD term."""
    eps_clip: float = Field(0.2, gt=0, lt=1)
    """The ratio is clipped to [1 - epsClip, 1 + epsClipHigh]."""
    eps_clip_high: Annotated[float, Field(gt=0)] | None = None
    """null: epsClip."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """Bound of the loss for negative advantages; null: none."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    loss_aggregation: Literal["SampleMean", "TokenMean"] = "SampleMean"
    """SampleMean: mean over a sample's tokens, then over samples. TokenMean: mean over all tokens."""
    importance_correction: Literal["None", "Truncated"] = "None"
    """Truncated importance sampling between engine and trainer; set by itself when maxStalenessSteps is 1."""
    updates_per_step: Positive = 1
    """Optimizer steps a batch."""
    epochs_per_step: Positive = 1
    """Passes over a batch."""
    reference: Reference = Reference()
    """KL to a reference model."""
    critic: Critic = Critic()
    """PPO only."""


class Reward(Contract):
    """The task reward that is added to pure distillation."""

    type: Literal["None", "Math", "Exact", "Remote", "Custom"] = "None"
    """None: pure distillation. Math: math-verify. Exact: equal text. Remote: an HTTP service. Custom: own function."""
    weight: float = Field(1.0, ge=0)
    """Factor of the reward in the advantage; 0 verifies and reports only."""
    function: Hook = ""
    """Custom: `async def score(args, sample, **kw) -> float`, a dotted path or FILE.py:NAME."""
    url: HttpURL = ""
    """Remote: gets {prompt, response, label, record}, answers {reward}."""
    post_process: Hook = ""
    """`def post_process(args, samples, **kw) -> (raw, processed)` over a step's samples."""
    timeout_seconds: Positive = 30
    """Limit for one reward."""


class Optimizer(Contract):
    """AdamW with Megatron's distributed optimizer."""

    lr: float = Field(1.0e-6, gt=0, le=1)
    """Peak learning rate."""
    schedule: Literal["Constant", "Linear", "Cosine"] = "Constant"
    """Linear and Cosine decay to zero over `steps`."""
    warmup_steps: NonNegative = 0
    """Steps of linear warm-up."""
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled weight decay."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(0.98, ge=0, lt=1)
    """Decay of the second moment."""
    clip_grad: float = Field(1.0, ge=0)
    """Global gradient norm limit; 0: none."""
    offload: bool = False
    """Keep the optimizer's state in host memory."""
