"""A teacher that scores and does not write: it has no pass@1, and somebody is told why."""

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from opd_api.spec import Evaluation, Rollout
from opd_runtime.config import MegatronTeacher, SGLangTeacher
from opd_runtime.orchestrate.evaluate import Evaluator
from opd_runtime.rollout.rewards import Rewarder
from opd_runtime.rollout.sample import Prompt


async def test_a_teacher_that_does_not_write_is_told_and_harms_nothing() -> None:
    with socket.socket() as taken:  # and never listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        teacher = SGLangTeacher(
            name="teacher",
            endpoint=url,
            model_path=None,
            memory_fraction=0.8,
            args=(),
            replicas=1,
            gpus=1,
            api_key="",
            startup_timeout_seconds=1.0,
        )
        cfg: Any = SimpleNamespace(teacher=teacher, rollout=Rollout(), evaluation=Evaluation())
        generator: Any = SimpleNamespace(tokenizer=SimpleNamespace(vocab_size=10, eos_ids=(1,)))
        prompts = [Prompt(index=0, text="1+1=", token_ids=(2, 3), label="2", record={})]
        notes: list[str] = []
        evaluator = Evaluator(cfg, prompts, Rewarder(None, weight=1.0), generator, notes.append)
        trainers: Any = None
        assert await evaluator.teacher(trainers, [url]) is None
    assert notes == [
        "the teacher's pass@1 stays unknown: its server stopped answering, or answers something else than samples"
    ]


async def test_a_teacher_in_the_trainers_that_would_take_minutes_is_told() -> None:
    teacher = MegatronTeacher(name="teacher", model_path=Path(), load=None, checkpoint_step=None, offloaded=False)
    cfg: Any = SimpleNamespace(teacher=teacher, rollout=Rollout(max_response_tokens=4096), evaluation=Evaluation())
    generator: Any = SimpleNamespace(tokenizer=None)
    trainers: Any = None
    for prompts, want in (([], 0), ([Prompt(index=0, text="", token_ids=(2,), label="2", record={})], 1)):
        notes: list[str] = []
        evaluator = Evaluator(cfg, prompts, Rewarder(None, weight=1.0), generator, notes.append)
        assert await evaluator.teacher(trainers, ()) is None
        assert len(notes) == want and all("64 tokens at most" in note for note in notes)
