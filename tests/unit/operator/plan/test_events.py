"""Events: which transitions are told, once each, in words a reader of `kubectl describe` understands."""

import pytest
from operator_makers import (
    after,
    attempt_status,
    decide,
    fetching,
    make_cluster,
    make_condition,
    make_config,
    make_job,
    make_mailbox,
    make_models_pod,
    make_observed,
    make_progress,
    make_rayjob,
    make_running,
    make_status,
    recorded,
    settled,
    training_status,
)

LOST = {"actor": "Infrastructure", "reason": "TrainerLost", "message": "trainer 1 died"}
TEACHER = {"name": "teacher", "mode": "SGLang", "ready": True, "ready_replicas": 1, "replicas": 1}


@pytest.mark.parametrize(
    ("observed", "want"),
    [
        pytest.param(make_observed(), [], id="a new job"),
        pytest.param(make_observed(kuberay=False), ["Warning KubeRayMissing"], id="no KubeRay"),
        pytest.param(
            fetching(pods=(make_models_pod(),), status=make_status(make_condition("ModelsReady", "False", "Fetching"))),
            [],
            id="models are known",
        ),
        pytest.param(
            settled(make_observed(status=make_status(), config=make_config())),
            [],
            id="the first attempt",
        ),
        pytest.param(
            settled(make_running(status=attempt_status(), mailbox=make_mailbox(make_progress(teachers=(TEACHER,))))),
            ["Normal TeacherReady", "Normal Training"],
            id="training begins",
        ),
        pytest.param(
            settled(
                make_running(
                    status=attempt_status(),
                    rayclusters=(),
                    mailbox=make_mailbox(),
                    rayjobs=(make_rayjob(suspended=True),),
                )
            ),
            ["Normal Queued"],
            id="Kueue holds the job back",
        ),
        pytest.param(
            settled(make_running(mailbox=make_mailbox(make_progress(1, "Failed", error=LOST)))),
            ["Warning Retrying", "Normal AttemptRecorded"],
            id="an attempt is lost",
        ),
        pytest.param(
            settled(make_running(mailbox=make_mailbox(make_progress(1, "Succeeded", step=300)))),
            ["Normal Complete"],
            id="success",
        ),
        pytest.param(
            settled(make_running(rayjobs=(make_rayjob(deployment_status="ValidationFailed"),))),
            ["Warning UserError"],
            id="failure",
        ),
        pytest.param(settled(make_running(make_job({"suspend": True}))), ["Normal Suspending"], id="suspension begins"),
        pytest.param(
            settled(
                make_observed(status=recorded(1, make_condition("Suspended", reason="Suspended")), config=make_config())
            ),
            ["Normal Resumed", "Normal AttemptRecorded"],
            id="resumed",
        ),
        pytest.param(
            settled(
                make_running(
                    status=training_status(1, make_condition("ClusterReady", reason="Ready")),
                    rayclusters=(make_cluster(ready_workers=1),),
                )
            ),
            ["Warning WorkerLost"],
            id="a worker is lost",
        ),
    ],
)
def test_event(observed, want):
    known = {"TeacherReady", "Degraded", "Training"}
    decision = decide(observed)
    news = [f"{event.type} {event.reason}" for event in decision.events]
    assert [each for each in news if each in want or each.split()[1] not in known] == want
    assert not set(decision.events) & set(decide(after(observed, decision)).events), "told twice"


def test_the_same_transition_has_the_same_token_and_another_has_another():
    observed = make_observed(kuberay=False)
    (first,), (again,) = decide(observed).events, decide(observed).events
    assert first == again
    later = decide(settled(make_running(mailbox=make_mailbox(make_progress(1, "Succeeded", step=300))))).events[0]
    assert later.token != first.token
