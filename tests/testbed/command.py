"""`cluster.py up|env|down` for people: a cluster in the background that lasts until `down`."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import typer
from cluster import Cluster, Mode
from node import of_project
from programs import ClusterUnavailable, locate

FOLDER = Path(tempfile.gettempdir()) / f"opd-testbed-{os.getuid()}"
CRD = Path(__file__).parents[2] / "crds" / "opdjobs.opd.dev.yaml"

app = typer.Typer(add_completion=False, help=__doc__)
_folder = typer.Option(FOLDER, "--folder", help="Where it keeps its state; clusters beside each other need their own.")


@app.command()
def up(mode: Mode = typer.Argument("control"), folder: Path = _folder) -> None:
    """Starts a cluster and waits until it serves."""
    if _holder(folder):
        raise typer.BadParameter(f"a cluster is up in {folder}; end it with `down`")
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        command = [sys.executable, Path(__file__).with_name("cluster.py"), "hold", mode, "--folder", folder]
        holder = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True)
        while not (folder / "holder").is_file():
            if holder.poll() is not None:
                said.seek(0)
                raise SystemExit(said.read())
            time.sleep(0.1)
    print(f"ready after {time.monotonic() - begin:.0f} s")
    env(folder)


@app.command()
def env(folder: Path = _folder) -> None:
    """Prints what a shell needs: eval "$(python tests/testbed/cluster.py env)"."""
    kubectl = f"KUBECONFIG={folder / 'admin.kubeconfig'} KUBECACHEDIR={folder / 'kubectl-cache'}"
    print(f"export {kubectl} PATH={locate('kubectl').parent}:{locate('helm').parent}:$PATH")


@app.command()
def down(folder: Path = _folder) -> None:
    """Ends it; nothing is left."""
    if pid := _holder(folder):
        os.kill(pid, signal.SIGTERM)
        while _is_alive(pid):
            time.sleep(0.1)


@app.command(hidden=True)
def hold(mode: Mode, folder: Path = _folder) -> None:
    """The cluster itself, in the foreground, until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with Cluster(mode, folder=folder, crds=[CRD], node=of_project()):
            (folder / "holder").write_text(str(os.getpid()))
            signal.pause()
    except ClusterUnavailable as error:
        raise SystemExit(f"testbed: {error}") from error


def _holder(folder: Path) -> int:
    """PID of the process that holds the cluster, 0 when there is none."""
    file = folder / "holder"
    pid = int(file.read_text()) if file.is_file() else 0
    return pid if pid and _is_alive(pid) else 0


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


main = app
