"""The ``cocofold`` command: its verbs, and how errors reach the user."""

from __future__ import annotations

import atexit
import contextlib
import sys

import typer

from cocofold import __version__
from cocofold.commands.assess import assess
from cocofold.commands.demo import demo, simulate
from cocofold.commands.finetune import finetune, report
from cocofold.commands.fit import fit, move
from cocofold.commands.predict import predict
from cocofold.commands.relax import relax
from cocofold.commands.select import check, reconstruct, select
from cocofold.system.errors import InputError
from cocofold.system.hardware import keep_freed_memory
from cocofold.system.processes import Interrupted, SignalHandler, ignore_signals, watch_process_of_environment

app = typer.Typer(
    name="cocofold",
    help="Move a predicted protein model until it explains raw cryo-EM particle images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cocofold {__version__}")
        raise typer.Exit


@app.callback()
def _version_option(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Options before the verb."""


app.command()(check)
app.command()(predict)
app.command()(fit)
app.command()(select)
app.command()(reconstruct)
app.command()(finetune)
app.command()(relax)
app.command()(assess)
app.command()(report)
app.command()(simulate)
app.command()(demo)
# For programs that call this one; docs/architecture.md says what it is for.
app.command(hidden=True)(move)


def main() -> None:
    """Run the command line.

    Exits with one message: with 2 for input or files that cannot be used, with 128 and the signal's number if a signal
    ends it.
    """
    try:
        # From here on a signal ends any command with the status that shells expect, and without a traceback.
        with SignalHandler():
            watch_process_of_environment()
            keep_freed_memory()
            app()
    except Interrupted as ended:
        _print_error(str(ended))
        raise
    except InputError as error:
        _print_error(str(error))
        sys.exit(2)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _print_error(f"{place}{error.strerror or error}")
        sys.exit(2)
    finally:
        # While libraries are taken down nothing is left to end, and the status is settled.
        atexit.register(ignore_signals)


def _print_error(message: str) -> None:
    # Standard error may be a terminal that is gone.
    with contextlib.suppress(OSError):
        print(f"cocofold: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
