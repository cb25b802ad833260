"""Advice from the numbers: the condition Degraded, its message and its Event."""

import pytest
from operator_makers import after, condition, decide, make_job, make_mailbox, make_progress, make_running, settled

KL, FIRST, REWARD, FIRST_REWARD = "opd/reverse_kl", "opd/reverse_kl_first", "reward/raw", "reward/raw_first"
FELL = {KL: 0.1, FIRST: 0.6}


def training(step: int = 120, *, job=None, metrics=None, **fields):
    report = make_progress(step=step, metrics=metrics or {}, **fields)
    return settled(make_running(job or make_job(), mailbox=make_mailbox(report)))


@pytest.mark.parametrize(
    ("observed", "want_reason", "want_message"),
    [
        pytest.param(training(metrics=FELL, trend="Falling"), "Healthy", "look well", id="a job that goes well"),
        pytest.param(
            training(metrics={KL: 4.2, FIRST: 0.6}, trend="Spike"),
            "KLSpike",
            "reverse KL has jumped to 4.2 nats a token at step 120",
            id="a spike",
        ),
        pytest.param(
            training(metrics={KL: 0.58, FIRST: 0.6}, trend="Stable"),
            "KLNotFalling",
            "raise distillation.klCoef (2.0 or more), and check that the teacher is better than the student",
            id="reverse KL that does not fall",
        ),
        pytest.param(
            training(25, metrics={KL: 0.58, FIRST: 0.6}, trend="Stable"), "Healthy", "", id="before a tenth of the job"
        ),
        pytest.param(
            training(15, job=make_job({"steps": 100}), metrics={KL: 0.58, FIRST: 0.6}, total_steps=100),
            "Healthy",
            "",
            id="before twenty steps",
        ),
        pytest.param(
            training(metrics={KL: 0.58, FIRST: 0.6}, trend="Falling"),
            "Healthy",
            "",
            id="reverse KL that begins to fall",
        ),
        pytest.param(
            training(metrics={KL: 0.01, FIRST: 0.01}, trend="Stable"), "Healthy", "", id="models that agree already"
        ),
        pytest.param(
            training(metrics=FELL | {REWARD: 0.3, FIRST_REWARD: 0.6}),
            "RewardFalling",
            "the reward has fallen from 0.6 to 0.3 while reverse KL fell; lower distillation.klCoef (0.5 or less)",
            id="a reward that falls while reverse KL falls",
        ),
        pytest.param(
            training(metrics=FELL | {REWARD: 0.57, FIRST_REWARD: 0.6}), "Healthy", "", id="a reward that wavers"
        ),
        pytest.param(
            training(metrics=FELL | {"teacher/failed": 2.0}),
            "ScoresFailing",
            "could not score 2 of the step's 16 samples",
            id="a teacher that cannot score the step",
        ),
        pytest.param(
            training(
                metrics=FELL, teachers=({"name": "teacher", "mode": "SGLang", "ready": True, "failed_scores": 200},)
            ),
            "ScoresFailing",
            "could not score 200 samples so far",
            id="a teacher that could not score many",
        ),
        pytest.param(
            training(job=make_job({"checkpoint": {"claimName": ""}}), metrics=FELL),
            "NoCheckpoint",
            "set checkpoint.claimName",
            id="nothing to come back to",
        ),
        pytest.param(
            training(job=make_job({"checkpoint": {"claimName": ""}}), metrics={KL: 4.2, FIRST: 0.6}, trend="Spike"),
            "KLSpike",
            "",
            id="the most pressing thing is said",
        ),
    ],
)
def test_advice(observed, want_reason, want_message):
    said = condition(decide(observed), "Degraded")
    assert (said.reason, said.status) == (want_reason, "False" if want_reason == "Healthy" else "True")
    assert want_message in said.message


def test_advice_is_the_message_of_a_job_that_trains():
    decision = decide(training(metrics={KL: 0.58, FIRST: 0.6}, trend="Stable"))
    assert decision.status.message == condition(decision, "Degraded").message


def test_a_missing_claim_is_no_reason_to_hide_how_far_the_job_is():
    decision = decide(training(job=make_job({"checkpoint": {"claimName": ""}}), metrics=FELL))
    assert decision.status.message == "Training: 120 of 300 steps are done."


def test_a_spike_is_an_event_once():
    observed = training(metrics={KL: 4.2, FIRST: 0.6}, trend="Spike")
    decision = decide(observed)
    assert [event.reason for event in decision.events if event.type == "Warning"] == ["KLSpike"]
    assert decide(after(observed, decision)).events == ()
