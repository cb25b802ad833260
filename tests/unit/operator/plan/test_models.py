"""The models Job's report: when it is used, when it is asked for again, and what it refuses."""

import pytest
from operator_makers import (
    MODELS,
    applied,
    condition,
    decide,
    deleted,
    fetching,
    make_config,
    make_job,
    make_models_job,
    make_models_pod,
    make_observed,
    make_status,
    settled,
    stored_models,
)

from opd_api.documents import FieldProblem, ModelsReport


def test_models_of_another_document_are_not_used():
    """A suspended job may be edited: another teacher needs another report."""
    edited = make_job(model="pvc://models/another")
    observed = settled(make_observed(edited, status=make_status(), config=make_config(make_job())))
    decision = decide(observed)
    assert condition(decision, "ModelsReady").reason == "Fetching"
    assert applied(decision) == ["Job job-models"]
    assert decision.status.attempt is None


def test_an_edit_of_sampling_needs_no_new_report():
    edited = make_job({"rollout": {"batchSize": 8, "temperature": 1.0}})
    assert decide(settled(make_observed(edited, status=make_status(), config=make_config()))).status.attempt == 1


@pytest.mark.parametrize(
    ("pods", "job", "want_reason", "want_failed", "want_message"),
    [
        pytest.param(
            (
                make_models_pod(
                    ModelsReport(
                        problems=(
                            FieldProblem(path="spec.teachers[0].model", message="is not there", hint="check the URI"),
                        )
                    ),
                    phase="Failed",
                ),
            ),
            make_models_job(failed="reached the backoff limit"),
            "FetchFailed",
            "UserError",
            "spec.teachers[0].model: is not there (check the URI)",
            id="a model that is not there",
        ),
        pytest.param(
            (make_models_pod(ModelsReport(problems=(FieldProblem(path="spec.student.load", message="is empty"),))),),
            make_models_job(failed="reached the backoff limit"),
            "CheckpointMissing",
            "UserError",
            "spec.student.load: is empty",
            id="a checkpoint that is not there",
        ),
        pytest.param(
            (),
            make_models_job(failed="reached the backoff limit"),
            "FetchFailed",
            "BackoffLimitExceeded",
            "the models could not be read: reached the backoff limit",
            id="a models Job that never said a word",
        ),
        pytest.param(
            (make_models_pod(phase="Failed", termination_message="", last_words="runc: no opd"),),
            make_models_job(failed="reached the backoff limit"),
            "FetchFailed",
            "BackoffLimitExceeded",
            "the models could not be read: reached the backoff limit (runc: no opd)",
            id="a models Job whose containers never started",
        ),
        pytest.param(
            (make_models_pod(termination_message="{"),),
            make_models_job(succeeded=True),
            "FetchFailed",
            "UserError",
            "runtime image of this operator's version?",
            id="a report nobody can read",
        ),
        pytest.param(
            (make_models_pod(ModelsReport()),),
            make_models_job(succeeded=True),
            "FetchFailed",
            "UserError",
            "it does not describe the student",
            id="a report without the student",
        ),
    ],
)
def test_models_that_cannot_be_read_fail_the_job(pods, job, want_reason, want_failed, want_message):
    decision = decide(fetching(models_job=job, pods=pods))
    assert condition(decision, "ModelsReady").reason == want_reason
    assert condition(decision, "Failed").reason == want_failed
    assert want_message in decision.status.message
    assert deleted(decision) == ["Job job-models"]


def test_a_try_that_failed_is_told_and_not_the_end():
    problems = ModelsReport(problems=(FieldProblem(path="spec.student.model", message="timed out"),))
    decision = decide(fetching(pods=(make_models_pod(problems, phase="Failed"),)))
    assert (decision.status.phase, decision.status.message) == (
        "Pending",
        "spec.student.model: timed out; trying again",
    )
    assert condition(decision, "ModelsReady").reason == "FetchFailed"


def test_another_tokenizer_is_refused():
    other = MODELS.models["teacher"].model_copy(update={"tokenizer_fingerprint": "b"})
    models = MODELS.model_copy(update={"models": MODELS.models | {"teacher": other}})
    decision = decide(fetching(pods=(make_models_pod(models),)))
    assert condition(decision, "ModelsReady").reason == "TokenizerMismatch"
    assert (condition(decision, "Accepted").status, condition(decision, "Failed").reason) == ("False", "UserError")
    assert decision.status.message.startswith("spec.teachers[0].model: its tokenizer differs")


def test_a_layout_that_does_not_fit_the_models_is_invalid():
    job = make_job(
        {"student": {"model": "pvc://models/student", "parallelism": {"tensor": 3}, "trainers": {"replicas": 3}}}
    )
    observed = settled(make_observed(job, status=make_status(), config=make_config(models=stored_models(job))))
    decision = decide(observed)
    assert condition(decision, "Accepted").reason == "Invalid"
    assert "spec.student.parallelism.tensor: 3 does not divide" in decision.status.message
