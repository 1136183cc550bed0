"""Commands on the pretend device, in processes of their own, and what they waited for there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np

HERE = Path(__file__).parent
COMMAND = ("-m", "cocofold")
# Of the images
BOX, PIXEL = 32, 3.0
# What a step waits for, by the function that asks: docs/performance.md says why
OF_A_STEP = {
    "imaging/projection.py:project _local_scalar_dense",
    "imaging/projection.py:of unique_consecutive",
    "imaging/projection.py:of _local_scalar_dense",
    "likelihood/frc_loss.py:unpack_gradient _local_scalar_dense",
    "structure/restraints.py:_overlaps nonzero",
}


class Small(NamedTuple):
    """Files of a small case: the model that was imaged, the one to start from, particles of the former, their map."""

    truth: Path
    start: Path
    particles: Path
    map: Path

    def finetune(self, out: Path, *more: object) -> list[object]:
        """A run of a few steps."""
        start = ["--particles", self.particles, "--model", self.start, "--out", out, "--effort", 0.01, "--cycles", 1]
        return ["finetune", *start, "--heldout", 0, "--no-check", "--first", 40, "--batch-size", 8, *more]


class Done(NamedTuple):
    """A command that has ended: its exit status, what it said, and the reports of its processes on their device."""

    status: int
    said: str
    complaint: str
    reports: list[dict]

    def waits(self) -> Counter[str]:
        """How often the last process that ended, which is the first of several, waited for the device, by place."""
        return Counter(self.reports[-1]["waits"] if self.reports else {})


def environment(report: Path, **variables: str) -> dict[str, str]:
    """That of a process which knows the device."""
    path = os.pathsep.join([str(HERE), str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PRETEND_REPORT": str(report), "OMP_NUM_THREADS": "1", **variables}


def run(folder: Path, *arguments: object, program: tuple[str, ...] = COMMAND, **variables: str) -> Done:
    """Run the command, or another program of Python, with these variables; its report is written into a folder."""
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        env=environment(report, **variables),
        capture_output=True,
        text=True,
        timeout=500,
    )
    reports = [json.loads(line) for line in report.read_text().splitlines()] if report.is_file() else []
    return Done(done.returncode, done.stdout, done.stderr, reports)


def succeed(folder: Path, *arguments: object, program: tuple[str, ...] = COMMAND, **variables: str) -> Done:
    """Run what must end well, and must have been on the device: it has waited for it."""
    done = run(folder, *arguments, program=program, **variables)
    assert done.status == 0, done.complaint
    assert done.waits()
    return done


def positions(path: Path) -> np.ndarray:
    """Positions of a model file's atoms, (n, 3) Å."""
    return np.array([place.atom.pos.tolist() for place in gemmi.read_structure(str(path))[0].all()])


def farthest(one: Path, other: Path) -> float:
    """Largest distance of an atom in one model file from itself in the other, Å."""
    return float(np.linalg.norm(positions(one) - positions(other), axis=1).max())
