"""The command `opd-operator`: options, logs, signals, probes around one operator. No logic of its own."""

import asyncio
import logging
import os
import secrets
import signal
from dataclasses import replace
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Annotated, Literal

import typer
from kubernetes.aio.config import ConfigException

from . import logs
from .kube.api import Api
from .operate import Operator
from .options import BadOption, settings_from
from .probes import serve
from .settings import Settings

log = logging.getLogger(__name__)
cli = typer.Typer(help="Turns OPDJobs into distillation on Kubernetes.", no_args_is_help=True, add_completion=False)


@cli.command()
def run(
    kubeconfig: Annotated[
        Path | None, typer.Option(help="Of the cluster; in a pod: leave it out.", envvar="KUBECONFIG", exists=True)
    ] = None,
    namespace: Annotated[
        list[str] | None, typer.Option(help="Reconcile jobs of this namespace only; repeatable. [env: OPD_NAMESPACES]")
    ] = None,
    operator_namespace: Annotated[
        str, typer.Option(help="Namespace of the Lease; it must exist. [env: OPD_OPERATOR_NAMESPACE]")
    ] = "",
    port: Annotated[int, typer.Option(help="Of /healthz, /readyz and /metrics.", envvar="OPD_HTTP_PORT")] = 8080,
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], typer.Option(envvar="OPD_LOG_LEVEL")] = "INFO",
) -> None:
    """Watch OPDJobs and reconcile them until told to stop. Everything else is set by OPD_… variables."""
    logs.set_up(log_level)
    try:
        settings = settings_from(os.environ)
        settings = replace(
            settings,
            namespaces=tuple(namespace or settings.namespaces),
            operator_namespace=operator_namespace or settings.operator_namespace,
            key_seed=settings.key_seed or _random_seed(),
        )
        asyncio.run(_run(kubeconfig, settings, port))
    except (BadOption, ConfigException, OSError) as error:
        way_out = "" if kubeconfig or not isinstance(error, ConfigException) else "; outside a pod, give --kubeconfig"
        typer.echo(f"opd-operator: {error}{way_out}", err=True)
        raise typer.Exit(2) from error


@cli.command()
def version() -> None:
    """Print the version."""
    typer.echo(distribution_version("opd-operator"))


async def _run(kubeconfig: Path | None, settings: Settings, port: int) -> None:
    async with await Api.connect(kubeconfig) as api:
        operator = Operator(api, settings)
        work = asyncio.create_task(operator.run())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, work.cancel)
        probes = await serve(operator, port)
        try:
            await work
        except asyncio.CancelledError:
            log.info("stopped")
        finally:
            await probes.cleanup()


def _random_seed() -> str:
    log.warning("OPD_KEY_SEED is not set: teachers get other API keys when the operator is restarted")
    return secrets.token_hex(32)


def main() -> None:
    """Entry point of the distribution."""
    cli()
