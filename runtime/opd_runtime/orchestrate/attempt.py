"""One attempt at a job, from a running Ray to the exported student: starts the parts, trains, takes the parts down."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..concurrency import together, while_watching
from ..config import SGLangTeacher, TrainConfig
from ..errors import TeacherUnavailable
from ..report.metrics import StepRecord, now
from ..report.reporter import Reporter
from ..rollout.data import PromptStream, held_out_prompts
from ..rollout.engine import EngineClient
from ..rollout.engine_pool import EnginePool
from ..rollout.generate import RolloutGenerator
from ..rollout.hooks import FILTER, GENERATE, load_hook
from ..rollout.rewards import Rewarder, build_eval_rewarder, build_rewarder
from ..rollout.rewards.rewarder import NEEDS_LABEL
from ..rollout.sample import Prompt
from ..rollout.teacher_questions import teacher_questions
from ..rollout.tokenizer import PromptTokenizer
from ..teacher.probe import other_than_student
from ..teacher.scorer import TeacherScorer
from ..uri import uri_of
from .actors import ServerSpec
from .evaluate import Evaluator
from .loop import Run, evaluate_student, train
from .placement import ENGINE_RESOURCE, Servers, Trainers, Weights
from .record import RunState
from .rollouts import Rollouts
from .teacher_servers import TeacherServers, probe_batch
from .teacher_service import TeacherService

ENGINE_STARTUP_TIMEOUT_SECONDS = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a run reads of the user's, all of it checked: a bad prompt or hook is found before anything starts."""

    cfg: TrainConfig
    tokenizer: PromptTokenizer
    stream: PromptStream
    held_out: list[Prompt]
    rewarder: Rewarder
    eval_rewarder: Rewarder


def read_inputs(cfg: TrainConfig) -> Inputs:
    """Raises UserError naming file and line, or the hook."""
    tokenizer = PromptTokenizer(cfg.student_path, apply_chat_template=cfg.data.apply_chat_template)
    for dotted, contract in ((cfg.rollout.function, GENERATE), (cfg.rollout.filter, FILTER)):
        if dotted:
            load_hook(dotted, contract)
    limit, needs_label = cfg.rollout.max_prompt_tokens, cfg.reward.type in NEEDS_LABEL
    judged_by_label = needs_label or cfg.reward.type == "None"
    return Inputs(
        cfg=cfg,
        tokenizer=tokenizer,
        stream=PromptStream(cfg.prompts, tokenizer, cfg.data, limit, cfg.seed, needs_label=needs_label),
        held_out=held_out_prompts(cfg.eval_prompts, tokenizer, cfg.data, limit, needs_label=judged_by_label),
        rewarder=build_rewarder(cfg.reward, args=cfg),
        eval_rewarder=build_eval_rewarder(cfg.reward, args=cfg),
    )


async def run_attempt(
    inputs: Inputs,
    reporter: Reporter,
    stop: asyncio.Event,
    *,
    resume: bool,
    started: float,
    keep: Callable[[], int] | None = None,
) -> bool:
    """True when the job is complete, False after a stop. Raises what ended the attempt.

    `started`: when the attempt began, by time.monotonic; its seconds count from there. `keep`: asked before each save
    how many checkpoints stay, where that may change.
    """
    cfg = inputs.cfg
    keep = keep or (lambda: cfg.checkpoint.keep)
    teacher = _servers_of(cfg) if isinstance(cfg.teacher, SGLangTeacher) else None
    async with _started(inputs, reporter, stop, teacher, resume, keep) as run:
        run.state.seconds += time.monotonic() - started
        await _before_training(run, teacher)
        work = _train_and_export(run)
        completed = await (
            while_watching(work, teacher.watch(reporter.note, reporter.teacher_ready)) if teacher else work
        )
    _finish(run, completed)
    return completed


async def _train_and_export(run: Run) -> bool:
    completed = await train(run)
    if completed and run.cfg.checkpoint.export_hugging_face:
        run.reporter.phase("exporting the student")
        await run.trainers.export(run.cfg.export_dir)
        run.reporter.checkpoint(run.cfg.steps, uri_of(run.cfg.checkpoint_dir), uri_of(run.cfg.export_dir))
    return completed


async def _before_training(run: Run, teacher: TeacherServers | None) -> None:
    """Weights into the engines and, in a new run, everybody's score before the first step."""
    state, reporter, cfg = run.state, run.reporter, run.cfg
    reporter.phase("sending the student's weights to the engines")
    sync = await run.weights.sync()
    reporter.start(state.step)
    if state.step:
        reporter.checkpoint(state.step, uri_of(cfg.checkpoint_dir))
    if state.step or not cfg.evaluation.every_steps or not run.evaluator.prompts:
        return
    reporter.phase("evaluating teacher and student")
    scored = await run.evaluator.teacher(run.trainers, teacher.urls if teacher else ())
    metrics = await evaluate_student(run)
    if scored is not None and scored.pass_at_1 is not None:
        state.pass_at_1["teacher"] = metrics["eval/teacher_pass@1"] = scored.pass_at_1
    record = StepRecord(step=0, total_steps=cfg.steps, metrics=metrics, weight_version=sync.version, time=now())
    reporter.step(record)


def _finish(run: Run, completed: bool) -> None:
    cfg, state = run.cfg, run.state
    paths: dict[str, Path] = {"checkpoints": cfg.checkpoint_dir}
    if completed and cfg.checkpoint.export_hugging_face:
        paths["student"] = cfg.export_dir
    summary = state.summary("SGLang" if isinstance(cfg.teacher, SGLangTeacher) else "Megatron")
    run.reporter.finish(summary, paths, phase="Succeeded" if completed else "Stopped")


@contextlib.asynccontextmanager
async def _started(
    inputs: Inputs,
    reporter: Reporter,
    stop: asyncio.Event,
    teacher: TeacherServers | None,
    resume: bool,
    keep: Callable[[], int],
) -> AsyncIterator[Run]:
    """Every part, started side by side; all of it is gone when the block ends."""
    cfg = inputs.cfg
    trainers, engines = Trainers(cfg), Servers(_engine_spec(cfg), ENGINE_RESOURCE, ENGINE_STARTUP_TIMEOUT_SECONDS)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(inputs.rewarder.close)
        stack.push_async_callback(inputs.eval_rewarder.close)
        stack.callback(trainers.kill)
        stack.push_async_callback(engines.stop)
        if teacher:
            stack.push_async_callback(teacher.stop)
        reporter.phase(_what_starts(teacher))
        resumed = await _start_all(trainers, engines, teacher, resume=resume)
        state = _state(cfg, resumed)
        if state.cursor:
            inputs.stream.restore(state.cursor)
        if state.step == 0:  # a trained student may have become its teacher
            await _teacher_is_another(cfg, teacher, trainers)
        reporter.teacher_ready(len(teacher.urls) if teacher else cfg.student.trainers.replicas)
        weights = Weights(cfg, trainers, engines)
        scorer = teacher.scorer() if teacher else None
        if scorer:
            stack.push_async_callback(scorer.close)
        generator = _generator(inputs, engines, weights, scorer)
        stack.push_async_callback(generator.close)
        ahead = cfg.rollout.max_staleness_steps > 0
        rollouts = Rollouts(inputs.stream, generator, batch_size=cfg.rollout.batch_size, ahead=ahead)
        stack.push_async_callback(rollouts.close)
        yield Run(
            cfg=cfg,
            trainers=trainers,
            weights=weights,
            rollouts=rollouts,
            scorer=scorer,
            evaluator=Evaluator(cfg, inputs.held_out, inputs.eval_rewarder, generator, reporter.note),
            reporter=reporter,
            state=state,
            stop=stop,
            keep=keep,
        )


def _generator(inputs: Inputs, engines: Servers, weights: Weights, scorer: TeacherScorer | None) -> RolloutGenerator:
    clients = [EngineClient(url, vocab_size=inputs.tokenizer.vocab_size) for url in engines.urls]
    return RolloutGenerator(
        EnginePool(clients, weights.recover),
        tokenizer=inputs.tokenizer,
        rollout=inputs.cfg.rollout,
        rewarder=inputs.rewarder,
        scorer=scorer,
        hook_args=inputs.cfg,
    )


def _servers_of(cfg: TrainConfig) -> TeacherServers:
    assert isinstance(cfg.teacher, SGLangTeacher)
    return (TeacherService if cfg.teacher.discovered else TeacherServers)(cfg, cfg.teacher)


def _what_starts(teacher: TeacherServers | None) -> str:
    if teacher is None:
        return "loading student and teacher, starting engines"
    if teacher.teacher.endpoint:
        return f"loading the student, starting engines, asking the teacher at {teacher.teacher.endpoint}"
    return "loading the student, starting engines and teacher"


async def _start_all(trainers: Trainers, engines: Servers, teacher: TeacherServers | None, *, resume: bool) -> Any:
    """What the trainers resumed from, once every process answers."""

    async def start_engines() -> None:
        await engines.start()
        await engines.ready()

    parts = [trainers.start(resume=resume), start_engines()]
    return (await together([*parts, teacher.start()] if teacher else parts))[0]


async def _teacher_is_another(cfg: TrainConfig, teacher: TeacherServers | None, trainers: Trainers) -> None:
    """What scores may be the student, whatever the document names: there would be nothing to learn, for ever.

    Raises TeacherUnavailable (SameAsStudent).
    """
    batch = probe_batch(teacher.questions if teacher else teacher_questions(cfg.student_path))
    students = list(await trainers.logprobs(batch, "student"))
    if teacher is not None:
        await teacher.prove(students)
        return
    check = other_than_student(list(await trainers.logprobs(batch, "teacher")), students)
    if not check.passed:
        raise TeacherUnavailable(f"the teacher in the trainers is the student: {check.detail}", reason=check.reason)


def _state(cfg: TrainConfig, resumed: tuple[int, dict[str, Any]] | None) -> RunState:
    return RunState.from_json(resumed[1]) if resumed else RunState(kl_coef=cfg.distillation.kl_coef)


def _engine_spec(cfg: TrainConfig) -> ServerSpec:
    engines = cfg.rollout.engines
    return ServerSpec(
        name="engine",
        model_path=cfg.student_path,
        device=cfg.device,
        bf16=cfg.bf16,
        replicas=engines.replicas,
        gpus=engines.gpus_per_replica,
        memory_fraction=engines.memory_fraction,
        args=tuple(engines.args),
        api_key="",
        log_dir=cfg.run_dir / "logs",
        seed=cfg.seed,
        remote=next((remote for remote in cfg.remotes if remote.path == cfg.student_path), None),
    )
