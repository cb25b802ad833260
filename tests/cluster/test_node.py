"""The testbed's node: pods run on it, and nothing of the machine is changed afterwards."""

import subprocess
import sys
from pathlib import Path

import psutil
from cluster import Cluster
from cluster_namespace import Namespace
from waiting import wait_until

TESTBED = Path(__file__).parents[1] / "testbed"
SYSCTLS = ["vm.overcommit_memory", "kernel.panic", "kernel.panic_on_oops", "kernel.keys.root_maxkeys"]
DEADLINE_SECONDS = 60.0


def test_a_pod_reaches_the_api_server_by_name_and_may_nothing(namespace: Namespace):
    url = "https://kubernetes.default.svc/api/v1/namespaces/default/pods"
    account = "/var/run/secrets/kubernetes.io/serviceaccount"
    ask = f'curl -s --cacert {account}/ca.crt -H "Authorization: Bearer $(cat {account}/token)" {url}'
    image = "opd-runtime:0.1.0"
    namespace.kubectl("run", "asks", f"--image={image}", "--restart=Never", "--command", "--", "bash", "-c", ask)
    namespace.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/asks", "--timeout=60s")
    assert '"reason": "Forbidden"' in namespace.kubectl("logs", "asks")


HOLD = """
from cluster import Cluster
with Cluster("node") as cluster:
    print(cluster.folder, cluster.pid, flush=True)
    input()
"""


def test_a_killed_maker_leaves_the_machine_as_it_was(cluster: Cluster):
    """Beside another node: two on one machine keep apart."""
    before = _machine()
    command = [sys.executable, "-c", HOLD]
    maker = subprocess.Popen(command, cwd=TESTBED, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert maker.stdout
    folder, pid = maker.stdout.readline().split()
    programs = psutil.Process(int(pid)).children(recursive=True)
    assert {"kubelet", "containerd", "kube-proxy", "coredns"} <= {program.name() for program in programs}
    maker.kill()
    maker.wait()
    wait_until(lambda: not any(each.is_running() for each in programs), DEADLINE_SECONDS, f"{programs} are gone")
    wait_until(lambda: _machine() == before, DEADLINE_SECONDS, lambda: f"{_machine()} is {before}")
    assert not Path(folder).exists()
    assert cluster.http.get("/readyz").is_success


def _machine() -> dict[str, object]:
    """What a node could change of it."""
    return {
        "mounts": Path("/proc/self/mounts").read_text().splitlines(),
        "sysctls": subprocess.check_output(["sysctl", *SYSCTLS], text=True),
        "links": subprocess.check_output(["ip", "-brief", "link"], text=True),
        "rules": subprocess.check_output(["nft", "list", "ruleset"], text=True),
        "cgroups": sorted(map(str, Path("/sys/fs/cgroup").glob("*/opd-*"))),
        "names": sorted(map(str, Path("/run/netns").glob("*"))),
    }
