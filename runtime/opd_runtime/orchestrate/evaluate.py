"""When to evaluate and with what: the student through its engines, the teacher once, before training."""

from collections.abc import Awaitable, Callable, Sequence

from ..config import TrainConfig
from ..rollout.evaluate import EvalResult, evaluate
from ..rollout.rewards import Rewarder
from ..rollout.sample import Prompt, Sample

Generate = Callable[[Sequence[Prompt], int, float, int], Awaitable[list[Sample]]]
"""(prompts, samples a prompt, temperature, most response tokens) -> samples."""


class Evaluator:
    """Held-out prompts, answered by whoever `generate` asks. Without prompts every call gives None."""

    def __init__(self, cfg: TrainConfig, prompts: Sequence[Prompt], rewarder: Rewarder) -> None:
        self.cfg, self.prompts, self.rewarder = cfg, prompts, rewarder

    async def score(self, generate: Generate) -> EvalResult | None:
        """pass@1 of the model behind `generate`."""
        if not self.prompts:
            return None
        return await evaluate(self.prompts, generate, self.rewarder, self.cfg.evaluation, self.cfg.rollout)
