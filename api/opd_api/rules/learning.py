"""Rules of the document alone about learning: OPD term, estimator, reference, reward, evaluation, optimizer."""

from ..spec import Algorithm, Spec
from .rule import Rule, ignored_unless, not_available
from .running import has_task_reward

_FULL = "set support: SampledToken, the same gradient in the mean"
_COEF = "(has(t.klCoef) ? t.klCoef : self.distillation.klCoef) > 0.0"
_FINAL = "(has(self.distillation.klCoefSchedule.final) && self.distillation.klCoefSchedule.final > 0.0)"
_REINFORCE = "['ReinforcePlusPlus', 'ReinforcePlusPlusBaseline']"


def _coefs(spec: Spec) -> list[float]:
    """Of each teacher: its own, else the job's."""
    common = spec.distillation.kl_coef
    return [common if teacher.kl_coef is None else teacher.kl_coef for teacher in spec.teachers]


def _learns_something(spec: Spec) -> bool:
    final = spec.distillation.kl_coef_schedule.final or 0
    return has_task_reward(spec) or final > 0 or any(coef > 0 for coef in _coefs(spec))


DISTILLATION_RULES: list[Rule] = [
    *not_available("spec.distillation", "support", "support", ("FullVocabulary",), _FULL),
    *not_available("spec.distillation", "divergence", "divergence", ("ForwardKL", "JSD"), "set divergence: ReverseKL"),
    Rule(
        node="spec",
        field="distillation.support",
        holds=lambda spec: (
            spec.distillation.support != "FullVocabulary"
            or all(teacher.mode == "Megatron" for teacher in spec.teachers)
        ),
        cel="self.distillation.support != 'FullVocabulary' || self.teachers.all(t, t.mode == 'Megatron')",
        message="{value} needs the teacher's whole distribution, which a server does not send",
        hint="use a teacher with mode: Megatron, or support: SampledToken",
    ),
    Rule(
        node="spec.distillation",
        field="divergence",
        holds=lambda distillation: distillation.divergence == "ReverseKL" or distillation.support == "FullVocabulary",
        cel="self.divergence == 'ReverseKL' || self.support == 'FullVocabulary'",
        message="{value} cannot be computed from sampled tokens",
        hint="set divergence: ReverseKL",
    ),
    Rule(
        node="spec.distillation",
        field="klCoefSchedule.final",
        holds=lambda d: d.kl_coef_schedule.type not in ("Linear", "Cosine") or d.kl_coef_schedule.final is not None,
        cel="!(self.klCoefSchedule.type in ['Linear', 'Cosine']) || has(self.klCoefSchedule.final)",
        message="is missing: a Linear or Cosine schedule goes from klCoef to it",
        hint="set final: 0.1 (or another coefficient), or type: Constant",
    ),
    Rule(
        node="spec.distillation",
        field="klCoefSchedule.final",
        holds=lambda d: d.kl_coef_schedule.type in ("Linear", "Cosine") or d.kl_coef_schedule.final is None,
        cel="self.klCoefSchedule.type in ['Linear', 'Cosine'] || !has(self.klCoefSchedule.final)",
        message="{value} would be ignored: only a Linear or Cosine schedule has an end",
        hint="set type: Linear or Cosine, or drop final",
    ),
    Rule(
        node="spec.distillation",
        field="klCoefSchedule.steps",
        holds=lambda d: d.kl_coef_schedule.type in ("Linear", "Cosine") or d.kl_coef_schedule.steps is None,
        cel="self.klCoefSchedule.type in ['Linear', 'Cosine'] || !has(self.klCoefSchedule.steps)",
        message="{value} would be ignored: only a Linear or Cosine schedule has a length",
        hint="set type: Linear or Cosine, or drop steps",
    ),
    Rule(
        node="spec.distillation",
        field="klCoefSchedule.targetKL",
        holds=lambda d: (d.kl_coef_schedule.type == "TargetKL") == (d.kl_coef_schedule.target_kl is not None),
        cel="(self.klCoefSchedule.type == 'TargetKL') == has(self.klCoefSchedule.targetKL)",
        message="goes with type: TargetKL, and type: TargetKL needs it",
        hint="set both type: TargetKL and targetKL (nats per token), or neither",
    ),
    Rule(
        node="spec",
        field="distillation.klCoef",
        holds=lambda spec: (
            spec.distillation.kl_coef_schedule.type != "TargetKL" or all(coef > 0 for coef in _coefs(spec))
        ),
        cel=f"self.distillation.klCoefSchedule.type != 'TargetKL' || self.teachers.all(t, {_COEF})",
        message="0 cannot be steered: type: TargetKL multiplies it",
        hint="set klCoef: 1.0",
    ),
    Rule(
        node="spec",
        field="distillation.klCoef",
        holds=_learns_something,
        cel=f"(self.reward.type != 'None' && self.reward.weight > 0.0) || {_FINAL} || self.teachers.exists(t, {_COEF})",
        message="is 0 for every teacher and there is no task reward: nothing would train",
        hint="set klCoef: 1.0, or give reward.type and a weight",
    ),
]


def _only_with_critic(name: str) -> Rule:
    return ignored_unless(
        lambda algorithm: algorithm.advantage_estimator == "PPO",
        "self.advantageEstimator == 'PPO'",
        untouched=Algorithm(),
        node="spec.algorithm",
        field=f"critic.{name}",
        why="only advantageEstimator: PPO has a critic",
        hint=f"drop {name}",
    )


def _only_with_reference(name: str) -> Rule:
    return ignored_unless(
        lambda algorithm: algorithm.reference.reward_kl_coef > 0 or algorithm.reference.loss_kl_coef > 0,
        "self.reference.rewardKLCoef > 0.0 || self.reference.lossKLCoef > 0.0",
        untouched=Algorithm(),
        node="spec.algorithm",
        field=f"reference.{name}",
        why="rewardKLCoef and lossKLCoef are 0, so there is no reference",
        hint=f"set rewardKLCoef or lossKLCoef, or drop {name}",
    )


ALGORITHM_RULES: list[Rule] = [
    *not_available(
        "spec.algorithm",
        "advantageEstimator",
        "advantage_estimator",
        ("GSPO", "CISPO", "PPO", "ReinforcePlusPlus", "ReinforcePlusPlusBaseline"),
        "set advantageEstimator: GRPO",
    ),
    Rule(
        node="spec.algorithm",
        field="normalizeAdvantages",
        holds=lambda a: not a.advantage_estimator.startswith("Reinforce") or a.normalize_advantages,
        cel=f"!(self.advantageEstimator in {_REINFORCE}) || self.normalizeAdvantages",
        message="REINFORCE++ has no group to compare with: without whitening its advantages are raw rewards",
        hint="set normalizeAdvantages: true",
    ),
    Rule(
        node="spec.algorithm",
        field="critic.model",
        holds=lambda a: (a.advantage_estimator == "PPO") == (a.critic.model != ""),
        cel="(self.advantageEstimator == 'PPO') == (self.critic.model != '')",
        message="goes with advantageEstimator: PPO, and PPO needs it",
        hint="with PPO set critic.model (the student's model will do), with other estimators drop it",
    ),
    *map(_only_with_critic, ("lr", "gamma", "lambda", "valueClip", "warmupSteps")),
    Rule(
        node="spec.algorithm",
        field="reference.lossKLCoef",
        holds=lambda a: a.reference.reward_kl_coef == 0 or a.reference.loss_kl_coef == 0,
        cel="self.reference.rewardKLCoef == 0.0 || self.reference.lossKLCoef == 0.0",
        message="{value} and rewardKLCoef would count the same KL twice",
        hint="set one of rewardKLCoef and lossKLCoef to 0",
    ),
    Rule(
        node="spec.algorithm",
        field="reference.estimator",
        holds=lambda a: a.reference.loss_kl_coef == 0 or a.reference.estimator != "K1",
        cel="self.reference.lossKLCoef == 0.0 || self.reference.estimator != 'K1'",
        message="K1 in the loss pulls nowhere: its gradient is 0 in the mean",
        hint="set estimator: LowVar, or rewardKLCoef in place of lossKLCoef",
    ),
    *map(_only_with_reference, ("model", "updateEverySteps")),
]

REWARD_RULES: list[Rule] = [
    Rule(
        node="spec.reward",
        field="url",
        holds=lambda reward: (reward.type == "Remote") == (reward.url != ""),
        cel="(self.type == 'Remote') == (self.url != '')",
        message="goes with type: Remote, and type: Remote needs it",
        hint="set both type: Remote and url, or neither",
    ),
    Rule(
        node="spec.reward",
        field="function",
        holds=lambda reward: (reward.type == "Custom") == (reward.function != ""),
        cel="(self.type == 'Custom') == (self.__function__ != '')",
        message="goes with type: Custom, and type: Custom needs it",
        hint="set both type: Custom and function (package.module.name or file.py:name), or neither",
    ),
    Rule(
        node="spec",
        field="data.labelKey",
        holds=lambda spec: spec.reward.type not in ("Math", "Exact") or spec.data.label_key != "",
        cel="!(self.reward.type in ['Math', 'Exact']) || self.data.labelKey != ''",
        message="is empty, and rewards Math and Exact compare with a reference answer",
        hint="set labelKey to the field of a record that holds the answer",
    ),
]

STEP_RULES: list[Rule] = [
    Rule(
        node="spec.evaluation",
        field="prompts",
        holds=lambda evaluation: evaluation.every_steps == 0 or len(evaluation.prompts) > 0,
        cel="self.everySteps == 0 || size(self.prompts) > 0",
        message="is empty, and everySteps asks for an evaluation",
        hint="name held-out prompts, or set everySteps: 0",
    ),
    Rule(
        node="spec",
        field="optimizer.warmupSteps",
        holds=lambda spec: spec.optimizer.warmup_steps < spec.steps,
        cel="self.optimizer.warmupSteps < self.steps",
        message="{value} steps of warm-up leave none of spec.steps to train",
        hint="set warmupSteps below spec.steps",
    ),
    Rule(
        node="spec",
        field="optimizer.offload",
        holds=lambda spec: not spec.optimizer.offload or spec.device == "CPU" or spec.student.precision != "FP32",
        cel="!self.optimizer.offload || self.device == 'CPU' || self.student.precision != 'FP32'",
        message="cannot move an optimizer of FP32 weights: they are its own main parameters",
        hint="set student.precision: BF16, or offload: false",
    ),
    Rule(
        node="spec",
        field="algorithm.critic.warmupSteps",
        holds=lambda spec: spec.algorithm.critic.warmup_steps < spec.steps,
        cel="self.algorithm.critic.warmupSteps < self.steps",
        message="{value} steps of critic warm-up leave none of spec.steps to train",
        hint="set warmupSteps below spec.steps",
    ),
    Rule(
        node="spec.tracking.wandb",
        field="project",
        holds=lambda wandb: wandb.project == "",
        cel="self.project == ''",
        message="Weights & Biases is not available in this version",
        hint="drop wandb; tensorboard: true writes the same metrics",
    ),
    Rule(
        node="spec.tracking.wandb",
        field="secretName",
        holds=lambda wandb: wandb.secret_name == "",
        cel="self.secretName == ''",
        message="Weights & Biases is not available in this version",
        hint="drop wandb; tensorboard: true writes the same metrics",
    ),
]

LEARNING_RULES = DISTILLATION_RULES + ALGORITHM_RULES + REWARD_RULES + STEP_RULES
