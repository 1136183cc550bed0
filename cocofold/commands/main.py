"""The ``cocofold`` command: its verbs, and how errors reach the user."""

from __future__ import annotations

import sys

import typer

from cocofold import __version__
from cocofold.commands.assess import assess
from cocofold.commands.demo import demo
from cocofold.commands.finetune import finetune
from cocofold.commands.predict import predict
from cocofold.commands.simulate import simulate
from cocofold.endings import Endings
from cocofold.errors import InputError

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
def _options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Options before the verb."""


app.command()(predict)
app.command()(finetune)
app.command()(assess)
app.command()(simulate)
app.command()(demo)


def main() -> None:
    """Run the command line; exit 2 with one message for input or files that cannot be used."""
    try:
        # From here on a signal ends any command with the status that shells expect, and without a traceback.
        with Endings():
            app()
    except InputError as error:
        print(f"cocofold: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"cocofold: {place}{error.strerror or error}", file=sys.stderr)
        sys.exit(2)
