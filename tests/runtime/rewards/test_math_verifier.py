"""Mathematics judged in processes of their own: right, wrong, hanging, greedy for memory, killed."""

import asyncio
import os
import signal

import pytest

from opd_runtime.rollout.rewards.math_verifier import WORKER, MathVerifier
from opd_runtime.rollout.rewards.rewarder import Rewarder


def judged(samples, *, timeout_seconds: float = 20, workers: int = 1):
    """Rewards the samples one after the other."""

    async def run():
        verifier = MathVerifier(timeout_seconds=timeout_seconds, workers=workers)
        rewarder = Rewarder(verifier, weight=1.0)
        try:
            for sample in samples:
                await rewarder.reward(sample)
        finally:
            await rewarder.close()

    asyncio.run(run())


def test_answers_are_compared_as_mathematics(make_sample):
    table = [
        (r"so it is $\boxed{\frac{1}{2}}$", "0.5", 1.0),
        (r"$\frac{2}{4}$", r"\frac{1}{2}", 1.0),
        ("The answer is 42.", "42", 1.0),
        ("42 is wrong, the answer is 43", "42", 0.0),
        (r"\boxed{x^2+2x+1}", "$(x+1)^2$", 1.0),
        ("no answer at all", "42", 0.0),
        ("", "42", 0.0),
        ("\\boxed{" + "(" * 2000, "42", 0.0),
    ]
    samples = [make_sample(response, label) for response, label, _ in table]
    judged(samples)
    assert [sample.failure for sample in samples] == [""] * len(table)
    assert [sample.raw_reward for sample in samples] == [want for *_, want in table]


@pytest.mark.parametrize(
    "response", ["$9^{9^{9^9}} - 1$", r"$\sum_{i=1}^{10^{9}} \sin(i)$", r"$100000000!$", "$" + "(" * 5000 + "$"]
)
def test_a_formula_nobody_can_compute_counts_as_wrong_and_the_next_answer_as_it_is(make_sample, response):
    bomb, fine = make_sample(response, "42"), make_sample("42", "42")
    judged([bomb, fine], timeout_seconds=4)
    assert (bomb.raw_reward, bomb.failure) == (0.0, "")
    assert (fine.raw_reward, fine.failure) == (1.0, "")


@pytest.fixture
def worker_script(monkeypatch, tmp_path):
    """The real worker with another judge."""

    def make(judge: str) -> None:
        script = tmp_path / "worker.py"
        source = (
            WORKER.read_text().replace("def judge(", "def unused(").replace("def answer(", judge + "\n\ndef answer(")
        )
        script.write_text(source)
        monkeypatch.setattr("opd_runtime.rollout.rewards.math_verifier.WORKER", script)

    return make


@pytest.mark.parametrize(
    "judge",
    [
        pytest.param(
            "def judge(label, response):\n    while response == 'slow': pass\n    return 1.0",
            id="in Python, alarm",
        ),
        pytest.param(
            "def judge(label, response):\n    return 1.0 if response != 'slow' else float(str(9**9**9))",
            id="inside C, killed",
        ),
        pytest.param(
            "def judge(label, response):\n    return 1.0 if response != 'slow' else len(bytearray(2**40))",
            id="out of memory",
        ),
    ],
)
def test_whatever_hangs_or_bursts_gives_0_and_the_next_one_works(make_sample, worker_script, judge):
    worker_script(judge)
    slow, fine = make_sample("slow", "42"), make_sample("42", "42")
    judged([slow, fine], timeout_seconds=2)
    assert (slow.raw_reward, slow.failure) == (0.0, "")
    assert (fine.raw_reward, fine.failure) == (1.0, "")


@pytest.fixture
def stuck_worker(monkeypatch, tmp_path):
    """A worker that says it is ready and then ignores everything, SIGTERM too."""
    script = tmp_path / "stuck.py"
    script.write_text(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready', flush=True)\ntime.sleep(600)\n"
    )
    monkeypatch.setattr("opd_runtime.rollout.rewards.math_verifier.WORKER", script)


def test_a_worker_that_never_answers_is_killed_and_its_samples_get_0(make_sample, stuck_worker):
    samples = [make_sample("42", "42"), make_sample("42", "42")]
    judged(samples, timeout_seconds=0.3)
    assert [(sample.raw_reward, sample.failure) for sample in samples] == [(0.0, "")] * 2


def test_a_worker_that_does_not_start_masks_the_sample(make_sample, monkeypatch, tmp_path):
    monkeypatch.setattr("opd_runtime.rollout.rewards.math_verifier.WORKER", tmp_path / "gone.py")
    sample = make_sample("42", "42")
    judged([sample])
    assert sample.failure == "reward: the math-verify process ended while starting"


def test_a_killed_worker_is_replaced(make_sample):
    before, lost, after = (make_sample("42", "42") for _ in range(3))

    async def run():
        verifier = MathVerifier(timeout_seconds=20, workers=1)
        rewarder = Rewarder(verifier, weight=1.0)
        try:
            await rewarder.reward(before)
            (worker,) = verifier._running
            os.kill(worker.pid, signal.SIGKILL)
            await worker.wait()
            await rewarder.reward(lost)
            await rewarder.reward(after)
        finally:
            await rewarder.close()

    asyncio.run(run())
    assert (before.raw_reward, lost.raw_reward, after.raw_reward) == (1.0, 0.0, 1.0)


def test_many_at_once_share_the_workers_and_none_is_left_behind(make_sample):
    samples = [make_sample(str(i), str(i + i % 2)) for i in range(40)]

    async def run():
        verifier = MathVerifier(timeout_seconds=60, workers=2)
        rewarder = Rewarder(verifier, weight=1.0)
        await rewarder.reward_all(samples)
        workers = list(verifier._running)
        await rewarder.close()
        return workers

    workers = asyncio.run(run())
    assert [sample.raw_reward for sample in samples] == [1.0 - i % 2 for i in range(40)]
    assert len(workers) == 2 and all(worker.returncode is not None for worker in workers)


def test_a_cancelled_verification_frees_its_worker(make_sample, stuck_worker):
    async def run():
        verifier = MathVerifier(timeout_seconds=600, workers=1)
        task = asyncio.create_task(verifier.verify(make_sample("42", "42")))
        async with asyncio.timeout(30):
            while not verifier._running:
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return verifier._running, verifier._slots.qsize()

    assert asyncio.run(run()) == (set(), 1)
