"""`opd eval`: pass@1 of a Hugging Face folder on held-out prompts, answered by an SGLang server started for it."""

import asyncio
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opd_api.names import API_VERSION, KIND
from opd_api.spec import OPDJob

from ..errors import EngineUnavailable, UserError
from ..sources import missing_model_files, resolve_model, resolve_prompts
from .models import Place, cache_dir, each
from .options import Sets, Volumes, job_of, load, volumes_of

if TYPE_CHECKING:
    from ..rollout.evaluate import EvalResult

STARTUP_TIMEOUT_SECONDS = 1800.0


def evaluate(
    target: Annotated[str, typer.Argument(metavar="FILE|MODEL", help="An OPDJob, or a Hugging Face folder or URI.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="What to evaluate instead of the student the job's run has exported."),
    ] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="JSON Lines, Parquet or a URI instead of the job's own. Repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
    run_dir: Annotated[Path | None, typer.Option(help="The run's folder; default runs/<job>.")] = None,
    sets: Sets = None,
    volumes: Volumes = None,
) -> None:
    """Measure pass@1 with its 95 % interval: held-out prompts, answered and judged as the job's evaluation says.

    \b
    opd eval job.yaml
    opd eval job.yaml --model hf://Qwen/Qwen3-8B
    opd eval runs/demo/export --prompts test.jsonl --set reward.type=Math

    With a job it is the student its run has exported; before there is one, the student's first weights.
    With a MODEL, --set takes the fields of a job whose student it is.
    """
    claims = volumes_of(volumes)
    if "://" in target or Path(target).is_dir():
        if not prompts or model is not None:
            raise typer.BadParameter(f"{target} is a model: add --prompts FILE (and no --model), or name an OPDJob")
        if run_dir is not None:
            raise typer.BadParameter("--run-dir is where a job's run is; a model has none")
        folder = model_folder(target, claims)
        job = job_of(smallest_job(folder), sets)
    else:
        job = load(Path(target), sets)
        folder = model_folder(model, claims) if model else student_of(job, run_dir, claims)
    sources = prompts or [source.uri for source in job.spec.evaluation.prompts]
    if not sources:
        raise UserError("is empty", path="spec.evaluation.prompts", hint="fill it, or add --prompts FILE")
    places = [Place(path=text, uri=text, find=resolve_prompts) for text in sources]
    files = each(places, lambda place: prompts_file(place.uri, claims))
    typer.echo(f"evaluating {folder}", err=True)
    result = asyncio.run(measure(job, folder, files))
    typer.echo(json.dumps({"model": str(folder), **asdict(result)}) if as_json else sentence(result, folder))
    if not result.n:
        raise typer.Exit(1)


def smallest_job(folder: Path) -> dict[str, Any]:
    """A job whose student is this model and whose other fields an evaluation does not read."""
    from torch import cuda

    template = (folder / "chat_template.jinja").is_file() or "chat_template" in _json(folder / "tokenizer_config.json")
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": "eval"},
        "spec": {
            "student": {"model": "file:///"},
            "teachers": [{"mode": "Megatron", "model": "file:///"}],
            "data": {"prompts": [{"uri": "file:///"}], "applyChatTemplate": template},
            "device": "CUDA" if cuda.is_available() else "CPU",
            "steps": 1,
        },
    }


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.is_file() else {}


def student_of(job: OPDJob, run_dir: Path | None, volumes: Mapping[str, Path]) -> Path:
    """The job's exported student, else what it starts from."""
    export = (run_dir or Path("runs") / job.metadata.name) / "export"
    if (export / "config.json").is_file():
        return export
    return resolve_model(job.spec.student.model, volumes, cache_dir())


def model_folder(text: str, volumes: Mapping[str, Path]) -> Path:
    """A path or URI as a whole Hugging Face folder."""
    if "://" in text:
        return resolve_model(text, volumes, cache_dir())
    missing = missing_model_files(Path(text))
    if missing:
        raise UserError(f"is no Hugging Face model: it lacks {', '.join(missing)}", path=text)
    return Path(text)


def prompts_file(text: str, volumes: Mapping[str, Path]) -> str:
    """A path, or where a URI's file is."""
    return str(resolve_prompts(text, volumes, cache_dir())) if "://" in text else text


async def measure(job: OPDJob, model: Path, files: list[str]) -> "EvalResult":
    """Starts a server, asks it for every answer, judges them, ends it."""
    from ..config import PromptSource as Source
    from ..rollout.data import held_out_prompts
    from ..rollout.engine import EngineClient
    from ..rollout.engine_pool import EnginePool
    from ..rollout.evaluate import evaluate as score
    from ..rollout.generate import RolloutGenerator
    from ..rollout.rewards import build_eval_rewarder
    from ..rollout.rewards.rewarder import NEEDS_LABEL
    from ..rollout.tokenizer import PromptTokenizer

    spec = job.spec
    tokenizer = PromptTokenizer(model, apply_chat_template=spec.data.apply_chat_template)
    prompts = held_out_prompts(
        [Source(uri=file, path=file, weight=1.0) for file in files],
        tokenizer,
        spec.data,
        spec.rollout.max_prompt_tokens,
        needs_label=spec.reward.type in (*NEEDS_LABEL, "None"),
    )
    rewarder = build_eval_rewarder(spec.reward, args=spec)
    try:
        with serving(job, model) as url:
            pool = EnginePool([EngineClient(url, vocab_size=tokenizer.vocab_size)], _stays_dead)
            generator = RolloutGenerator(
                pool, tokenizer=tokenizer, rollout=spec.rollout, rewarder=rewarder, scorer=None
            )
            try:
                return await score(prompts, generator.generate, rewarder, spec.evaluation, spec.rollout)
            finally:
                await generator.close()
    finally:
        await rewarder.close()


@contextmanager
def serving(job: OPDJob, model: Path) -> Iterator[str]:
    """The URL of an SGLang server as the job's engines are. Its log stays when it could not be used."""
    from torch import cuda

    from ..rollout.server import SGLangServer

    spec, on_cuda = job.spec, job.spec.device == "CUDA"
    if on_cuda and not cuda.is_available():
        raise UserError("CUDA, but PyTorch sees no GPU here", path="spec.device", hint="--set device=CPU")
    handle, log = tempfile.mkstemp(prefix="opd-eval-", suffix=".log")
    os.close(handle)
    server = SGLangServer(
        model,
        device=spec.device.lower(),
        bf16=spec.student.precision == "BF16" or (spec.student.precision == "Auto" and on_cuda),
        memory_fraction=spec.rollout.engines.memory_fraction,
        tensor_parallel=spec.rollout.engines.gpus_per_replica if on_cuda else 1,
        extra_args=spec.rollout.engines.args,
        log_path=Path(log),
    )
    server.start()
    try:
        server.wait_ready(STARTUP_TIMEOUT_SECONDS)
        yield server.url
        Path(log).unlink()
    finally:
        server.stop()


async def _stays_dead(index: int) -> str:
    raise EngineUnavailable("the server died while it answered; see its log, opd-eval-*.log in the temporary folder")


def sentence(result: "EvalResult", model: Path) -> str:
    """The result in one line."""
    if result.pass_at_1 is None:
        return f"{model}: none of {result.failed} answers could be judged"
    failed = f", {result.failed} without an answer or verdict" if result.failed else ""
    return (
        f"{model}: pass@1 {result.pass_at_1:.3f}, 95 % interval {result.low:.3f} to {result.high:.3f},"
        f" {result.n} answers of {result.mean_tokens:.1f} tokens{failed}"
    )
