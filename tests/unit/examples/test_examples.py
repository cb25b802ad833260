"""Every shipped example is a job that this version accepts, with the models and prompts that lie beside it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from opd_api.load import load_job_file
from opd_runtime.config import PromptSource
from opd_runtime.orchestrate.resolve import Places, resolve
from opd_runtime.rollout.data import PromptStream, held_out_prompts
from opd_runtime.rollout.hooks import REWARD, load_hook
from opd_runtime.rollout.sample import Prompt, Sample
from opd_runtime.rollout.tokenizer import PromptTokenizer

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
JOBS = sorted(file for file in EXAMPLES.glob("*/opdjob*.yaml") if "device: CPU" in file.read_text())
"""Those that run anywhere; the others are told apart by what they need."""
CLAIM = "opd-examples"
SHIPPED_BYTES = 4_000_000

each_job = pytest.mark.parametrize("job_file", JOBS, ids=lambda file: f"{file.parent.name}/{file.name}")


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples' claim, filled as `make demo` fills it."""
    folder = tmp_path_factory.mktemp("volume")
    install(folder)
    return folder


def install(folder: Path) -> None:
    subprocess.run([sys.executable, "-S", EXAMPLES / "install.py", "--volume", folder], check=True, cwd=ROOT)


def places(volume: Path) -> Places:
    return Places(run_dir=volume / "run", volumes={CLAIM: volume}, cache_dir=volume / "cache")


def records_of(sources: tuple[PromptSource, ...]) -> list[dict[str, str]]:
    return [json.loads(line) for source in sources for line in Path(source.path).read_text().splitlines()]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@each_job
def test_every_example_is_a_valid_job_for_its_models(job_file: Path, volume: Path) -> None:
    cfg = resolve(load_job_file(job_file), places(volume))
    assert cfg.device == "cpu"
    assert cfg.teacher.model_path is not None


@each_job
def test_its_uris_name_the_claim_alone(job_file: Path) -> None:
    uris = re.findall(r"\w+://\S+", job_file.read_text())
    assert uris and all(uri.startswith(f"pvc://{CLAIM}/{job_file.parent.name}/") for uri in uris)


@each_job
def test_prompts_fit_and_held_out_ones_are_not_trained_on(job_file: Path, volume: Path) -> None:
    cfg = resolve(load_job_file(job_file), places(volume))
    tokenizer = PromptTokenizer(cfg.student_path, apply_chat_template=cfg.data.apply_chat_template)
    longest, seed = cfg.rollout.max_prompt_tokens, cfg.seed
    stream = PromptStream(cfg.prompts, tokenizer, cfg.data, longest, seed, needs_label=True)
    records = len(records_of(cfg.prompts))
    trained = {prompt.text for prompt in stream.take(records)}
    held_out = {
        prompt.text for prompt in held_out_prompts(cfg.eval_prompts, tokenizer, cfg.data, longest, needs_label=True)
    }
    assert len(trained) == records and stream.dropped == 0
    assert held_out and not trained & held_out


@each_job
def test_every_label_fits_into_a_response(job_file: Path, volume: Path) -> None:
    cfg = resolve(load_job_file(job_file), places(volume))
    tokenizer = PromptTokenizer(cfg.student_path, apply_chat_template=False)
    for record in records_of((*cfg.prompts, *cfg.eval_prompts)):
        ids = tokenizer.encode(record["label"])
        assert len(ids) < cfg.rollout.max_response_tokens, "the end of sequence needs a token too"
        assert tokenizer.decode(ids) == record["label"]


@pytest.mark.filterwarnings("ignore::SyntaxWarning")  # of a dependency of reasoning-gym
def test_the_custom_reward_knows_right_from_wrong(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = resolve(load_job_file(EXAMPLES / "reasoning" / "opdjob.yaml"), places(volume))
    monkeypatch.chdir(ROOT)
    score = load_hook(cfg.reward.function, REWARD)
    record = records_of(cfg.eval_prompts)[0]
    prompt = Prompt(index=0, text=record["prompt"], token_ids=(1,), label=record["label"], record=record)
    assert score(None, Sample(prompt=prompt, group=0, response=record["label"])) == 1.0
    assert score(None, Sample(prompt=prompt, group=0, response=record["label"][:-1])) == 0.0


def test_installing_again_changes_nothing_and_repairs_what_is_broken(tmp_path: Path) -> None:
    install(tmp_path)
    first = files_of(tmp_path)
    install(tmp_path)
    assert files_of(tmp_path) == first
    shutil.rmtree(tmp_path / "arithmetic" / "models" / "student")
    (tmp_path / "arithmetic" / "prompts" / "train.jsonl").write_text("cut off")
    install(tmp_path)
    assert files_of(tmp_path) == first


@pytest.mark.parametrize("example", sorted({file.parent for file in JOBS}), ids=lambda folder: folder.name)
def test_what_is_shipped_stays_small(example: Path) -> None:
    assert sum(len(data) for data in files_of(example).values()) < SHIPPED_BYTES
