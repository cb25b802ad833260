"""`opd train` and `opd serve` as pods run them: a stop with its checkpoint, the attempt after it, and what is left.

One node, so that weights and checkpoints travel between pods is not shown; nor that a kubelet ends them as it does.
"""

import json
import secrets
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from cluster import Cluster
from mailbox_account import make_mailbox

from opd_api.documents import Progress, Request
from opd_api.load import load_job_file

from .conftest import KEY, NAMESPACE, JobCluster, Process

# Drawn, as two sessions may test on one machine: a teacher's port is always the same.
NETWORK = f"127.{1 + secrets.randbelow(254)}.{secrets.randbelow(256)}"
TEACHER, NEXT_TEACHER = f"{NETWORK}.7", f"{NETWORK}.8"
QUICK = {"evaluation": {"everySteps": 0}, "tracking": {"tensorboard": False}}
ALIVE = """
from ray.util import placement_group_table
groups = [g["state"] for g in placement_group_table().values() if g["state"] != "REMOVED"]
free, all_ = ray.available_resources(), ray.cluster_resources()
answer = [groups, {name: free.get(name) for name in all_ if name.startswith("opd-")}]
"""


def steps_of(run_dir: Path) -> list[int]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def start_teacher(cluster: JobCluster, host: str = TEACHER) -> Process:
    teacher = cluster.serve(host)
    cluster.announce(host)
    return teacher


def stop_early(cluster: JobCluster) -> tuple[Progress, Progress]:
    """Attempt 1, asked to stop after two steps: its report while it trained, and its last."""
    driver = cluster.train(1, cluster.write_job(**QUICK, steps=5000))
    reports = cluster.api.documents
    cluster.wait_for(lambda: reports and reports[-1].step >= 2, "second step", driver)
    running = reports[-1]
    cluster.api.ask_to_stop(attempt=1)
    assert driver.exit_code() == 3, driver.output()
    return running, reports[-1]


def test_an_attempt_reports_stops_with_a_checkpoint_and_leaves_ray_to_others(cluster: JobCluster) -> None:
    teacher = start_teacher(cluster)
    running, stopped = stop_early(cluster)
    assert (running.attempt, running.phase) == (1, "Training")
    assert running.teachers[0].ready and running.teachers[0].ready_replicas == 1
    assert {"opd/reverse_kl", "opd/reverse_kl_first", "reward/raw", "reward/raw_first"} <= running.metrics.keys()
    assert (stopped.attempt, stopped.phase, stopped.error) == (1, "Stopped", None)
    assert stopped.checkpoint is not None and stopped.checkpoint.step == stopped.step >= running.step
    assert stopped.checkpoint.uri == f"pvc://checkpoints/{cluster.run_dir.name}/checkpoints"
    # Nobody holds a place in the cluster any more.
    assert cluster.ray(ALIVE) == [[], {"opd-trainer": 1.0, "opd-engine": 1.0}]
    # Nobody but its owner reads the key.
    command_lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not any(KEY in line for line in command_lines)
    assert teacher.popen.poll() is None and KEY not in teacher.output()


@pytest.mark.full
def test_the_next_attempt_goes_on_from_the_checkpoint(cluster: JobCluster) -> None:
    start_teacher(cluster)
    running, stopped = stop_early(cluster)
    second = cluster.train(2, cluster.write_job(**QUICK, steps=stopped.step + 2))
    assert second.exit_code() == 0, second.output()
    ended = cluster.api.documents[-1]
    assert (ended.attempt, ended.phase, ended.step) == (2, "Succeeded", stopped.step + 2)
    assert ended.checkpoint.export_uri == f"pvc://checkpoints/{cluster.run_dir.name}/export"
    assert (cluster.run_dir / "export" / "model.safetensors").is_file()
    assert steps_of(cluster.run_dir) == list(range(1, stopped.step + 3))
    assert ended.metrics["opd/reverse_kl_first"] == running.metrics["opd/reverse_kl_first"]


@pytest.mark.full
def test_sigterm_is_a_stop_with_a_checkpoint(cluster: JobCluster) -> None:
    """As when the head's pod is deleted."""
    start_teacher(cluster)
    driver = cluster.train(1, cluster.write_job(**QUICK, steps=5000))
    reports = cluster.api.documents
    cluster.wait_for(lambda: reports and reports[-1].step >= 1, "first step", driver)
    driver.popen.terminate()
    assert driver.exit_code() == 3, driver.output()
    assert (reports[-1].phase, reports[-1].checkpoint.step) == ("Stopped", reports[-1].step)


@pytest.mark.full
def test_a_stop_before_training_ends_at_once(cluster: JobCluster) -> None:
    """No teacher is there, so the attempt waits for one."""
    driver = cluster.train(1, cluster.write_job(**QUICK, steps=10))
    reports = cluster.api.documents
    cluster.wait_for(lambda: reports and "loading" in reports[-1].message, "the attempt's start", driver)
    driver.popen.terminate()
    assert driver.exit_code() == 3, driver.output()
    assert (reports[-1].phase, reports[-1].checkpoint) == ("Stopped", None)
    assert cluster.ray(ALIVE) == [[], {"opd-trainer": 1.0, "opd-engine": 1.0}]


@pytest.mark.full
def test_training_survives_a_teacher_pod_that_is_replaced(cluster: JobCluster) -> None:
    """The new pod has another address."""
    teacher = start_teacher(cluster)
    driver = cluster.train(1, cluster.write_job(**QUICK, steps=5000))
    reports = cluster.api.documents
    cluster.wait_for(lambda: reports and reports[-1].step >= 2, "second step", driver)
    teacher.kill()
    cluster.announce()
    cluster.wait_for(lambda: not reports[-1].teachers[0].ready, "loss of the teacher", driver)
    step = reports[-1].step
    start_teacher(cluster, NEXT_TEACHER)
    cluster.wait_for(lambda: reports[-1].step >= step + 3, "steps with the new teacher", driver)
    assert reports[-1].teachers[0].ready
    said = driver.output()
    assert f"{TEACHER}:30000 is gone" in said and f"{NEXT_TEACHER}:30000 is ready" in said
    cluster.api.ask_to_stop(attempt=1)
    assert driver.exit_code() == 3, driver.output()


@pytest.mark.full
def test_a_lost_trainer_is_nobodys_fault_and_the_next_attempt_goes_on(cluster: JobCluster) -> None:
    start_teacher(cluster)
    checkpoint = {"claimName": "checkpoints", "everySteps": 2}
    driver = cluster.train(1, cluster.write_job(**QUICK, steps=5000, checkpoint=checkpoint))
    reports = cluster.api.documents
    cluster.wait_for(lambda: reports and reports[-1].checkpoint, "a checkpoint", driver)
    cluster.actor("TrainerActor").kill()
    assert driver.exit_code() == 1, driver.output()
    assert (reports[-1].phase, reports[-1].error.actor, reports[-1].error.reason) == (
        "Failed",
        "Infrastructure",
        "TrainerLost",
    )
    steps = reports[-1].step + 3
    again = cluster.train(2, cluster.write_job(**QUICK, steps=steps, checkpoint=checkpoint))
    assert again.exit_code() == 0, again.output()
    assert reports[-1].phase == "Succeeded" and steps_of(cluster.run_dir) == list(range(1, steps + 1))


@pytest.mark.full
def test_the_same_against_a_real_api_server(cluster: JobCluster, tmp_path: Path) -> None:
    """With the token and the Role that the operator gives the head."""
    with Cluster() as control_plane:
        start_teacher(cluster)
        control_plane.kubectl("create", "namespace", NAMESPACE)
        file = cluster.write_job(**QUICK, steps=5000)
        real = make_mailbox(control_plane, load_job_file(file), tmp_path / "real")
        server = urlsplit(real.server)
        cluster.environment |= {
            "KUBERNETES_SERVICE_HOST": str(server.hostname),
            "KUBERNETES_SERVICE_PORT": str(server.port),
        }
        cluster.service_account = real.service_account
        driver = cluster.train(1, file)
        cluster.wait_for(lambda: (report := real.progress()) and report.step >= 2, "second step", driver)
        real.ask(Request(attempt=1, stop="Suspend", time="2026-01-02T03:04:05Z"))
        assert driver.exit_code() == 3, driver.output()
        stopped = real.progress()
        assert stopped is not None and stopped.phase == "Stopped" and stopped.checkpoint is not None
        assert stopped.checkpoint.step == stopped.step
