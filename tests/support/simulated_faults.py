"""What goes wrong in a simulated cluster, and what its user does to it. One fault at a time, drawn."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from simulated_cluster import Cluster, Driver

from opd_api.documents import DocumentError, FieldProblem, ModelsReport, Progress, Request
from opd_operator.plan.times import stamp

type Fault = Callable[[Cluster], None]


def strike(cluster: Cluster) -> None:
    """One fault that fits, or none."""
    cluster.rng.choice(FAULTS)(cluster)


def heal(cluster: Cluster) -> None:
    """No more faults: nodes answer, KubeRay is installed. What has died stays dead."""
    cluster.kuberay = cluster.readable = True
    cluster.stuck.clear()


# ---------------------------------------------------------------- the user
def _toggle_suspend(cluster: Cluster) -> None:
    cluster.suspend = not cluster.suspend
    cluster.edited()


def _more_steps(cluster: Cluster) -> None:
    cluster.steps = min(cluster.steps + 20, 200)
    cluster.edited()


def _suspend_edit_and_resume(cluster: Cluster) -> None:
    """In one go: nobody sees the suspension."""
    cluster.seed += cluster.rng.randint(0, 1)
    cluster.steps = cluster.rng.randint(40, 200)
    cluster.suspend = False
    cluster.edited()


def _delete_rayjob(cluster: Cluster) -> None:
    if cluster.rayjobs:
        cluster.remove_rayjob(cluster.rng.choice(list(cluster.rayjobs)))


def _delete_config_maps(cluster: Cluster) -> None:
    if cluster.rng.random() < 0.5:
        cluster.mailbox = None
    else:
        cluster.config = None


def _delete_teacher(cluster: Cluster) -> None:
    cluster.deployments.clear()


def _another_version_leads(cluster: Cluster) -> None:
    """An older operator, which cannot read what newer ones accept."""
    cluster.readable = not cluster.readable


# ---------------------------------------------------------------- nodes, KubeRay, Kueue, clocks
def _kill_head(cluster: Cluster) -> None:
    """Its driver is gone; the RayJob goes on saying Running, and pod or container may come back."""
    for pod in [pod for pod in cluster.pods.values() if pod.role == "head" and pod.phase == "Running"]:
        cluster.drivers.pop(pod.attempt or 0, None)
        match cluster.rng.choice(("restarted", "replaced", "failed", "gone")):
            case "restarted":
                cluster.pods[pod.name] = replace(
                    pod, restarts=pod.restarts + 1, running_since=cluster.now, terminated_reason="OOMKilled"
                )
            case "replaced":
                cluster.pods[pod.name] = replace(pod, created=cluster.now, running_since=cluster.now)
            case "failed":
                cluster.pods[pod.name] = replace(pod, phase="Failed", ready=False)
            case _:
                del cluster.pods[pod.name]


def _stick_pods(cluster: Cluster) -> None:
    for pod in cluster.pods.values():
        if cluster.rng.random() < 0.5:
            cluster.stuck.add(pod.name)
            if pod.phase == "Pending":
                cluster.pods[pod.name] = replace(pod, unschedulable="0/3 nodes are available: 3 Insufficient cpu.")


def _image_errors(cluster: Cluster) -> None:
    for pod in list(cluster.pods.values()):
        if pod.phase == "Pending":
            reason = cluster.rng.choice(("ErrImagePull", "ImagePullBackOff"))
            cluster.pods[pod.name] = replace(pod, waiting_reason=reason, waiting_message=f"{reason}: no such image")


def _kuberay_vanishes(cluster: Cluster) -> None:
    """Its CRDs go, and with them its objects."""
    cluster.kuberay = not cluster.kuberay
    for attempt in list(cluster.rayjobs):
        cluster.remove_rayjob(attempt)
    cluster.clusters.clear()


def _kuberay_refuses(cluster: Cluster) -> None:
    for attempt, rayjob in cluster.rayjobs.items():
        if rayjob.deployment_status == "" and cluster.rng.random() < 0.3:
            cluster.rayjobs[attempt] = replace(rayjob, deployment_status="ValidationFailed", message="bad spec")


def _preempt(cluster: Cluster) -> None:
    for attempt, rayjob in list(cluster.rayjobs.items()):
        if cluster.queue and rayjob.deployment_status in ("Initializing", "Running"):
            cluster.preempt(attempt)


def _clock_jumps(cluster: Cluster) -> None:
    cluster.now += timedelta(seconds=cluster.rng.choice((-7200, -600, -30, 30, 600, 7200)))


def _time_passes(cluster: Cluster) -> None:
    cluster.wait(cluster.rng.choice((30, 300, 1800)))


# ---------------------------------------------------------------- the runtime
def _drivers(cluster: Cluster) -> list[Driver]:
    return list(cluster.drivers.values())


def _user_error(cluster: Cluster) -> None:
    for driver in _drivers(cluster):
        error = {"actor": "User", "reason": "InvalidData", "path": "spec.data.prompts[0]", "message": "has no records"}
        cluster.finish(driver, "Failed", "FAILED", error=error)


def _infrastructure_error(cluster: Cluster) -> None:
    for driver in _drivers(cluster):
        error = {"actor": "Infrastructure", "reason": "TrainerLost", "message": "a trainer died"}
        cluster.finish(driver, "Failed", "FAILED", error=error)


def _silent_death(cluster: Cluster) -> None:
    for driver in _drivers(cluster):
        cluster.finish(driver, "", cluster.rng.choice(("FAILED", "STOPPED", "SUCCEEDED")))


def _node_drained(cluster: Cluster) -> None:
    """The driver stops by itself, and nobody asked."""
    for driver in _drivers(cluster):
        cluster.finish(driver, "Stopped", "FAILED")


def _hang(cluster: Cluster) -> None:
    for driver in _drivers(cluster):
        driver.hangs = True


def _models_fail(cluster: Cluster) -> None:
    if cluster.models_job is None or cluster.rng.random() < 0.7:
        return
    problems = (FieldProblem(path="spec.student.model", message="is not there"),)
    for pod in [pod for pod in cluster.pods.values() if pod.role == "models"]:
        text = ModelsReport(problems=problems).model_dump_json()
        cluster.pods[pod.name] = replace(pod, phase="Failed", ready=False, termination_message=text, exit_code=1)
    cluster.models_job = replace(cluster.models_job, failed="BackoffLimitExceeded")


def _models_pod_lost(cluster: Cluster) -> None:
    """The Job is done, and its pod went with its node before anybody had read it."""
    for pod in [pod for pod in cluster.pods.values() if pod.role == "models"]:
        del cluster.pods[pod.name]
        if cluster.models_job is not None:
            cluster.models_job = replace(cluster.models_job, succeeded=True)


def _forge(cluster: Cluster) -> None:
    """Whoever can write the mailbox can write nonsense; and a zombie writes what was true once."""
    rng, attempt = cluster.rng, cluster.status.attempt or 1
    request = cluster.mailbox.request if cluster.mailbox else None
    match rng.choice(("unreadable", "other attempt", "future", "no time", "far past", "request", "no request")):
        case "unreadable":
            cluster.forge(DocumentError(reason="TooLarge", message="70000 bytes"), request)
        case "other attempt":
            other = max(1, attempt + rng.choice((-1, 1, 5)))
            phase = rng.choice(("Training", "Succeeded", "Failed")) if other != attempt else "Training"
            cluster.forge(_progress(cluster, other, phase), request)
        case "future":
            cluster.forge(_progress(cluster, attempt, "Training", seconds=86400), request)
        case "no time":
            cluster.forge(_progress(cluster, attempt, "Succeeded").model_copy(update={"time": "soon"}), request)
        case "far past":
            cluster.forge(_progress(cluster, attempt, "Training", seconds=-86400), request)
        case "request":
            progress = cluster.mailbox.progress if cluster.mailbox else None
            cluster.forge(progress, Request(attempt=attempt, stop="Suspend", time="2090-01-01T00:00:00Z"))
        case _:
            cluster.forge(cluster.mailbox.progress if cluster.mailbox else None, None)


def _progress(cluster: Cluster, attempt: int, phase: str, *, seconds: float = 0) -> Progress:
    time = stamp(cluster.now + timedelta(seconds=seconds))
    return Progress.model_validate({"attempt": attempt, "phase": phase, "step": 3, "total_steps": 60, "time": time})


FAULTS: tuple[Fault, ...] = (
    _toggle_suspend,
    _toggle_suspend,
    _more_steps,
    _suspend_edit_and_resume,
    _delete_rayjob,
    _delete_config_maps,
    _delete_teacher,
    _another_version_leads,
    _kill_head,
    _stick_pods,
    heal,
    heal,
    _image_errors,
    _kuberay_vanishes,
    _kuberay_refuses,
    _preempt,
    _clock_jumps,
    _time_passes,
    _user_error,
    _infrastructure_error,
    _silent_death,
    _node_drained,
    _hang,
    _models_fail,
    _models_pod_lost,
    _forge,
    _forge,
)
