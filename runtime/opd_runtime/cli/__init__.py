"""The `opd` command: one verb a file. Heavy imports (torch, Ray) live inside the verbs, so that `--help` answers at once."""

import sys
import traceback

import click
import typer

from opd_api.errors import InvalidJob, OPDError

app = typer.Typer(
    name="opd",
    help="On-policy distillation: the student writes, the teacher scores every token, the student moves towards it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _register() -> None:
    from . import convert, evaluate, fetch, get, plot, probe, render, run, validate

    for verb, function in {
        "run": run.run,
        "validate": validate.validate,
        "render": render.render,
        "fetch": fetch.fetch,
        "convert": convert.convert,
        "probe": probe.probe,
        "get": get.get,
        "plot": plot.plot,
        "eval": evaluate.evaluate,
    }.items():
        app.command(verb)(function)


def main() -> None:
    """Entry point: an error is one clear line (a document's errors all at once) and exit 1; --verbose gives the trace."""
    verbose = "--verbose" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--verbose"]
    _register()
    try:
        app(args=arguments, standalone_mode=False)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except (OPDError, OSError) as error:
        if verbose:
            traceback.print_exc()
        if isinstance(error, InvalidJob):
            print(error, file=sys.stderr)
        else:
            print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
