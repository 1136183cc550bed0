"""Runs killed at random moments resume to the same model, bit by bit: ``python -m benchmarks.interruptions``.

One run is left alone; others are ended at moments spread over all that it says, two of three times by SIGKILL, else by
SIGTERM, every fourth run twice, then resumed, with another number of threads every other time. One table is printed, a
row a kill; the exit status is 1 if a model differs, a file is left half-written, or SIGTERM takes longer than 10 s.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy import cocofold
from cocofold.demonstration import BOX, PIXEL_SIZE_ANGSTROM, closed_state, open_state

HEADINGS = (
    "run",
    "signal",
    "after (s)",
    "after the line",
    "exit status",
    "gone after (s)",
    "half-written",
    "same model",
)
SLOWEST_END_S = 10.0


@dataclass(frozen=True)
class Kill:
    """What happened to one process: signal, moment, the last line of the log, and how it ended."""

    ending: signal.Signals
    moment: float
    last_line: str
    status: int
    gone_after: float

    @property
    def as_it_should(self) -> bool:
        """Whether the process ended by the signal, in time; one may have finished before."""
        expected = -self.ending if self.ending == signal.SIGKILL else 128 + self.ending
        return self.status in (expected, 0) and self.gone_after < SLOWEST_END_S


def start(folder: Path, out: Path, threads: int, *more: str) -> subprocess.Popen:
    """A short run of two passes; seven cycles end in the midst of stages."""
    arguments = ["--particles", folder / "particles" / "particles.star", "--model", closed_state(), "--out", out]
    arguments += ["--effort", "0.06", "--cycles", "7", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "cocofold", "finetune", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )


def finish(folder: Path, out: Path, threads: int, *more: str) -> None:
    """Run or resume to the end."""
    if start(folder, out, threads, *more).wait():
        sys.exit(f"the run in {out} failed")


def lines_of(out: Path) -> list[str]:
    """What a run has said."""
    log = out / "log.txt"
    return log.read_text().splitlines() if log.is_file() else []


def disturb(folder: Path, out: Path, n_lines: int, seconds: float, ending: signal.Signals) -> Kill:
    """Start or resume a run and end it so many seconds after a line of its log."""
    began = time.monotonic()
    process = start(folder, out, 1, *(["--resume"] if (out / "config.yaml").is_file() else []))
    while len(lines_of(out)) < n_lines and process.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    said = lines_of(out)
    moment, asked = time.monotonic() - began, time.monotonic()
    process.send_signal(ending)
    status = process.wait()
    last = " ".join(said[-1].split()[:6]) if said else "start-up"
    return Kill(ending, moment, last, status, time.monotonic() - asked)


def main() -> None:
    """Disturb the runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulated = ["--model", open_state(), "--box", BOX, "--pixel-size", PIXEL_SIZE_ANGSTROM, "--count", 80]
        cocofold(["simulate", *simulated, "--snr", 0.3, "--seed", 3, "--out", folder / "particles"])
        finish(folder, folder / "whole", 1)
        expected = (folder / "whole" / "model.cif").read_bytes()
        n_lines = len(lines_of(folder / "whole"))
        print("| " + " | ".join(HEADINGS) + " |")
        print("| --- " * len(HEADINGS) + "|")
        done = 0
        while done < options.kills:
            out, kills = folder / f"run_{done}", []
            for _ in range(2 if done % 4 == 3 and done + 1 < options.kills else 1):
                ending = signal.SIGTERM if done % 3 == 2 else signal.SIGKILL
                after = draw.randrange(len(lines_of(out)), max(n_lines, len(lines_of(out)) + 1))
                kills.append(disturb(folder, out, after, draw.uniform(0, 1.0), ending))
                done += 1
            finish(folder, out, 1 + done % 2, *(["--resume"] if (out / "config.yaml").is_file() else []))
            partial = len(list(out.rglob("*.part")))
            same = (out / "model.cif").read_bytes() == expected
            for kill in kills:
                cells = [out.name[4:], kill.ending.name, f"{kill.moment:.1f}", kill.last_line, str(kill.status)]
                cells += [f"{kill.gone_after:.2f}", str(partial), "yes" if same else "NO"]
                print("| " + " | ".join(cells) + " |", flush=True)
                failed += not (same and kill.as_it_should and partial == 0)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
