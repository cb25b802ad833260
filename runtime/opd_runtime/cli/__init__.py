"""The `opd` command: one verb a file. Heavy imports (torch, Ray) live inside the verbs: `--help` answers at once."""

import logging
import sys
import traceback
import warnings
from importlib.metadata import version
from typing import Annotated

import typer

from opd_api.errors import InvalidJob, OPDError

app = typer.Typer(
    name="opd",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"opd {version('opd-operator')}")
        raise typer.Exit


@app.callback()
def opd(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show tracebacks and libraries' warnings; may stand anywhere.")
    ] = False,
) -> None:
    """On-policy distillation: the student writes, the teacher scores every token, the student moves towards it.

    \b
    opd validate job.yaml
    opd run job.yaml --set steps=20
    opd get --watch
    """


def _register() -> None:
    """The verbs, in the order of the help: a job's life, then models and servers, then what pods run."""
    from . import convert, drain, evaluate, fetch, get, plot, probe, render, run, serve, train, validate

    for verb, function, sentence in (
        ("validate", validate.validate, "Check a job: every problem at once."),
        ("render", render.render, "Print a job with every default filled in."),
        ("run", run.run, "Run a job on this machine."),
        ("get", get.get, "Show where runs stand."),
        ("plot", plot.plot, "Draw a run's metrics as one picture."),
        ("eval", evaluate.evaluate, "Measure pass@1 of a model."),
        ("fetch", fetch.fetch, "Fetch models and data ahead of time."),
        ("convert", convert.convert, "Convert a model: Hugging Face to Megatron, or back."),
        ("probe", probe.probe, "Ask a server whether it can teach."),
        ("serve", serve.serve, "Serve a job's teacher."),
        ("train", train.train, "One attempt at a job, inside its Ray cluster."),
        ("drain", drain.drain, "Save and stop before this pod goes."),
    ):
        app.command(verb, short_help=sentence)(function)


def main() -> None:
    """Entry point: an error is one clear line (a job's problems all at once) and exit 1; --verbose gives the trace."""
    verbose = "--verbose" in sys.argv
    if not verbose:
        warnings.simplefilter("ignore")  # libraries' notes to their developers
        logging.disable(logging.WARNING)
    _register()
    try:
        app(args=[argument for argument in sys.argv[1:] if argument != "--verbose"])
    except (OPDError, OSError) as error:
        if verbose:
            traceback.print_exc()
        said = error if isinstance(error, InvalidJob) else f"error: {error}"
        print(said, *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        sys.exit(1)
