"""Pods in trouble, in words: which condition says it, whose pod it is, and what to do."""

import pytest
from operator_makers import (
    ago,
    attempt_status,
    condition,
    decide,
    fetching,
    make_cluster,
    make_condition,
    make_config,
    make_deployment,
    make_job,
    make_mailbox,
    make_models_job,
    make_observed,
    make_pod,
    make_progress,
    make_running,
    make_status,
    settled,
)

from opd_operator.plan.times import stamp

PENDING = {"phase": "Pending", "ready": False, "scheduled": False, "node": ""}
PULLING = PENDING | {"scheduled": True, "waiting_reason": "ErrImagePull", "waiting_message": "no such image opd:9"}


def starting(**fields):
    known = {
        "status": attempt_status(seconds_ago=100),
        "mailbox": make_mailbox(),
        "rayclusters": (make_cluster(head_ready=False),),
    }
    return settled(make_running(**known | fields))


@pytest.mark.parametrize(
    ("pod", "want_reason", "want_message"),
    [
        pytest.param(
            make_pod("trainer", **PENDING, unschedulable="0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
            "Unschedulable",
            "trainer pod job-trainer finds no node: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu; free GPUs",
            id="no GPU is free",
        ),
        pytest.param(
            make_pod("head", **PENDING, unschedulable='persistentvolumeclaim "checkpoints" not found'),
            "Unschedulable",
            "create the claim",
            id="a claim is missing",
        ),
        pytest.param(
            make_pod(
                "engine", **PENDING, unschedulable="0/3 nodes are available: 3 node(s) didn't match Pod's node affinity"
            ),
            "Unschedulable",
            "no node's GPU has the memory of status.memoryPlan",
            id="no GPU is large enough",
        ),
        pytest.param(
            make_pod("head", **PENDING, unschedulable="1 node(s) didn't match Pod's node affinity/selector"),
            "Unschedulable",
            "correct nodeSelector or affinity of spec.head.podTemplate",
            id="a head asks for no GPU",
        ),
        pytest.param(
            make_pod(
                "trainer",
                **PENDING,
                unschedulable="0/3 nodes are available: 1 Insufficient nvidia.com/gpu, "
                "2 node(s) had untolerated taint {nvidia.com/gpu: present}.",
            ),
            "Unschedulable",
            "add tolerations by spec.student.trainers.podTemplate",
            id="the GPU nodes are tainted",
        ),
        pytest.param(
            make_pod(
                "trainer",
                **PENDING,
                unschedulable="0/3 nodes are available: 1 node(s) had untolerated taint "
                "{node-role.kubernetes.io/control-plane: }, 2 Insufficient nvidia.com/gpu.",
            ),
            "Unschedulable",
            "free GPUs",
            id="a control plane's taint is not what is meant",
        ),
        pytest.param(
            make_pod("trainer", **PENDING, unschedulable="3 node(s) didn't match PersistentVolume's node affinity."),
            "Unschedulable",
            "the claim's volume is in another zone",
            id="a volume that is elsewhere",
        ),
        pytest.param(
            make_pod("trainer", **PENDING, unschedulable="3 node(s) had volume node affinity conflict."),
            "Unschedulable",
            "the claim's volume is in another zone",
            id="a volume that is elsewhere, in older words",
        ),
        pytest.param(
            make_pod("trainer", **PENDING, unschedulable="pod has unbound immediate PersistentVolumeClaims."),
            "Unschedulable",
            "the claim has no volume yet",
            id="a claim that nobody fulfils",
        ),
        pytest.param(
            make_pod("engine", **PULLING),
            "ImagePullFailed",
            "engine pod job-engine cannot pull its image: no such image opd:9; check spec.image",
            id="the image is not there",
        ),
        pytest.param(
            make_pod(
                "head",
                **PENDING | {"waiting_reason": "CreateContainerConfigError", "waiting_message": 'secret "x" not found'},
            ),
            "ContainerFailed",
            'head pod job-head cannot start: secret "x" not found',
            id="a secret is missing",
        ),
        pytest.param(
            make_pod("trainer", ready=False, phase="Failed", terminated_reason="OOMKilled", exit_code=137),
            "OOMKilled",
            "trainer pod job-trainer was killed: out of memory; raise spec.student.trainers.resources.limits.memory "
            "or lower spec.student.maxTokensPerGPU",
            id="a trainer is killed for memory",
        ),
        pytest.param(
            make_pod("head", ready=False, waiting_reason="CrashLoopBackOff", exit_code=2),
            "CrashLoopBackOff",
            "ends again and again with exit code 2; see kubectl logs --previous job-head",
            id="a head that does not stay up",
        ),
        pytest.param(
            make_pod("head", ready=False, restarts=1, exit_code=1, last_words="port 6379 is in use"),
            "CrashLoopBackOff",
            "head pod job-head was started again: it ended with exit code 1: port 6379 is in use; see kubectl logs",
            id="a head that ended, and starts anew",
        ),
        pytest.param(
            make_pod("engine", ready=False, phase="Failed", terminated_reason="Evicted"),
            "ContainerFailed",
            "engine pod job-engine failed (Evicted)",
            id="an evicted engine",
        ),
    ],
)
def test_trouble_of_ray_pods(pod, want_reason, want_message):
    decision = decide(starting(pods=(pod,)))
    assert condition(decision, "ClusterReady").reason == want_reason
    assert want_message in decision.status.message
    assert [event.reason for event in decision.events if event.type == "Warning"] == [want_reason]


def test_the_limit_that_was_too_low_is_told():
    job = make_job(
        {"student": {"model": "pvc://models/student", "trainers": {"resources": {"limits": {"memory": "2Gi"}}}}}
    )
    pod = make_pod("trainer", ready=False, phase="Failed", terminated_reason="OOMKilled")
    decision = decide(settled(make_running(job, status=attempt_status(), mailbox=make_mailbox(), pods=(pod,))))
    assert "out of memory (limit 2Gi); raise" in decision.status.message


def test_a_trainer_killed_in_training_is_named_while_the_driver_decides():
    pod = make_pod("trainer", ready=False, phase="Failed", terminated_reason="OOMKilled")
    decision = decide(settled(make_running(pods=(pod,))))
    assert (decision.status.phase, decision.status.message.split(":")[0]) == (
        "Training",
        "Training, but trainer pod job-trainer was killed",
    )


@pytest.mark.parametrize(
    ("fields", "want_reason", "want_message"),
    [
        pytest.param(
            {"pods": (make_pod("teacher", **PULLING),), "deployments": (make_deployment(ready_replicas=0),)},
            "ImagePullFailed",
            "teacher pod job-teacher cannot pull its image",
            id="a teacher's image",
        ),
        pytest.param(
            {"deployments": (make_deployment(ready_replicas=0, failure="exceeded quota: gpus"),)},
            "ReplicaFailure",
            "Deployment job-teacher: exceeded quota: gpus",
            id="a quota",
        ),
        pytest.param(
            {"deployments": (make_deployment(ready_replicas=0),)},
            "TeacherStarting",
            "Waiting for teachers (teacher: 0 of 1 servers are ready).",
            id="a teacher that loads",
        ),
        pytest.param(
            {"deployments": (make_deployment(),)},
            "TeacherStarting",
            "Its servers are up, and not probed yet.",
            id="a teacher that was not probed",
        ),
    ],
)
def test_trouble_of_teachers(fields, want_reason, want_message):
    said = condition(decide(starting(**{"pods": (), **fields})), "TeacherReady")
    assert (said.reason, want_message in said.message) == (want_reason, True), said.message


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
def test_a_teacher_that_was_evicted_says_nothing_about_the_one_made_instead(phase):
    teacher = {"name": "teacher", "mode": "SGLang", "ready": True, "ready_replicas": 1, "replicas": 1}
    evicted = make_pod("teacher", name="old", phase=phase, ready=False, restarts=1, terminated_reason="Evicted")
    mailbox = make_mailbox(make_progress(1, "Starting", step=0, teachers=(teacher,)))
    decision = decide(starting(mailbox=mailbox, pods=(evicted, make_pod("teacher"))))
    assert condition(decision, "TeacherReady").reason == "Probed"


def test_a_teacher_that_passed_the_probe_is_ready():
    teacher = {"name": "teacher", "mode": "SGLang", "ready": True, "ready_replicas": 1, "replicas": 1}
    report = make_progress(1, "Starting", step=0, teachers=(teacher,), message="loading the student")
    decision = decide(starting(mailbox=make_mailbox(report), rayclusters=(make_cluster(),), pods=()))
    assert condition(decision, "TeacherReady").reason == "Probed"
    assert decision.status.message == "Starting: loading the student"


def test_a_cluster_that_cannot_make_pods_says_why():
    cluster = make_cluster(head_ready=False, replica_failure="pods is forbidden: exceeded quota")
    decision = decide(starting(rayclusters=(cluster,), pods=()))
    assert decision.status.message == "RayCluster job-a1-x7k2p: pods is forbidden: exceeded quota"


def test_the_models_job_says_what_keeps_it():
    decision = decide(fetching(pods=(make_pod("models", **PULLING),)))
    assert condition(decision, "ModelsReady").reason == "ImagePullFailed"
    assert decision.status.message.startswith("models pod job-models cannot pull its image: no such image opd:9")


@pytest.mark.parametrize(
    ("job", "pods", "want_reason", "want_message"),
    [
        pytest.param(make_models_job(created=ago(29)), (), "Fetching", "Reading configs", id="a pod takes its time"),
        pytest.param(
            make_models_job(created=ago(30)),
            (),
            "ReplicaFailure",
            "Job job-models has no pod: kubectl describe job job-models says why",
            id="a pod that is refused",
        ),
        pytest.param(
            make_models_job(created=ago(30)),
            (make_pod("models", **PENDING),),
            "Fetching",
            "Reading configs",
            id="one that is there",
        ),
        pytest.param(
            make_models_job(created=ago(900), suspended=True),
            (),
            "Fetching",
            "Job job-models is suspended: it waits for its queue.",
            id="a queue",
        ),
        pytest.param(
            make_models_job(created=ago(900), resumed=ago(5)), (), "Fetching", "Reading configs", id="just let go"
        ),
    ],
)
def test_a_models_job_without_pods_says_why(job, pods, want_reason, want_message):
    decision = decide(fetching(models_job=job, pods=pods))
    assert condition(decision, "ModelsReady").reason == want_reason
    assert decision.status.message.startswith(want_message)


def test_the_fuller_words_about_an_image_stay_while_kubernetes_pauses():
    first = decide(starting(pods=(make_pod("engine", **PULLING),)))
    pause = PULLING | {"waiting_reason": "ImagePullBackOff", "waiting_message": 'Back-off pulling image "opd:9"'}
    second = decide(starting(status=first.status, pods=(make_pod("engine", **pause),)))
    assert second.status == first.status


def test_pods_of_another_attempt_do_not_speak_for_this_one():
    decision = decide(starting(pods=(make_pod("trainer", attempt=9, **PULLING),)))
    assert condition(decision, "ClusterReady").reason == "Provisioning"


def test_what_remains_of_the_attempt_before_is_named():
    pods = (make_pod("trainer", attempt=1, deleting=True, node="node-7"),)
    lost = make_condition("Training", "False", "Retrying").model_copy(update={"message": "Attempt 1 was lost: x."})
    status = make_status(lost, attempt=2, attempt_start_time=stamp(ago(20)), start_time=stamp(ago(900)))
    decision = decide(settled(make_observed(status=status, config=make_config(), pods=pods)))
    assert decision.status.phase == "Retrying"
    assert decision.status.message.startswith(
        "Attempt 1 was lost: x. Waiting for what is left to end: pod job-trainer on node-7"
    )
