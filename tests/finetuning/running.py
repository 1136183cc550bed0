"""Running ``cocofold finetune`` in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EFFORT = 0.06


def command(particles: Path, start: Path, out: Path, *more: object) -> list[str]:
    """A short run; seven cycles end in the midst of stages, so that a checkpoint needs all that the optimiser knows."""
    arguments = ["--particles", particles, "--model", start, "--out", out, "--effort", EFFORT, "--seed", 1]
    return [sys.executable, "-m", "cocofold", "finetune", *map(str, [*arguments, "--cycles", 7, "--no-check", *more])]


def log(out: Path) -> str:
    """What the run has said."""
    return (out / "log.txt").read_text() if (out / "log.txt").is_file() else ""


def refused(command: list[str], **options: object) -> str:
    """The message of a command that must be refused."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    return done.stderr
