"""Runs killed at random moments resume to the same model, bit by bit: ``python -m benchmarks.interruptions``.

One run is left alone. The others are ended once, twice or three times, at moments spread over all that a run says, from
its start-up to its last line, two of three times by SIGKILL, else by SIGTERM; each start and resume has one or two
threads, and memory for all images or for none. One table is printed, a row a kill; the exit status is 1 if a model
differs from the undisturbed run's, a file is left that is not whole, or a process ends otherwise than it should or
after more than 10 s.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import gemmi
import mrcfile
from safetensors import SafetensorError, safe_open

from benchmarks.accuracy import cocofold
from cocofold.commands.demo import DEMO_BOX, DEMO_PIXEL_SIZE_ANGSTROM, closed_state, open_state
from cocofold.system.atomic_files import is_partial

HEADINGS = (
    "run", "threads", "images in memory", "signal", "at (s)", "after the line", "exit status", "gone after (s)",
    "not whole", "same model",
)  # fmt: skip
SLOWEST_END_S = 10.0
BEFORE_PYTHON_RUNS_S = 0.5  # until then the interpreter starts, which no program can handle signals in
START_UP_S = 3.0
# As the command, on a machine that has no memory left to keep images in: all are read again each time.
WITHOUT_MEMORY = """
import cocofold.system.hardware
cocofold.system.hardware.available_bytes = lambda: 0
from cocofold.__main__ import main
main()
"""


@dataclass(frozen=True)
class Setting:
    """What may differ from one start of a run to the next: threads, and whether images are kept in memory."""

    threads: int = 1
    keeps_images: bool = True


@dataclass(frozen=True)
class Kill:
    """What happened to one process.

    ``moment`` is the time (s) after its start, ``said`` what its log had said last by then, ``not_whole`` the files
    that it left and that cannot be read, or are temporary though it was asked to end.
    """

    run: int
    setting: Setting
    ending: str
    moment: float
    said: str
    status: int
    gone_after: float
    not_whole: list[str]

    def as_it_should(self) -> bool:
        """Whether the process ended by its signal, in time and leaving whole files; it may have finished before."""
        number = signal.Signals[self.ending]
        expected = {0, -number if number == signal.SIGKILL else 128 + number}
        if self.moment < BEFORE_PYTHON_RUNS_S:
            expected.add(-number)
        return self.status in expected and self.gone_after < SLOWEST_END_S and not self.not_whole


def start(folder: Path, out: Path, setting: Setting) -> subprocess.Popen:
    """Start a short run of two passes, or resume it; seven cycles end in the midst of stages."""
    arguments = ["--particles", folder / "particles" / "particles.star", "--model", closed_state(), "--out", out]
    arguments += ["--effort", "0.06", "--cycles", "7"] + ["--resume"] * (out / "config.yaml").is_file()
    program = ["-m", "cocofold"] if setting.keeps_images else ["-c", WITHOUT_MEMORY]
    return subprocess.Popen(
        [sys.executable, *program, "finetune", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": str(setting.threads)},
    )


def finish(folder: Path, out: Path, setting: Setting) -> None:
    """Run or resume to the end."""
    process = start(folder, out, setting)
    _, messages = process.communicate()
    if process.returncode:
        said = last_of(lines_of(out))
        sys.exit(f"{out.name}, {setting}, ended with {process.returncode} after {said!r}:\n{messages.decode()}")


def lines_of(out: Path) -> list[str]:
    """What a run has said, since it was begun."""
    log = out / "log.txt"
    return log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []


def last_of(lines: list[str]) -> str:
    """The last line in a few words, with its pass."""
    if not lines:
        return "start-up"
    last = " ".join(lines[-1].partition(":")[0].split()[:6])
    in_second = any(line.startswith("pass 2") for line in lines)
    return f"pass {2 if in_second else 1}, {last}" if last.startswith("cycle") else last


def disturb(folder: Path, number: int, setting: Setting, n_lines: int, seconds: float, ending: signal.Signals) -> Kill:
    """Start or resume a run and end it so many seconds after a line of its log."""
    out = folder / f"run_{number}"
    began = time.monotonic()
    process = start(folder, out, setting)
    while len(lines_of(out)) < n_lines and process.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    said = last_of(lines_of(out))
    asked = time.monotonic()
    process.send_signal(ending)
    process.communicate()
    gone_after = time.monotonic() - asked
    not_whole = list(files_not_whole(out, partial_too=ending != signal.SIGKILL))
    return Kill(number, setting, ending.name, asked - began, said, process.returncode, gone_after, not_whole)


def files_not_whole(out: Path, partial_too: bool) -> Iterator[str]:
    """Files of a run that cannot be read; the log may end within a line until the run is resumed."""
    for path in sorted(out.rglob("*")):
        if is_partial(path):
            if partial_too:
                yield path.name
            continue
        try:
            if path.suffix == ".cif":
                gemmi.read_structure(str(path))
            elif path.suffix == ".safetensors":
                with safe_open(str(path), framework="pt"):
                    pass
            elif path.suffix == ".mrc":
                with mrcfile.open(path):
                    pass
            elif path.suffix == ".json":
                json.loads(path.read_text())
        except (OSError, RuntimeError, SafetensorError, ValueError):
            yield path.name


def disturbed_run(folder: Path, number: int, kills: int, n_lines: int, draw: random.Random) -> list[Kill]:
    """A run that is ended so many times after lines drawn from all that are to come, and then resumed to its end."""
    done = []
    for _ in range(kills):
        setting = Setting(draw.choice((1, 2)), draw.random() < 0.5)
        ending = draw.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
        said = len(lines_of(folder / f"run_{number}"))
        after = draw.randrange(said, max(n_lines, said + 1))
        seconds = draw.uniform(0, START_UP_S if after == said else 1.0)
        done.append(disturb(folder, number, setting, after, seconds, ending))
    finish(folder, folder / f"run_{number}", Setting(draw.choice((1, 2)), draw.random() < 0.5))
    return done


def row(kill: Kill, same: bool) -> str:
    """One line of the table."""
    cells = [kill.run, kill.setting.threads, "all" if kill.setting.keeps_images else "none", kill.ending]
    cells += [f"{kill.moment:.1f}", kill.said, kill.status, f"{kill.gone_after:.2f}"]
    return "| " + " | ".join(map(str, [*cells, len(kill.not_whole), "yes" if same else "NO"])) + " |"


def main() -> None:
    """Disturb the runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the table there")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    table = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulated = [
            "--model",
            open_state(),
            "--box",
            DEMO_BOX,
            "--pixel-size",
            DEMO_PIXEL_SIZE_ANGSTROM,
            "--count",
            80,
        ]
        cocofold(["simulate", *simulated, "--snr", 0.3, "--seed", 3, "--out", folder / "particles"])
        finish(folder, folder / "whole", Setting())
        n_lines = len(lines_of(folder / "whole"))
        expected = (folder / "whole" / "model.cif").read_bytes()
        print("| " + " | ".join(HEADINGS) + " |\n" + "| --- " * len(HEADINGS) + "|")
        number = 0
        while len(table) < options.kills:
            # Once, twice, three times, once ...
            kills = min(1 + number % 3, options.kills - len(table))
            for kill in disturbed_run(folder, number, kills, n_lines, draw):
                out = folder / f"run_{number}"
                same = (out / "model.cif").read_bytes() == expected and not list(files_not_whole(out, True))
                print(row(kill, same), flush=True)
                table.append({**asdict(kill), "same_model": same, "as_it_should": same and kill.as_it_should()})
            number += 1
    if options.json is not None:
        options.json.write_text(json.dumps(table, indent=1) + "\n")
    sys.exit(0 if all(entry["as_it_should"] for entry in table) else 1)


if __name__ == "__main__":
    main()
