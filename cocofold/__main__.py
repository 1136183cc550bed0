"""The ``cocofold`` command: its verbs, and how errors reach the user."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from typing import Optional

import typer

from cocofold import __version__
from cocofold.commands import verb, with_shared_options
from cocofold.commands.assess import assess
from cocofold.commands.demo import demo, simulate
from cocofold.commands.finetune import finetune, report
from cocofold.commands.fit import fit, move, relax
from cocofold.commands.predict import predict
from cocofold.commands.select import check, reconstruct, select
from cocofold.system.errors import (
    UNPACKED_OPTION,
    UNPACKED_VARIABLE,
    InputError,
    UnexpectedError,
    escape_unprintable,
    most_unpacked,
    shorten_words,
)
from cocofold.system.hardware import is_out_of_memory, keep_freed_memory
from cocofold.system.processes import (
    Interrupted,
    SignalHandler,
    ignore_signals,
    settle_standard_streams,
    watch_process_of_environment,
)

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
    unpacked: Optional[float] = typer.Option(
        None,
        UNPACKED_OPTION,
        help="GB to which one file may unpack; by default 0.5 of texts and 4.3 of maps and arrays, so that a small "
        f"file does not fill the memory. {UNPACKED_VARIABLE} in the environment says the same.",
    ),
) -> None:
    """Options before the verb."""
    if unpacked is not None:
        # In the environment, so that processes that share the work know it too.
        os.environ[UNPACKED_VARIABLE] = str(unpacked)
        most_unpacked(0)


_VERBS = (
    (check, "cocofold check --particles run_data.star --model placed.cif --map map.mrc"),
    (predict, "cocofold predict --colabfold FOLDER --weights params_model_1_multimer_v3.npz --out PREDICTION"),
    (fit, "cocofold fit --model model.cif --map map.mrc --out PLACED"),
    (select, "cocofold select --particles run_data.star --count 3000 --by views --out selected.star"),
    (reconstruct, "cocofold reconstruct --particles run_data.star --model placed.cif --out MAPS"),
    (finetune, "cocofold finetune --particles run_data.star --model model.cif --map map.mrc --out RUN"),
    (relax, "cocofold relax --model RUN/model.cif --particles run_data.star --out relaxed.cif"),
    (assess, "cocofold assess --model RUN/model.cif --reference known.cif --particles run_data.star"),
    (report, "cocofold report RUN --title 'My complex'"),
    (simulate, "cocofold simulate --model model.cif --box 64 --pixel-size 2.5 --count 500 --snr 0.05 --out SIMULATED"),
    (demo, "cocofold demo --out DEMO"),
)
for _command, _example in _VERBS:
    app.command(**verb(_command, _example))(with_shared_options(_command))
# For programs that call this one; docs/architecture.md says what it is for.
app.command(hidden=True)(move)


def main() -> None:
    """Run the command line.

    Exits with one message: with 2 for input or files that cannot be used and where memory does not suffice, with 128
    and the signal's number if a signal ends it, with 70 and a file to report for what nobody expected.
    """
    settle_standard_streams()
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
        _print_error(*error.lines)
        sys.exit(2)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _print_error(f"{place}{error.strerror or error}")
        sys.exit(2)
    except Exception as error:
        if is_out_of_memory(error):
            _print_error("out of memory; end other programs, raise the limit that is set, or give less at once")
            sys.exit(2)
        unexpected = UnexpectedError(error, __version__)
        _print_error(str(unexpected))
        raise unexpected from None
    finally:
        # While libraries are taken down nothing is left to end, and the status is settled.
        atexit.register(ignore_signals)


def _print_error(*lines: str) -> None:
    """Print a message, and the lines that stand below it; none of them ends within, whatever it quotes."""
    shown = "\n  ".join(shorten_words(escape_unprintable(line)) for line in lines)
    # Standard error may be a terminal that is gone.
    with contextlib.suppress(OSError):
        print(f"cocofold: {shown}", file=sys.stderr)


if __name__ == "__main__":
    main()
