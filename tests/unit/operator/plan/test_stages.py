"""What the plan does at each stage of a job's life: phase, what is applied, what is deleted."""

from dataclasses import replace

import pytest
from operator_makers import (
    NOW,
    after,
    ago,
    applied,
    condition,
    decide,
    deleted,
    fetching,
    make_condition,
    make_config,
    make_deployment,
    make_job,
    make_mailbox,
    make_models_job,
    make_models_pod,
    make_observed,
    make_pod,
    make_progress,
    make_rayjob,
    make_running,
    make_status,
    recorded,
    settled,
    training_status,
)

from opd_api.errors import Problem
from opd_operator.observed import ConfigFacts, Observed

FOUNDATION = [
    "Role job",
    "ServiceAccount job",
    "RoleBinding job",
    "ConfigMap job-mailbox",
    "NetworkPolicy job-ray",
    "ConfigMap job-config",
]
TEACHER = [
    "Secret job-teacher",
    "Service job-teacher",
    "NetworkPolicy job-teacher",
    "Deployment job-teacher",
]
TEACHER_GOES = ["Deployment job-teacher"]
IN_PROCESS = make_job(mode="Megatron")


def without_teacher(**fields) -> Observed:
    return settled(make_observed(IN_PROCESS, config=make_config(IN_PROCESS), **fields))


@pytest.mark.parametrize(
    ("observed", "want_phase", "want_applied", "want_deleted"),
    [
        pytest.param(
            make_observed(),
            "Pending",
            ["Job job-models"],
            [],
            id="a new job gets a models Job before all else",
        ),
        pytest.param(
            make_observed(make_job({"suspend": True})), "Suspended", [], [], id="a job created suspended makes nothing"
        ),
        pytest.param(make_observed(kuberay=False), "Pending", [], [], id="without KubeRay nothing is made"),
        pytest.param(
            make_observed(deleting=True, models_job=make_models_job()),
            None,
            [],
            [],
            id="a job on its way out is left to the garbage collector",
        ),
        pytest.param(fetching(), "Pending", [], [], id="while the models are read nothing happens"),
        pytest.param(
            fetching(models_job=None, pods=(make_models_pod(),)),
            "Pending",
            [],
            [],
            id="no models Job is made beside pods of one before, whose report would be taken for its own",
        ),
        pytest.param(
            make_observed(status=recorded(1), models_job=make_models_job(), pods=(make_models_pod(),)),
            "Starting",
            FOUNDATION,
            [],
            id="a report of models goes into the config before its Job is deleted",
        ),
        pytest.param(
            fetching(pods=(make_models_pod(),)),
            "Starting",
            FOUNDATION,
            [],
            id="with the models known they are stored, the first attempt is recorded, and their Job kept",
        ),
        pytest.param(
            fetching(models_job=make_models_job(succeeded=True)),
            "Pending",
            [],
            ["Job job-models"],
            id="a models Job whose words are lost is made again",
        ),
        pytest.param(
            settled(make_observed(status=make_status(), config=make_config(), models_job=make_models_job())),
            "Starting",
            [],
            ["Job job-models"],
            id="with models known the first attempt is written down and nothing of it made",
        ),
        pytest.param(
            settled(make_observed(status=recorded(), config=make_config(), models_job=make_models_job())),
            "Starting",
            ["RayJob job-a1"],
            [],
            id="a recorded attempt gets its RayJob before all else",
        ),
        pytest.param(
            settled(
                make_observed(
                    status=recorded(), config=make_config(), models_job=make_models_job(), rayjobs=(make_rayjob(1),)
                )
            ),
            "Starting",
            TEACHER,
            ["Job job-models"],
            id="with its RayJob made an attempt gets its teacher",
        ),
        pytest.param(
            without_teacher(status=recorded()),
            "Starting",
            ["RayJob job-a1"],
            [],
            id="in Megatron mode there is no teacher to deploy",
        ),
        pytest.param(
            settled(make_observed(status=recorded(2, seconds_ago=-8), config=make_config())),
            "Starting",
            TEACHER,
            [],
            id="an attempt that backs off is not made, its teacher is",
        ),
        pytest.param(
            without_teacher(status=recorded(2, seconds_ago=-3600)),
            "Starting",
            ["RayJob job-a2"],
            [],
            id="a start an hour ahead is a clock that was wrong, and not waited for",
        ),
        pytest.param(
            without_teacher(status=recorded(2), rayjobs=(make_rayjob(1),)),
            "Starting",
            [],
            ["RayJob job-a1"],
            id="beside an older RayJob no attempt is made",
        ),
        pytest.param(
            without_teacher(status=recorded(2), pods=(make_pod("trainer", attempt=1, deleting=True),)),
            "Starting",
            [],
            [],
            id="while a pod of the attempt before ends no attempt is made",
        ),
        pytest.param(
            without_teacher(status=recorded(1), pods=(make_pod("head", attempt=1, deleting=True),)),
            "Starting",
            [],
            [],
            id="while a pod of an earlier job of the same name ends no attempt is made",
        ),
        pytest.param(settled(make_running()), "Training", [], [], id="a job that trains is left alone"),
        pytest.param(
            settled(
                make_running(mailbox=make_mailbox(), rayjobs=(make_rayjob(suspended=True, job_status=""),), pods=())
            ),
            "Queued",
            [],
            [],
            id="a RayJob held back by Kueue is queued",
        ),
        pytest.param(
            settled(make_running(deployments=())),
            "Training",
            TEACHER,
            [],
            id="a teacher that somebody deleted comes back",
        ),
        pytest.param(
            settled(make_running(deployments=(make_deployment(digest="of an older operator"),))),
            "Training",
            [],
            [],
            id="an operator's upgrade does not restart a teacher in the middle of an attempt",
        ),
        pytest.param(
            settled(
                make_observed(status=recorded(2), config=make_config(), deployments=(make_deployment(digest="old"),))
            ),
            "Starting",
            [*TEACHER, "RayJob job-a2"],
            [],
            id="with a new attempt a teacher is brought up to date",
        ),
        pytest.param(
            replace(settled(make_running()), mailbox=None),
            "Training",
            ["ConfigMap job-mailbox"],
            [],
            id="a mailbox that somebody deleted comes back",
        ),
        pytest.param(
            replace(settled(make_running()), config=None),
            "Training",
            FOUNDATION,
            [],
            id="a config that somebody deleted comes back, and the attempt goes on",
        ),
        pytest.param(
            make_running(status=training_status(1, make_condition("Failed", reason="UserError"))),
            None,
            [],
            ["RayJob job-a1", *TEACHER_GOES],
            id="a failed job gives everything back",
        ),
        pytest.param(
            make_running(
                status=training_status(
                    1,
                    make_condition("Complete", reason="Succeeded", seconds_ago=20),
                    completion_time="2026-11-25T20:09:40Z",
                )
            ),
            None,
            [],
            TEACHER_GOES,
            id="the driver of a job that succeeded has a minute to close its files",
        ),
        pytest.param(
            replace(make_observed(), job=None, problems=(Problem(path="spec.steps", message="is no number"),)),
            "Failed",
            [],
            [],
            id="a document that cannot be read fails before anything is made",
        ),
        pytest.param(
            replace(make_running(), job=None),
            "Pending",
            [],
            [],
            id="a running job whose document an older operator cannot read is left alone",
        ),
        pytest.param(
            make_observed(config=ConfigFacts(owner_uid="another")),
            "Pending",
            [],
            [],
            id="a stranger's ConfigMap of a child's name is not touched",
        ),
        pytest.param(
            without_teacher(status=recorded(), rayjobs=(make_rayjob(2, owner_uid="another"),)),
            "Pending",
            [],
            [],
            id="a stranger's RayJob of another name with our label keeps us from starting",
        ),
        pytest.param(
            without_teacher(status=recorded(), rayjobs=(make_rayjob(1, owner_uid="another"),)),
            "Pending",
            [],
            [],
            id="a stranger's RayJob of the attempt's name is neither adopted nor deleted",
        ),
    ],
)
def test_stage(observed, want_phase, want_applied, want_deleted):
    decision = decide(observed)
    assert (decision.status.phase, applied(decision), deleted(decision)) == (want_phase, want_applied, want_deleted)


def test_an_attempt_is_made_behind_a_fence():
    assert decide(without_teacher(status=recorded(3))).fence == 3
    assert decide(settled(make_running())).fence is None


def test_an_attempt_is_written_down_with_its_start():
    decision = decide(settled(make_observed(status=make_status(), config=make_config())))
    assert (decision.status.attempt, decision.status.attempt_start_time) == (1, "2026-11-25T20:10:00Z")
    assert decision.status.start_time == "2026-11-25T20:10:00Z"
    assert decision.apply == ()


def test_the_launch_of_a_first_attempt_has_nothing_to_add_to_what_was_written_down():
    observed = settled(make_observed(status=make_status(), config=make_config()))
    launch = decide(after(observed, decide(observed)))
    assert (launch.fence, launch.status) == (1, decide(observed).status)


def test_a_second_plan_changes_nothing():
    first = make_running()
    observed = after(settled(first), decide(first))
    decision = decide(observed, now=NOW)
    assert decision.status == observed.status
    assert (decision.events, decision.apply, decision.delete, decision.delete_job) == ((), (), (), False)


def test_a_finished_job_keeps_what_it_said_and_follows_the_generation():
    status = training_status(1, make_condition("Failed", reason="UserError"), message="why", phase="Failed")
    decision = decide(make_observed(status=status, generation=7))
    assert decision.status == status.model_copy(update={"observed_generation": 7})


def test_a_pod_template_that_cannot_be_merged_is_invalid_before_models_are_read():
    decision = decide(make_observed(make_job({"head": {"podTemplate": {"spec": 5}}})))
    assert condition(decision, "Accepted").reason == "Invalid"
    assert decision.status.message.startswith("spec.head.podTemplate.spec: is no object")
    assert decision.apply == ()


def test_several_trainer_pods_without_a_claim_are_refused_before_models_are_read():
    trainers = {"model": "pvc://models/student", "trainers": {"replicas": 2}}
    decision = decide(make_observed(make_job({"student": trainers, "checkpoint": {"claimName": ""}})))
    assert condition(decision, "Accepted").reason == "Invalid"
    assert decision.status.message.startswith("spec.checkpoint.claimName: is empty, and the pods of student.trainers")
    assert decision.apply == ()


def test_kuberay_installed_later_lets_the_job_go_on():
    first = decide(make_observed(kuberay=False))
    assert condition(first, "Accepted").reason == "KubeRayMissing"
    assert "install it" in first.status.message
    second = decide(make_observed(status=first.status))
    assert condition(second, "Accepted").status == "True"
    assert "Job job-models" in applied(second)


def test_what_the_api_server_refuses_is_told():
    observed = replace(without_teacher(status=recorded()), rejection="RayJob job-a1: admission webhook says no")
    assert "admission webhook says no" in decide(observed).status.message


def test_a_teacher_the_document_no_longer_names_goes():
    renamed = make_job(name="judge")
    observed = settled(
        make_observed(
            renamed,
            status=recorded(2),
            config=make_config(renamed),
            deployments=(make_deployment(),),
        )
    )
    assert deleted(decide(observed)) == TEACHER_GOES


def test_another_jobs_rayjob_that_may_still_write_is_named():
    """The fence would count it: an earlier job of this name may have got further."""
    decision = decide(without_teacher(status=recorded(), rayjobs=(make_rayjob(2, owner_uid="another"),)))
    assert "in its way: RayJob job-a2" in decision.status.message


def test_a_progress_of_the_attempt_before_does_not_start_the_new_one():
    observed = settled(
        make_observed(
            status=recorded(2),
            config=make_config(),
            mailbox=make_mailbox(make_progress(1, "Succeeded")),
            created=ago(900),
        )
    )
    assert decide(observed).status.phase == "Starting"
