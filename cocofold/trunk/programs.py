"""Other programs, run as they are: their output goes to a log, and its last lines into the error."""

from __future__ import annotations

import shlex
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from cocofold.errors import InputError

_LAST_LINES = 12


def run_program(command: Sequence[str], log: Path, say: Callable[[str], None], folder: Path | None = None) -> None:
    """Run a program to its end.

    Parameters
    ----------
    command : sequence of str
        Program and arguments, handed over without a shell.
    log : Path
        What it prints is added there, after a line with the command.
    say : callable
        Called with each line that it prints.
    folder : Path, optional
        Where it runs.

    Raises
    ------
    InputError
        If it cannot be started, or ends with an error; the message has its last lines.
    """
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(command)}\n")
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise InputError(f"{command[0]}: cannot be started ({error.strerror})") from error
        assert process.stdout is not None
        with process, process.stdout:
            try:
                for line in process.stdout:
                    file.write(line)
                    file.flush()
                    say(line.rstrip("\n"))
            except BaseException:
                process.terminate()
                raise
    if process.returncode != 0:
        ended = f"exit status {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        raise InputError(f"{Path(command[0]).name} failed ({ended}); {last_words(log)}")


def last_words(log: Path) -> str:
    """The last lines of a log, for a message."""
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = deque((line.rstrip() for line in file if line.strip()), maxlen=_LAST_LINES)
    return "\n  ".join([f"the end of {log}:", *lines])
