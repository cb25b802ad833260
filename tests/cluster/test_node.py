"""The testbed's node: pods run on it, and nothing of the machine is changed afterwards."""

import json
import re
import subprocess
import sys
from pathlib import Path

import psutil
from cluster import Cluster
from cluster_namespace import Namespace
from helm import NAMESPACE, RELEASE, Helm
from programs import locate
from waiting import wait_until

TESTBED = Path(__file__).parents[1] / "testbed"
SYSCTLS = ["vm.overcommit_memory", "kernel.panic", "kernel.panic_on_oops", "kernel.keys.root_maxkeys"]
CGROUPS = ("opd-*", "*/opd-*")
"""Of cgroup v2, and of each hierarchy of v1."""
DEADLINE_SECONDS = 60.0

ASK = """
import ssl, urllib.error, urllib.request
account = "/var/run/secrets/kubernetes.io/serviceaccount"
url = "https://kubernetes.default.svc/api/v1/namespaces/default/pods"
request = urllib.request.Request(url, headers={"Authorization": "Bearer " + open(f"{account}/token").read()})
try:
    urllib.request.urlopen(request, context=ssl.create_default_context(cafile=f"{account}/ca.crt"))
except urllib.error.HTTPError as refused:
    print(refused.read().decode())
"""


def test_a_pod_reaches_the_api_server_by_name_and_may_nothing(namespace: Namespace):
    command = ("--command", "--", "python", "-c", ASK)
    namespace.kubectl("run", "asks", "--image=opd-runtime:0.1.0", "--restart=Never", *command)
    namespace.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/asks", "--timeout=60s")
    assert json.loads(namespace.kubectl("logs", "asks"))["reason"] == "Forbidden"


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
        "cgroups": sorted(str(path) for glob in CGROUPS for path in Path("/sys/fs/cgroup").glob(glob)),
        "names": sorted(map(str, Path("/run/netns").glob("*"))),
    }


def test_helm_test_passes_where_pods_run(cluster: Cluster, tmp_path: Path):
    helm = Helm(locate("helm"), cluster.kubeconfig, tmp_path)
    assert re.search(r"Phase:\s+Succeeded", helm("test", RELEASE, "--namespace", NAMESPACE, "--timeout", "120s"))
