"""Runs killed at random moments resume to the same model, bit by bit: ``python -m benchmarks.interruptions``.

One run is left alone; others are ended at moments spread over its whole length, two of three times by SIGKILL, else by
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

HEADINGS = ("run", "signal", "at (s)", "in the midst of", "exit status", "gone after (s)", "half-written", "same model")
SLOWEST_END_S = 10.0


@dataclass(frozen=True)
class Kill:
    """What happened to one process: signal, moment, the last line of the log, and how it ended."""

    signal: signal.Signals
    moment: float
    last_line: str
    status: int
    gone_after: float

    @property
    def as_it_should(self) -> bool:
        """Whether the process ended by the signal, in time; one may have finished before."""
        expected = -self.signal if self.signal == signal.SIGKILL else 128 + self.signal
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


def disturb(folder: Path, out: Path, seconds: float, ending: signal.Signals, resume: bool) -> Kill:
    """Start or resume a run and end it after so many seconds."""
    process = start(folder, out, 1, *(["--resume"] if resume else []))
    time.sleep(seconds)
    log = out / "log.txt"
    lines = log.read_text().splitlines() if log.is_file() else []
    last = lines[-1] if lines else "start-up"
    began = time.monotonic()
    process.send_signal(ending)
    status = process.wait()
    return Kill(ending, seconds, last[:34].strip(), status, time.monotonic() - began)


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
        began = time.monotonic()
        finish(folder, folder / "whole", 1)
        length = time.monotonic() - began
        expected = (folder / "whole" / "model.cif").read_bytes()
        print(f"undisturbed: {length:.1f} s\n")
        print("| " + " | ".join(HEADINGS) + " |")
        print("| --- " * len(HEADINGS) + "|")
        done = 0
        while done < options.kills:
            out, kills = folder / f"run_{done}", []
            for _ in range(2 if done % 4 == 3 and done + 1 < options.kills else 1):
                ending = signal.SIGTERM if done % 3 == 2 else signal.SIGKILL
                # Not before there is a run to resume, which takes as long as importing torch.
                resume = (out / "config.yaml").is_file()
                kills.append(disturb(folder, out, draw.uniform(0.1, 1.0) * length, ending, resume))
                done += 1
            resumed = ["--resume"] if (out / "config.yaml").is_file() else []
            finish(folder, out, 1 + done % 2, *resumed)
            partial = len(list(out.rglob("*.part")))
            same = (out / "model.cif").read_bytes() == expected
            for kill in kills:
                cells = [out.name[4:], kill.signal.name, f"{kill.moment:.1f}", kill.last_line, str(kill.status)]
                cells += [f"{kill.gone_after:.2f}", str(partial), "yes" if same else "NO"]
                print("| " + " | ".join(cells) + " |", flush=True)
                failed += not (same and kill.as_it_should and partial == 0)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
