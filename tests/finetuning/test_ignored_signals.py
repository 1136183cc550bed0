"""Signals that are ignored when a command starts, by nohup or by a script's shell, stay ignored."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.usefixtures("usual_signals")

SIGNALLED = """
import os, signal, sys
from cocofold.__main__ import app, main

@app.command()
def signalled(names: list[str]):
    for name in names:
        os.kill(os.getpid(), signal.Signals[name])
        print("went on after", name, flush=True)

sys.argv[0] = "cocofold"
main()
"""
BACKGROUND_JOB = ["sh", "-c", '"$@" & wait $!', "sh"]


def signalled(start: list[str], *names: str) -> subprocess.CompletedProcess:
    """A command, started like this, that sends these signals to itself."""
    ours = [sys.executable, "-c", SIGNALLED, "signalled", *names]
    return subprocess.run([*start, *ours], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGHUP", 129), ("SIGTERM", 143)])
def test_a_command_in_the_foreground_ends_by_each(name: str, status: int) -> None:
    done = signalled([], name)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", f"cocofold: ended by {name}\n")


@pytest.mark.parametrize(
    ("start", "ignored", "ends", "status"),
    [
        (["nohup"], ["SIGHUP"], "SIGINT", 130),
        # The shell of a script lets its background jobs ignore Ctrl-C, which is meant for what runs in front.
        (BACKGROUND_JOB, ["SIGINT"], "SIGHUP", 129),
        ([*BACKGROUND_JOB, "nohup"], ["SIGINT", "SIGHUP"], "SIGTERM", 143),
    ],
    ids=["nohup", "background", "both"],
)
def test_what_the_starter_ignores_stays_ignored(start: list[str], ignored: list[str], ends: str, status: int) -> None:
    done = signalled(start, *ignored, ends)
    assert done.stdout.splitlines() == [f"went on after {name}" for name in ignored]
    assert done.returncode == status
    assert done.stderr.endswith(f"cocofold: ended by {ends}\n")
    assert "Traceback" not in done.stderr
