"""`opd drain`: what a pod of a job's Ray cluster does before it goes, as a preStop hook."""

from itertools import pairwise
from typing import Annotated

import typer

DRIVER = ("opd", "train")
ACTORS = ("ray::TrainerActor", "ray::ServerActor")
"""Titles that Ray gives the processes of our actors."""


def drain(
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait at most; less than the pod's grace.")] = 100.0,
) -> None:
    """Ask the driver in this pod to save and stop, and keep the pod's trainers and engines until it has.

    Ray's first process ends at once on SIGTERM and takes trainers and driver with it: the steps since the newest
    checkpoint would be lost. Always exits with 0: Kubernetes goes on in any case.
    """
    import psutil

    drivers, others = [], []
    for process in psutil.process_iter(["cmdline"]):
        line: list[str] = process.info["cmdline"] or []
        if _is_driver(line):
            drivers.append(process)
        elif line and line[0].startswith(ACTORS):
            others.append(process)
    for driver in drivers:
        driver.terminate()
    _, alive = psutil.wait_procs(drivers + others, timeout)
    if alive:
        typer.echo(f"still running after {timeout:g} s: {', '.join(each.name() for each in alive)}", err=True)


def _is_driver(line: list[str]) -> bool:
    """`python …/opd train …`, and not the shell that Ray starts it with."""
    return any(first.rpartition("/")[2] == DRIVER[0] and second == DRIVER[1] for first, second in pairwise(line))
