"""pass@1 of the student, through its engines, and once of the teacher. Says who generates; judges nothing itself."""

from collections.abc import Callable, Sequence

from ..config import MegatronTeacher, TrainConfig
from ..errors import EngineUnavailable, UserError
from ..rollout.engine import EngineClient
from ..rollout.engine_pool import EnginePool
from ..rollout.evaluate import EvalResult, Generate, evaluate
from ..rollout.generate import RolloutGenerator
from ..rollout.rewards import Rewarder
from ..rollout.sample import Prompt, Sample
from ..rollout.tokenizer import PromptTokenizer
from .placement import Trainers

LONGEST_TEACHER_ANSWER = 64
"""Tokens. An in-process teacher decodes without a KV cache: longer answers would take minutes."""


class Evaluator:
    """Held-out prompts and their judge. Without prompts every call gives None."""

    def __init__(
        self,
        cfg: TrainConfig,
        prompts: Sequence[Prompt],
        rewarder: Rewarder,
        generator: RolloutGenerator,
        note: Callable[[str], None],
    ) -> None:
        self.cfg, self.prompts, self.rewarder, self.generator, self._note = cfg, prompts, rewarder, generator, note

    async def student(self) -> EvalResult | None:
        return await self._judge(self.generator.generate)

    async def teacher(self, trainers: Trainers, urls: Sequence[str]) -> EvalResult | None:
        """None too when the teacher cannot answer: it scores, and nothing obliges it to write."""
        tokenizer = self.generator.tokenizer
        if isinstance(self.cfg.teacher, MegatronTeacher):
            longest = self.cfg.evaluation.max_response_tokens or self.cfg.rollout.max_response_tokens
            greedy = self.cfg.evaluation.temperature == 0 and self.cfg.evaluation.samples_per_prompt == 1
            if not greedy or longest > LONGEST_TEACHER_ANSWER:
                if self.prompts:
                    words = f"in the trainers it answers greedily and {LONGEST_TEACHER_ANSWER} tokens at most"
                    self._note(f"the teacher's pass@1 stays unknown: {words}")
                return None
            return await self._judge(_in_process(trainers, tokenizer))
        client = EngineClient(urls[0], vocab_size=tokenizer.vocab_size, api_key=self.cfg.teacher.api_key)
        generator = RolloutGenerator(
            EnginePool([client], _stays_dead),
            tokenizer=tokenizer,
            rollout=self.cfg.rollout,
            rewarder=self.rewarder,
            scorer=None,
        )
        try:
            return await self._judge(generator.generate)
        except (EngineUnavailable, UserError) as error:
            self._note(f"the teacher's pass@1 stays unknown: {error}")
            return None
        finally:
            await generator.close()

    async def close(self) -> None:
        await self.rewarder.close()

    async def _judge(self, generate: Generate) -> EvalResult | None:
        if not self.prompts:
            return None
        return await evaluate(self.prompts, generate, self.rewarder, self.cfg.evaluation, self.cfg.rollout)


def _in_process(trainers: Trainers, tokenizer: PromptTokenizer) -> Generate:
    async def generate(prompts: Sequence[Prompt], _n: int, _temperature: float, max_tokens: int) -> list[Sample]:
        answers = await trainers.teacher_greedy([p.token_ids for p in prompts], max_tokens, tokenizer.eos_ids)
        return [
            Sample(prompt=prompt, group=group, response_ids=ids, response=tokenizer.decode(ids))
            for group, (prompt, ids) in enumerate(zip(prompts, answers, strict=True))
        ]

    return generate


async def _stays_dead(index: int) -> str:
    raise EngineUnavailable("its server stopped answering, or answers something else than samples")
