"""Running ``cocofold finetune``: its command line, and running it in the process of the tests."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from unittest import mock

from cocofold.__main__ import main

EFFORT = 0.06
PROGRAM = [sys.executable, "-m", "cocofold"]


def command(particles: Path, start: Path, out: Path, *more: object) -> list[str]:
    """A short run; seven cycles end in the midst of stages, so that a checkpoint needs all that the optimiser knows."""
    arguments = ["--particles", particles, "--model", start, "--out", out, "--effort", EFFORT, "--seed", 1]
    return [*PROGRAM, "finetune", *map(str, [*arguments, "--cycles", 7, "--no-check", *more])]


def log(out: Path) -> str:
    """What the run has said."""
    return (out / "log.txt").read_text() if (out / "log.txt").is_file() else ""


def run_here(command: list[str]) -> tuple[int, str]:
    """Exit status and messages of a command that runs in this process, which has imported all that it needs."""
    assert command[: len(PROGRAM)] == PROGRAM
    argv, said, status = ["cocofold", *command[len(PROGRAM) :]], io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(said),
    ):
        try:
            main()
        except SystemExit as ended:
            status = int(ended.code or 0)
    return status, said.getvalue()


def succeed(command: list[str]) -> None:
    """Run a command here that must end well."""
    assert run_here(command)[0] == 0


def refused(command: list[str]) -> str:
    """The message of a command that must be refused: one line."""
    status, message = run_here(command)
    assert status == 2, message
    assert message.startswith("cocofold: ")
    assert len(message.splitlines()) == 1
    return message
