"""What reaches a sample: a weighted reward, or the reason why it is masked."""

import asyncio
import math
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from opd_api.spec import Reward
from opd_runtime.errors import UserError
from opd_runtime.rollout.rewards import build_eval_rewarder, build_rewarder, custom_verifier
from opd_runtime.rollout.rewards.custom_verifier import CustomVerifier
from opd_runtime.rollout.rewards.rewarder import Rewarder
from opd_runtime.rollout.sample import Sample

SOURCE = """
import asyncio, math
async def level(args, sample, **kw): return args["scale"] * sample.record["level"]
def plain(args, sample, **kw): return len(sample.response)
async def raises(args, sample, **kw): raise KeyError("level")
async def not_a_number(args, sample, **kw): return math.nan
async def nothing(args, sample, **kw): pass
async def never(args, sample, **kw): await asyncio.Event().wait()
def gives_up(args, sample, **kw): raise TimeoutError("read timed out")
def centred(args, samples, **kw):
    raws = [s.raw_reward for s in samples]
    return raws, [r - sum(raws) / len(raws) for r in raws]
def too_few_arguments(args, **kw): return 1.0
def too_few(args, samples, **kw): return [1.0], [1.0]
def infinite(args, samples, **kw): return [1.0] * len(samples), [math.inf] * len(samples)
"""


@pytest.fixture
def hook(tmp_path):
    (tmp_path / "rewards.py").write_text(SOURCE)
    return lambda name: f"{tmp_path}/rewards.py:{name}"


def rewarded(reward: Reward, *samples: Sample, args: object = None):
    async def run():
        rewarder = build_rewarder(reward, args=args)
        try:
            await rewarder.reward_all(samples)
            rewarder.post_process(samples)
        finally:
            await rewarder.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("response", "label", "want"),
    [
        pytest.param("42", "42", 1.0, id="equal"),
        pytest.param(" 42\n", "42 ", 1.0, id="spaces around do not count"),
        pytest.param("4 2", "42", 0.0, id="spaces inside do"),
        pytest.param("042", "42", 0.0, id="it is text, not a number"),
        pytest.param("", "42", 0.0, id="no answer"),
    ],
)
def test_exact_compares_text(make_sample, response, label, want):
    sample = make_sample(response, label)
    rewarded(Reward(type="Exact", weight=0.5), sample)
    assert (sample.raw_reward, sample.reward, sample.failure) == (want, 0.5 * want, "")


@pytest.mark.parametrize("kind", ["Exact", "Math"])
def test_a_sample_without_a_label_is_masked(make_sample, kind):
    sample = make_sample("42", None)
    rewarded(Reward(type=kind), sample)
    assert sample.failure == "reward: the record has no label to compare with"


def test_pure_distillation_has_no_reward_and_no_failure(make_sample):
    sample = make_sample("42", None)
    rewarded(Reward(), sample)
    assert (sample.raw_reward, sample.reward, sample.failure) == (None, 0.0, "")


def test_a_sample_that_failed_before_is_left_alone(make_sample):
    sample = make_sample("42", "42")
    sample.failure = "engine: gone"
    rewarded(Reward(type="Exact"), sample)
    assert (sample.raw_reward, sample.failure) == (None, "engine: gone")


def test_weight_zero_measures_without_training(make_sample):
    sample = make_sample("42", "42")
    rewarded(Reward(type="Exact", weight=0.0), sample)
    assert (sample.raw_reward, sample.reward) == (1.0, 0.0)


def test_evaluation_judges_pure_distillation_by_its_labels_and_without_weight(make_sample):
    right, wrong = make_sample("42", "42"), make_sample("41", "42")
    asyncio.run(build_eval_rewarder(Reward(weight=0.0)).reward_all([right, wrong]))
    assert (right.raw_reward, right.reward, wrong.raw_reward) == (1.0, 1.0, 0.0)


def test_a_custom_reward_sees_arguments_and_record(make_sample, hook):
    sample = make_sample("42", None, level=3)
    rewarded(Reward(type="Custom", function=hook("level"), weight=2.0), sample, args={"scale": 0.5})
    assert (sample.raw_reward, sample.reward) == (1.5, 3.0)


def test_a_custom_reward_may_be_a_plain_function(make_sample, hook):
    sample = make_sample("four")
    rewarded(Reward(type="Custom", function=hook("plain")), sample)
    assert sample.raw_reward == 4.0


@pytest.mark.parametrize(
    ("name", "want"),
    [
        pytest.param("raises", "reward: KeyError: 'level'", id="an exception"),
        pytest.param("not_a_number", "reward: the reward is nan", id="not a number"),
        pytest.param("nothing", "reward: TypeError: ", id="no return"),
        pytest.param("never", "reward: no answer within 1 s", id="never ends"),
        pytest.param("gives_up", "reward: TimeoutError: read timed out", id="a timeout of its own"),
    ],
)
def test_a_custom_reward_that_fails_masks_its_sample_alone(make_sample, hook, name, want):
    sample = make_sample("42", None, level=3)
    rewarded(Reward(type="Custom", function=hook(name), timeout_seconds=1), sample)
    assert sample.failure.startswith(want)
    assert (sample.raw_reward, sample.reward) == (None, 0.0)


def judged(function, samples, *, timeout_seconds: float, clock=time.monotonic) -> None:
    rewarder = Rewarder(CustomVerifier(function, None, timeout_seconds=timeout_seconds), weight=1.0)
    loop = asyncio.new_event_loop()
    loop.time = clock
    asyncio.run(rewarder.reward_all(samples), loop_factory=lambda: loop)


def test_a_plain_functions_clock_starts_with_its_thread(make_sample, monkeypatch):
    """Each call puts the clock forward instead of taking its time."""
    monkeypatch.setattr(custom_verifier, "THREADS", 1)
    samples, ended = [make_sample("42") for _ in range(4)], []

    def takes_40_seconds(args, sample):
        ended.append(sample)
        return 1.0

    judged(takes_40_seconds, samples, timeout_seconds=60, clock=lambda: time.monotonic() + 40 * len(ended))
    assert [(sample.raw_reward, sample.failure) for sample in samples] == [(1.0, "")] * 4


def test_plain_functions_that_hang_hold_nobody_up(make_sample, monkeypatch):
    monkeypatch.setattr(custom_verifier, "THREADS", 2)
    released = threading.Event()
    samples = [make_sample(response) for response in ("hangs", "hangs", "fine", "fine")]
    try:
        judged(lambda args, sample: sample.response == "fine" or released.wait(), samples, timeout_seconds=2)
    finally:
        released.set()
    assert [sample.failure for sample in samples] == ["reward: no answer within 2 s"] * 2 + [""] * 2
    assert [sample.raw_reward for sample in samples[2:]] == [1.0, 1.0]


def test_a_process_ends_though_a_plain_function_hangs():
    script = """
        import asyncio, threading
        from opd_runtime.rollout.rewards.custom_verifier import CustomVerifier
        from opd_runtime.rollout.rewards.rewarder import Rewarder
        from opd_runtime.rollout.sample import Prompt, Sample
        sample = Sample(prompt=Prompt(index=0, text="", token_ids=(1,), label=None, record={}), group=0)
        verifier = CustomVerifier(lambda args, sample: threading.Event().wait(), None, timeout_seconds=0.1)
        asyncio.run(Rewarder(verifier, weight=1.0).reward(sample))
        print(sample.failure)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "reward: no answer within 0.1 s\n" and ended.stderr == ""


def test_a_custom_reward_that_does_not_fit_is_refused_before_anything_starts(hook):
    with pytest.raises(
        UserError, match=r"spec.reward.function: .*\nhint: it must be: async def reward\(args, sample, \*\*kw\)"
    ):
        build_rewarder(Reward(type="Custom", function=hook("too_few_arguments")))


def test_post_processing_sees_the_whole_step_and_the_weight_comes_after(make_sample, hook):
    right, wrong, failed = make_sample("1", "1"), make_sample("2", "1"), make_sample("1", "1")
    failed.failure = "engine: gone"
    rewarded(Reward(type="Exact", weight=2.0, post_process=hook("centred")), right, wrong, failed)
    assert [sample.raw_reward for sample in (right, wrong, failed)] == [1.0, 0.0, None]
    assert [sample.reward for sample in (right, wrong, failed)] == [1.0, -1.0, 0.0]


@pytest.mark.parametrize(
    ("name", "want"),
    [
        pytest.param("too_few", "1 rewards for 2 samples", id="a reward is missing"),
        pytest.param("infinite", "a reward that is not finite", id="infinite"),
    ],
)
def test_post_processing_that_does_not_fit_the_samples_is_the_users_error(make_sample, hook, name, want):
    samples = make_sample("1", "1"), make_sample("2", "1")
    with pytest.raises(
        UserError, match=rf"spec.reward.postProcess: failed: ValueError: {want}\nhint: it must be: def post_process"
    ):
        rewarded(Reward(type="Exact", post_process=hook(name)), *samples)
    assert not any(math.isinf(sample.reward) for sample in samples)
