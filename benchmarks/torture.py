"""Files that lie and days that go wrong: ``python -m benchmarks.torture --hours 1``, or ``make torture HOURS=1``.

Trials are drawn at random, each from a number of its own, until the time is over, and added to a tally that a later
call goes on with. Kinds of trials, besides damaged files for every reader (``benchmarks.fuzz_readers``):

- kill: a verb that writes is ended by SIGKILL, SIGTERM or SIGINT at a random moment. Nothing half-written lies under
  a file's name, nothing lies outside of the output, and the same command (a run with ``--resume``) then gives the
  bytes of an undisturbed one.
- kill-processes, kill-teacher, kill-states, kill-poses: the same of a run of two processes (either is killed), of a
  prediction with a teacher, of two states, and with poses refined. No process is left over.
- stop: SIGSTOP and SIGCONT at random moments; stop-processes: of either of a run's two processes; closed: nobody reads
  what is printed, or the streams are closed; twice: the same command at the same time; everything: two of all verbs at
  the same time. The bytes are those of an undisturbed run.
- memory, disk, size: a limit on the address space, a small tmpfs (where one may be mounted), a limit on the size of
  files. A command ends well, or with status 2 and one message.
- group: a control group's limit on memory, at which the kernel may kill; readonly: a file system that is mounted anew
  for reading alone in the midst of the work. Both need root, and are skipped, with a word, without.
- clock: Python's wall clock is set back in the midst of a command, whose files bear times of another year when it goes
  on. The system's own clock stays: it is everybody's.
- options: values out of range, of other types and of odd spelling, for all options of all verbs: status 0 or 2 (1 of a
  check that finds fault), one message.
- names: files and folders of odd names. moved: a run is killed, its project moved, and resumed.
- flat: short runs in one process; memory, descriptors, threads and temporary files do not grow.

Status 70, a traceback, an end by a signal that was not sent, more than 10 s from a signal to the end (of a reader,
more than 10 s of processor time), bytes that differ
and files outside count as failures; each is kept with its number, by which ``--kind KIND --number N`` repeats it.

Commands run in children that this process forks after it has imported all that they need.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TextIO

import torch
import typer

from benchmarks.fuzz_readers import LIMIT_S, READERS, fuzz, make_samples
from benchmarks.random_prediction import random_prediction
from cocofold.__main__ import app, main
from cocofold.alphafold.rebuild import write_prediction
from cocofold.simulation.particle_simulation import simulate
from cocofold.simulation.simulation_settings import SimulationSettings
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model
from cocofold.system.atomic_files import is_partial, write_json

LONGEST_S = 240.0  # after which a command is taken to hang
ALLOWED_OF_LIMITS = (0, 2)
_READ_KIND = "read: "


@dataclass
class Ended:
    """How a command ended: its status (negative: the signal that ended it), what it said, and how long it took."""

    status: int
    said: str
    seconds: float


@dataclass
class Trial:
    """One trial: its random numbers, the samples, and an empty folder."""

    random: random.Random
    samples: Path
    folder: Path
    verbs: dict[str, Verb]
    faults: list[str] = field(default_factory=list)
    counted: int = 1

    def skip(self, why: str) -> None:
        """Say that this machine cannot make the trial, which then counts as none."""
        self.counted = 0
        print(f"skipped: {why}", flush=True)

    def require(self, holds: bool, what: str) -> None:
        """Note a fault unless something holds."""
        if not holds:
            self.faults.append(what[:2000])


@dataclass
class Verb:
    """A verb that writes: its arguments, the files that are the same in each undisturbed run, and how long it takes."""

    arguments: list[str]
    results: tuple[str, ...]
    seconds: float = 0.0
    expected: dict[str, bytes] = field(default_factory=dict)
    resumes: bool = False


def _stream(number: int) -> TextIO | None:
    """A standard stream as Python opens it at its start: by what it is then, and none if it is closed."""
    try:
        return open(number, "w", encoding="utf-8", closefd=False)
    except OSError:
        return None


def start(arguments: list[str], said: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """Fork a command that prints into a file; returns the child's number."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.setsid()
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, 1)
        os.dup2(file, 2)
        prepare()
        sys.stdout = sys.__stdout__ = _stream(1)  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = _stream(2)  # type: ignore[misc]
        sys.argv = ["cocofold", *arguments]
        main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        with contextlib.suppress(OSError):
            traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)


def wait(child: int, said: Path, began: float, longest: float = LONGEST_S) -> Ended:
    """Wait for a child, which is killed after the longest time."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            text = said.read_text(errors="replace") if said.is_file() else ""
            return Ended(os.waitstatus_to_exitcode(status), text, time.monotonic() - began)
        if time.monotonic() - began > longest:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Ended(-signal.SIGKILL, f"hung for {longest:.0f} s", time.monotonic() - began)
        time.sleep(0.005)


def run(arguments: list[str], said: Path, prepare: Callable[[], None] = lambda: None) -> Ended:
    """Run a command to its end."""
    began = time.monotonic()
    return wait(start(arguments, said, prepare), said, began)


def make_verbs(samples: Path) -> dict[str, Verb]:
    """Verbs that write, small; those that the samples' files suffice for."""
    star, model, other = samples / "set" / "particles.star", samples / "m.cif", samples / "open.cif"
    texts = {
        "simulate": (f"simulate --model {other} --box 32 --pixel-size 3 --count 40 --snr 1 --seed 5 --centre --map",
                     ("particles.mrcs", "map.mrc")),
        "select": (f"select --particles {star} --by random --count 5 --seed 2", ("",)),
        "finetune": (f"finetune --particles {star} --model {model} --no-check --contrast white --effort 0.02 "
                     "--cycles 3 --heldout 0.5 --seed 1 --device cpu",
                     ("model.cif", "models/cycle_02.cif", "density.mrc")),
        "fit": (f"fit --model {model} --map {samples / 'truth.mrc'} --resolution 12 --device cpu", ("placed.cif",)),
        "reconstruct": (f"reconstruct --particles {star} --seed 1 --device cpu", ("reconstruction.mrc",)),
        "assess": (f"assess --model {model} --reference {other}", ("",)),
        "move": (f"move --model {model} --shift 1 2 3", ("",)),
    }  # fmt: skip
    return {name: Verb(text.split(), results, resumes=name == "finetune") for name, (text, results) in texts.items()}


def _prepare_prediction(folder: Path) -> None:
    """Write a prediction of a short chain by random weights, its model in the middle of a box, and images of that."""
    write_prediction(random_prediction("ACDEFGHIKLMN"), folder / "bundle")
    model = read_model(folder / "bundle" / "model.cif")
    write_model(folder / "placed.cif", model.moved_to(model.positions - model.positions.mean(0) + 48))
    simulate(
        SimulationSettings(model=str(folder / "placed.cif"), box=32, pixel_size=3, count=30, snr=2), folder / "set"
    )


def _prepare_set(folder: Path, count: int) -> None:
    model = folder.parent / "open.cif"
    simulate(SimulationSettings(str(model), box=32, pixel_size=3, count=count, snr=2, centre=True), folder / "set")


# Kinds of runs that are killed: what makes their particles, their options, and files that are always the same
_RUNS: dict[str, tuple[Callable[[Path], None], str, tuple[str, ...]]] = {
    "processes": (
        functools.partial(_prepare_set, count=30), "--model {0}/m.cif --processes 2 --oversubscribe",
        ("model.cif", "models/cycle_02.cif", "density.mrc"),
    ),
    "teacher": (
        _prepare_prediction, "--model {1}/placed.cif --prediction {1}/bundle --teacher",
        ("model.cif", "teacher/model.cif", "density.mrc"),
    ),
    "states": (
        functools.partial(_prepare_set, count=110), "--model {0}/m.cif --model {0}/open.cif --states 2",
        ("model.cif", "model_1.cif", "model_2.cif"),
    ),
    "poses": (
        functools.partial(_prepare_set, count=30), "--model {0}/m.cif --refine-poses auto",
        ("model.cif", "models/cycle_02.cif", "density.mrc"),
    ),
}  # fmt: skip
_MEASURED: dict[tuple[Path, str], Verb] = {}


def verb_of(trial: Trial, name: str) -> Verb:
    """A verb, or a kind of run, which is made and run undisturbed when it is first asked for."""
    if name in trial.verbs:
        return trial.verbs[name]
    if (trial.samples, name) not in _MEASURED:
        make, options, results = _RUNS[name]
        folder = trial.samples / f"run-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        make(folder)
        text = f"finetune --particles {{1}}/set/particles.star {options} --no-check --effort 0.02 --cycles 3 --seed 1"
        arguments = f"{text} --heldout 0.3 --device cpu".format(trial.samples, folder).split()
        verb = Verb(arguments, results, resumes=True)
        measure({name: verb}, folder / "undisturbed")
        _MEASURED[trial.samples, name] = verb
    return _MEASURED[trial.samples, name]


_OUT = {"select": ("--out", "out.star"), "assess": ("--json", "out.json"), "move": ("--out", "out.cif")}


def command_of(name: str, verb: Verb, folder: Path) -> list[str]:
    """A verb's command that writes into a folder."""
    option, file = _OUT.get(name, ("--out", "out"))
    return [*verb.arguments, option, str(folder / file)]


def results_of(name: str, verb: Verb, folder: Path) -> dict[str, bytes]:
    """Bytes of a verb's results, less the dates of STARs and maps, without those that are not there."""
    place = folder / _OUT.get(name, ("", "out"))[1]
    paths = {result: place / result if result else place for result in verb.results}
    return {result: _undated(path.read_bytes()) for result, path in paths.items() if path.is_file()}


# What libraries write into STARs and maps to say when
_DATES = re.compile(rb"\A# Created by [^\n]*\n|(?<=Created by mrcfile\.py) +[-0-9]{10} [:0-9]{8}")


def _undated(content: bytes) -> bytes:
    """Content of a file without the time at which it was written."""
    return _DATES.sub(b"", content)


def measure(verbs: dict[str, Verb], folder: Path) -> None:
    """Run every verb undisturbed: what it gives, and how long it takes."""
    for name, verb in verbs.items():
        place = folder / name
        place.mkdir(parents=True)
        ended = run(command_of(name, verb, place), place / "said")
        if ended.status != 0:
            raise SystemExit(f"{name} does not run here: {ended.said}")
        verb.seconds, verb.expected = ended.seconds, results_of(name, verb, place)


def half_written(folder: Path) -> list[str]:
    """Files of a folder that cannot be read as what they are, temporary ones aside."""
    import gemmi
    import mrcfile
    from safetensors import safe_open

    wrong = []
    for path in folder.rglob("*"):
        if not path.is_file() or is_partial(path) or path.name in ("said", ".lock", "log.txt"):
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".cif":
                gemmi.cif.read(str(path)).sole_block()
            elif path.suffix in (".mrc", ".mrcs"):
                with mrcfile.open(path) as file:
                    assert file.data is not None
            elif path.suffix == ".safetensors":
                with safe_open(str(path), framework="pt") as file:
                    assert list(file.keys())
        except Exception as error:
            wrong.append(f"{path.name}: {error}")
    return wrong


def require_ended(trial: Trial, name: str, ended: Ended, allowed: tuple[int, ...]) -> None:
    """Note a status that is not allowed, a traceback, and more than a message where there must be one."""
    trial.require(ended.status in allowed, f"{name}: status {ended.status}: {ended.said[-1500:]}")
    trial.require("Traceback" not in ended.said, f"{name}: traceback: {ended.said[-1500:]}")


def require_result(trial: Trial, name: str, folder: Path) -> None:
    """Note results that differ from an undisturbed run's, files that are not whole, and files outside."""
    verb = verb_of(trial, name)
    trial.require(results_of(name, verb, folder) == verb.expected, f"{name}: other bytes than of an undisturbed run")
    trial.require(not half_written(folder), f"{name}: not whole: {half_written(folder)}")


def require_nothing_outside(trial: Trial, name: str, folder: Path, besides: tuple[str, ...] = ()) -> None:
    """Note what a command has left beside its output."""
    own = {_OUT.get(name, ("", "out"))[1], "said", *besides}
    outside = [path.name for path in folder.iterdir() if path.name not in own and not is_partial(path)]
    trial.require(not outside, f"{name}: left outside: {outside}")


def again(name: str, verb: Verb, folder: Path) -> list[str]:
    """The command that goes on where a killed one ended."""
    started = verb.resumes and (folder / "out" / "config.yaml").is_file()
    return command_of(name, verb, folder) + ["--resume"] * started


_REFUSED_AFTER_KILLS = ("is there already", "holds")
_PEER_IS_GONE = "another of the processes has ended"


def workers_of(folder: Path) -> list[int]:
    """Numbers of the processes that runs in a folder have started, by their command lines."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(folder) in (place / "cmdline").read_bytes():
                found.append(int(place.name))
    return found


def kill(trial: Trial, name: str = "") -> None:
    """One to three ends at random moments, of a verb's own process or of one that it has started."""
    name = name or trial.random.choice(list(trial.verbs))
    verb, said = verb_of(trial, name), trial.folder / "said"
    for _ in range(trial.random.randint(1, 3)):
        number = trial.random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        began = time.monotonic()
        child = start(again(name, verb, trial.folder), said)
        time.sleep(trial.random.uniform(0, 1.1 * verb.seconds))
        sent, killed = time.monotonic(), trial.random.choice([child, *workers_of(trial.folder)])
        with contextlib.suppress(ProcessLookupError):
            os.kill(killed, number)
        ended = wait(child, said, began)
        trial.require(ended.status in (0, 2, -number, 128 + number), f"{name}: status {ended.status}: {ended.said}")
        known = (*_REFUSED_AFTER_KILLS, *[_PEER_IS_GONE] * (killed != child))
        trial.require(ended.status != 2 or any(words in ended.said for words in known), f"{name}: {ended.said}")
        is_late = ended.status == 128 + number or (ended.status == 2 and killed != child)
        late = time.monotonic() - sent if is_late else 0.0
        trial.require(late < LIMIT_S + verb.seconds, f"{name}: ended {late:.0f} s after the signal")
        while (left := workers_of(trial.folder)) and time.monotonic() - sent < LIMIT_S + verb.seconds:
            time.sleep(0.05)
        trial.require(not left, f"{name}: processes are left over: {left}")
        trial.require(not half_written(trial.folder), f"{name}: not whole: {half_written(trial.folder)}")
    finish_killed(trial, name)


def finish_killed(trial: Trial, name: str) -> None:
    """Go on where a verb was killed, to the result of an undisturbed run."""
    verb = verb_of(trial, name)
    if results_of(name, verb, trial.folder) != verb.expected or verb.resumes:
        # Folders that were half filled when the power went are given up by name; nothing in them is half a file.
        if not verb.resumes and (trial.folder / "out").is_dir():
            shutil.rmtree(trial.folder / "out")
        ended = run(again(name, verb, trial.folder), trial.folder / "said")
        require_ended(trial, name, ended, (0,))
    require_result(trial, name, trial.folder)
    require_nothing_outside(trial, name, trial.folder)


def stop(trial: Trial, name: str = "", longest: float = 0.3) -> None:
    """Stopped and continued at random moments: a verb's own process, or one that it has started."""
    name = name or trial.random.choice(list(trial.verbs))
    verb, said = verb_of(trial, name), trial.folder / "said"
    began = time.monotonic()
    child = start(command_of(name, verb, trial.folder), said)
    for _ in range(trial.random.randint(1, 4)):
        time.sleep(trial.random.uniform(0, verb.seconds / 3))
        stopped = trial.random.choice([child, *workers_of(trial.folder)])
        with contextlib.suppress(ProcessLookupError):
            os.kill(stopped, signal.SIGSTOP)
            time.sleep(trial.random.uniform(0, longest))
            os.kill(stopped, signal.SIGCONT)
    require_ended(trial, name, wait(child, said, began), (0,))
    require_result(trial, name, trial.folder)


def closed(trial: Trial) -> None:
    """Standard streams that are closed, or that nobody reads."""
    name = trial.random.choice(list(trial.verbs))
    numbers = trial.random.choice([(1,), (1, 2), (0, 1, 2), (0,)])
    pipe = trial.random.random() < 0.5

    def prepare() -> None:
        for number in numbers:
            if pipe and number:
                reading, writing = os.pipe()
                os.dup2(writing, number)
                os.close(reading)
                os.close(writing)
            else:
                os.close(number)

    ended = run(command_of(name, trial.verbs[name], trial.folder), trial.folder / "said", prepare)
    require_ended(trial, f"{name}, {numbers} {'unread' if pipe else 'closed'}", ended, (0,))
    require_result(trial, name, trial.folder)


def twice(trial: Trial) -> None:
    """The same command twice at once: one result, whole, and no more than a message from the other."""
    name = trial.random.choice(list(trial.verbs))
    verb, began = trial.verbs[name], time.monotonic()
    said = [trial.folder / "said", trial.folder / "said2"]
    children = [start(command_of(name, verb, trial.folder), path) for path in said]
    ended = [wait(child, path, began) for child, path in zip(children, said)]
    for one in ended:
        require_ended(trial, name, one, (0, 2))
    trial.require(any(one.status == 0 for one in ended), f"{name}: both ended with 2: {[one.said for one in ended]}")
    require_result(trial, name, trial.folder)


def everything(trial: Trial) -> None:
    """Two of all verbs at once, each pair with a folder of its own."""
    began = time.monotonic()
    started = {}
    for name, verb in trial.verbs.items():
        folder = trial.folder / name
        folder.mkdir()
        said = [folder / "said", folder / "said2"]
        started[name] = [(start(command_of(name, verb, folder), path), path) for path in said]
    for name, pair in started.items():
        ended = [wait(child, path, began) for child, path in pair]
        for one in ended:
            require_ended(trial, name, one, (0, 2))
        trial.require(any(one.status == 0 for one in ended), f"{name}: both refused: {[one.said for one in ended]}")
        require_result(trial, name, trial.folder / name)


_DAY_S = 86_400.0


def _clock_set_back(after: float, by: float) -> Callable[[], None]:
    """Let Python's wall clock jump back by some seconds, some seconds from now."""

    def prepare() -> None:
        jumps, seconds, nanoseconds = time.monotonic() + after, time.time, time.time_ns

        def offset() -> float:
            return by if time.monotonic() > jumps else 0.0

        time.time = lambda: seconds() - offset()
        time.time_ns = lambda: nanoseconds() - int(offset() * 1e9)

    return prepare


def clock(trial: Trial) -> None:
    """The clock goes back, once or twice; before a run goes on, its files are made to be of another time."""
    name = trial.random.choice(list(trial.verbs))
    verb, said = trial.verbs[name], trial.folder / "said"
    back = _clock_set_back(trial.random.uniform(0, verb.seconds), 10 ** trial.random.uniform(0, 8.5))
    if verb.resumes:
        began = time.monotonic()
        child = start(command_of(name, verb, trial.folder), said, back)
        time.sleep(trial.random.uniform(0, verb.seconds))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        wait(child, said, began)
        stamp = time.time() + trial.random.choice([-1, 1]) * trial.random.uniform(0, 3650) * _DAY_S
        for path in [*trial.folder.rglob("*")]:
            os.utime(path, (stamp, stamp))
    ended = run(again(name, verb, trial.folder), said, back)
    require_ended(trial, name, ended, (0,))
    require_result(trial, name, trial.folder)
    require_nothing_outside(trial, name, trial.folder)
    metrics = trial.folder / "out" / "metrics.json"
    if metrics.is_file():
        seconds = json.loads(metrics.read_text()).get("seconds", 0)
        trial.require(0 <= seconds < LONGEST_S, f"{name}: says that it took {seconds} s")


def _limit(kind: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(kind, (value, value))


def _held_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def memory(trial: Trial) -> None:
    """A limit on the address space."""
    name = trial.random.choice(list(trial.verbs))
    most = _held_bytes() + int(10 ** trial.random.uniform(6.5, 9.3))
    said = trial.folder / "said"
    ended = run(command_of(name, trial.verbs[name], trial.folder), said, _limit(resource.RLIMIT_AS, most))
    require_ended(trial, f"{name} with {most - _held_bytes():.3g} bytes", ended, ALLOWED_OF_LIMITS)
    trial.require(not half_written(trial.folder), f"{name}: not whole: {half_written(trial.folder)}")
    if ended.status == 0:
        require_result(trial, name, trial.folder)
    _runs_after_all(trial, name)


def size(trial: Trial) -> None:
    """A limit on the size of files."""
    name, said = trial.random.choice(list(trial.verbs)), trial.folder / "said"
    most = int(10 ** trial.random.uniform(2, 6))
    ended = run(command_of(name, trial.verbs[name], trial.folder), said, _limit(resource.RLIMIT_FSIZE, most))
    require_ended(trial, f"{name}, files of {most} bytes", ended, ALLOWED_OF_LIMITS)
    trial.require(not half_written(trial.folder), f"{name}: not whole: {half_written(trial.folder)}")
    _runs_after_all(trial, name)


@contextlib.contextmanager
def small_disk(folder: Path, n_bytes: int) -> Iterator[bool]:
    """A tmpfs mounted on a folder; False where this is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def disk(trial: Trial) -> None:
    """A small disk, which in the end is made large enough."""
    name = trial.random.choice(list(trial.verbs))
    place = trial.folder / "disk"
    place.mkdir()
    with small_disk(place, int(10 ** trial.random.uniform(3.7, 6.3))) as mounted:
        if not mounted:
            trial.skip("no file system may be mounted")
            return
        ended = run(command_of(name, trial.verbs[name], place), trial.folder / "said")
        require_ended(trial, name, ended, ALLOWED_OF_LIMITS)
        trial.require(not half_written(place), f"{name}: not whole: {half_written(place)}")
        subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
        if ended.status != 0:
            ended = run(again(name, trial.verbs[name], place), trial.folder / "said")
            require_ended(trial, f"{name}, after the disk was full", ended, (0,))
        require_result(trial, name, place)


def readonly(trial: Trial) -> None:
    """A file system that can only be read from a random moment on, as after an error of its disk."""
    name = trial.random.choice(list(trial.verbs))
    verb, place, said = trial.verbs[name], trial.folder / "disk", trial.folder / "said"
    place.mkdir()
    with small_disk(place, 64 << 20) as mounted:
        if not mounted:
            trial.skip("no file system may be mounted")
            return
        began = time.monotonic()
        child = start(command_of(name, verb, place), said)
        time.sleep(trial.random.uniform(0, verb.seconds))
        remount = ["mount", "-o", "remount,ro", str(place)]
        # Refused while a file is open for writing
        while subprocess.run(remount, capture_output=True, check=False).returncode and time.monotonic() - began < 5:
            time.sleep(0.002)
        ended = wait(child, said, began)
        require_ended(trial, name, ended, ALLOWED_OF_LIMITS)
        subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
        trial.require(not half_written(place), f"{name}: not whole: {half_written(place)}")
        if ended.status != 0:
            # What could not be removed then is given up by name, as after a kill.
            if not verb.resumes and (place / "out").is_dir():
                shutil.rmtree(place / "out")
            require_ended(trial, f"{name}, where it can be written again", run(again(name, verb, place), said), (0,))
        require_result(trial, name, place)


_GROUPS = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def control_group(n_bytes: int) -> Iterator[Path | None]:
    """A control group with a limit on its memory; None where there can be none."""
    parent = _GROUPS if (_GROUPS / "cgroup.controllers").is_file() else _GROUPS / "memory"
    folder = parent / f"cocofold-torture-{os.getpid()}"
    try:
        folder.mkdir()
        limit = next(one for one in ("memory.max", "memory.limit_in_bytes") if (folder / one).is_file())
        (folder / limit).write_text(str(n_bytes))
    except (OSError, StopIteration):
        with contextlib.suppress(OSError):
            folder.rmdir()
        yield None
        return
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _kernel_killed(group: Path) -> bool:
    """Whether the kernel has ended a process of a control group for want of memory."""
    counted = [path.read_text() for path in (group / "memory.events", group / "memory.oom_control") if path.is_file()]
    return any(re.search(r"^oom_kill [1-9]", text, re.MULTILINE) for text in counted)


def group(trial: Trial) -> None:
    """A control group's limit on memory, of which the program reads; beyond it the kernel kills."""
    name = trial.random.choice(list(trial.verbs))
    verb, said, n_bytes = trial.verbs[name], trial.folder / "said", int(10 ** trial.random.uniform(6.5, 9))
    with control_group(n_bytes) as limited:
        if limited is None:
            trial.skip("no control group may be made")
            return
        join = limited / "cgroup.procs"
        ended = run(command_of(name, verb, trial.folder), said, lambda: join.write_text(str(os.getpid())) and None)
        killed = ended.status == -signal.SIGKILL and _kernel_killed(limited)
    require_ended(trial, f"{name} in {n_bytes:.3g} bytes", ended, (*ALLOWED_OF_LIMITS, *[-signal.SIGKILL] * killed))
    trial.require(not half_written(trial.folder), f"{name}: not whole: {half_written(trial.folder)}")
    if killed:
        finish_killed(trial, name)
    else:
        _runs_after_all(trial, name)


def _runs_after_all(trial: Trial, name: str) -> None:
    """After a refusal the same command runs, without anything being removed by hand."""
    verb = trial.verbs[name]
    if results_of(name, verb, trial.folder) == verb.expected:
        return
    ended = run(again(name, verb, trial.folder), trial.folder / "said")
    require_ended(trial, f"{name}, the same command again", ended, (0,))
    require_result(trial, name, trial.folder)


_ODD = (
    *("-1", "0", "-0.0", "nan", "inf", "-inf", "1e308", "1e-320", "99999999999999999999", "3.7", "", " ", "x", "Å"),
    *("auto", "A", "A:1-3", "A;B", "C3", "C999", "cuda:99", "cpu", "/", ".", "/dev/null", "/proc/self/mem", "é" * 300),
    *("A" * 5000, "1,2", "--", "None", "True", "0x10", "1_0", "../..", "\udcff", "a\nb"),
)


def options(trial: Trial) -> None:
    """One to three options of a verb with odd values."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    name = trial.random.choice(list(trial.verbs))
    verb = trial.verbs[name]
    arguments = command_of(name, verb, trial.folder)
    for _ in range(trial.random.randint(1, 3)):
        option = trial.random.choice([one for one in commands[name].params if one.opts[0].startswith("--")])
        values = 0 if getattr(option, "is_flag", False) else option.nargs
        flag = trial.random.choice([*option.opts, *option.secondary_opts])
        # Outside of the trial's folder nothing may be written, whatever an option's value.
        odd = [one for one in _ODD if flag not in ("--out", "--json", "--scratch", "--picture") or "/" not in one]
        arguments += [flag, *(trial.random.choice(odd) for _ in range(values))]
    if "--processes" in arguments or "--stop-with" in arguments:
        arguments = command_of(name, verb, trial.folder)
    ended = run(arguments, trial.folder / "said", lambda: os.chdir(trial.folder))
    require_ended(trial, " ".join(map(repr, arguments)), ended, (0, 2))


_NAMES = (
    "a b",
    "-x",
    "é",
    "日本",
    "a'b\"c",
    "a;b",
    "$HOME",
    "~",
    "a#b",
    "x" * 200,
    "\udcff\udcfe",
    "a%sb",
    "{a}",
    "a@b",
)


def names(trial: Trial) -> None:
    """Folders of odd names."""
    name = trial.random.choice(list(trial.verbs))
    place = trial.folder / trial.random.choice(_NAMES)
    place.mkdir()
    ended = run(command_of(name, trial.verbs[name], place), trial.folder / "said")
    require_ended(trial, f"{name} in {place.name!r}", ended, (0,))
    expected = trial.verbs[name].expected
    trial.require(
        set(results_of(name, trial.verbs[name], place)) == set(expected), f"{name} in {place.name!r}: no result"
    )


def moved(trial: Trial) -> None:
    """A run that was killed goes on in a project that lies elsewhere."""
    verb, said = trial.verbs["finetune"], trial.folder / "said"
    old, new = trial.folder / "old", trial.folder / "new"
    old.mkdir()
    for name in ("set", "m.cif"):
        source = trial.samples / name
        shutil.copytree(source, old / name) if source.is_dir() else shutil.copy(source, old / name)

    def arguments(project: Path) -> list[str]:
        return [
            *[one.replace(str(trial.samples), str(project)) for one in verb.arguments],
            "--out",
            str(project / "out"),
        ]

    began = time.monotonic()
    child = start(arguments(old), said)
    time.sleep(trial.random.uniform(0, verb.seconds))
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, trial.random.choice([signal.SIGKILL, signal.SIGTERM]))
    wait(child, said, began)
    old.rename(new)
    resumes = ["--resume"] * (new / "out" / "config.yaml").is_file()
    # Before it has noted what its input holds, a run knows it by its names.
    knows = not resumes or (new / "out" / "inputs.json").is_file()
    ended = run([*arguments(new), *resumes], said)
    require_ended(trial, "finetune, moved", ended, (0,) if knows else (0, 2))
    if ended.status == 0:
        require_result(trial, "finetune", new)


def flat(trial: Trial) -> None:
    """Short runs one after the other in one process."""
    child = os.fork()
    if not child:
        status = 1
        with contextlib.suppress(BaseException):
            status = int(not _stays_flat(trial.samples, trial.folder, trial.random.randint(4, 8)))
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    trial.require(status == 0, "memory, descriptors, threads or temporary files grow")


def _stays_flat(samples: Path, folder: Path, count: int) -> bool:
    from cocofold.finetuning.options import Options
    from cocofold.finetuning.run import finetune
    from cocofold.system.hardware import resident_bytes

    tempfile.tempdir = str(folder / "temporary")
    Path(tempfile.tempdir).mkdir()
    star, model = str(samples / "set" / "particles.star"), str(samples / "m.cif")
    held = []
    for number in range(2 * count):
        out = folder / f"run{number}"
        finetune(Options(star, model=model, check=False, effort=0.01, cycles=2, heldout=0.5, device="cpu"), out)
        shutil.rmtree(out)
        files = len(os.listdir("/proc/self/fd")), threading.active_count(), len(os.listdir(tempfile.tempdir))
        held.append((resident_bytes(), *files))
    first, last = held[count - 1], held[-1]
    return first[1:] == last[1:] and last[0] - first[0] < 20e6


KINDS: dict[str, Callable[[Trial], None]] = {
    "kill": kill, "stop": stop, "closed": closed, "twice": twice, "everything": everything, "clock": clock,
    "memory": memory, "size": size, "disk": disk, "readonly": readonly, "group": group,
    "options": options, "names": names, "moved": moved, "flat": flat,
    **{f"kill-{name}": functools.partial(kill, name=name) for name in _RUNS},
    "stop-processes": functools.partial(stop, name="processes", longest=3.0),
}  # fmt: skip
_WEIGHTS = {"options": 4, "kill": 3, "flat": 0.2, "everything": 0.3}  # others have 1


class _Alarm(Exception):
    """A reader took too long."""


def _ring(number: int, frame: FrameType | None) -> None:
    raise _Alarm


def read(trial: Trial, name: str, seconds: float = 5.0) -> None:
    """Damaged files for a reader, in a child, for some seconds."""
    reader = READERS[name]
    count = max(3, int(seconds / reader.seconds))
    path = trial.folder / "said"
    child = os.fork()
    if not child:
        signal.signal(signal.SIGPROF, _ring)
        most = _held_bytes() + 3 * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        found: dict[str, object] = {}
        try:
            done = fuzz(
                name,
                trial.samples,
                trial.random.getrandbits(32),
                count,
                lambda: signal.setitimer(signal.ITIMER_PROF, LIMIT_S) and None,
            )
            found = {"inputs": done.inputs}
        except BaseException as error:
            place = [f"{one.filename}:{one.lineno}" for one in traceback.extract_tb(error.__traceback__)]
            near = [one for one in place if "/cocofold/" in one and "/benchmarks/" not in one][-3:]
            found = {"inputs": 1, "fault": f"{type(error).__name__}: {str(error)[:300]} at {near}"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        path.write_text(json.dumps(found))
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    content = json.loads(path.read_text()) if path.is_file() else {"fault": f"the reader ended with {status}"}
    trial.counted = content.get("inputs", 1)
    if "fault" in content:
        trial.faults.append(content["fault"])


@dataclass
class Tally:
    """What was tried, how often, and what failed; kept in a file."""

    path: Path
    hours: float = 0.0
    tried: dict[str, int] = field(default_factory=dict)
    failed: list[dict[str, object]] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> Tally:
        """The tally of a file, empty if there is none."""
        known = json.loads(path.read_text()) if path.is_file() else {}
        return cls(path, **known)

    def save(self) -> None:
        """Write the file anew."""
        write_json(self.path, {"hours": self.hours, "tried": self.tried, "failed": self.failed})

    def add(self, kind: str, number: int, trial: Trial, seconds: float) -> None:
        """Count a trial, print its faults, and write the file."""
        self.hours += seconds / 3600
        self.tried[kind] = self.tried.get(kind, 0) + trial.counted
        for fault in trial.faults:
            self.failed.append({"kind": kind, "number": number, "fault": fault})
            print(f"{kind} {number}: {fault}", flush=True)
        self.save()

    def table(self) -> str:
        """Markdown."""
        failed = {kind: {one["number"] for one in self.failed if one["kind"] == kind} for kind in self.tried}
        rows = [f"| {kind} | {count:,} | {len(failed[kind])} |" for kind, count in sorted(self.tried.items())]
        return "\n".join([f"{self.hours:.2f} hours", "", "| what | trials | failures |", "| --- | --- | --- |", *rows])


def one_trial(kind: str, number: int, samples: Path, verbs: dict[str, Verb]) -> Trial:
    """A trial of a kind, by its number."""
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        trial = Trial(random.Random(number), samples, Path(folder), verbs)
        try:
            if kind.startswith(_READ_KIND):
                read(trial, kind[len(_READ_KIND) :])
            else:
                KINDS[kind](trial)
        except Exception as error:  # a trial's own
            trial.faults.append(f"the trial itself: {type(error).__name__}: {error}")
        return trial


def prepare(samples: Path, with_programs: bool = True) -> dict[str, Verb]:
    """Make the samples, and run every verb undisturbed."""
    torch.set_num_threads(1)
    make_samples(samples)
    verbs = make_verbs(samples)
    if with_programs:
        said = samples / "said"
        out = samples / "large"
        text = f"simulate --model {samples / 'open.cif'} --box 32 --pixel-size 3 --count 60 --snr 5 --centre --map"
        ended = run([*text.split(), "--out", str(out)], said)
        if ended.status != 0:
            raise SystemExit(ended.said)
        shutil.copy(out / "map.mrc", samples / "truth.mrc")
        measure(verbs, samples / "undisturbed")
    return verbs


def torture(hours: float, tally: Tally, samples: Path, seed: int) -> None:
    """Trials for some hours."""
    verbs = prepare(samples)
    drawn = random.Random(f"{seed} {tally.hours}")
    began = last = time.monotonic()
    kinds = [*KINDS, *(_READ_KIND + name for name in READERS)]
    weights = [_WEIGHTS.get(kind, 1.0) for kind in kinds]
    while last - began < 3600 * hours:
        kind, number = drawn.choices(kinds, weights)[0], drawn.getrandbits(32)
        trial = one_trial(kind, number, samples, verbs)
        now = time.monotonic()
        tally.add(kind, number, trial, now - last)
        last = now


def repeat(kinds: Sequence[str], numbers: Sequence[int], tally: Tally, samples: Path) -> None:
    """Trials of some kinds, of these numbers each."""
    unknown = [kind for kind in kinds if kind not in KINDS and kind.removeprefix(_READ_KIND) not in READERS]
    if unknown:
        raise SystemExit(f"{unknown[0]}: no such kind; there are {', '.join(KINDS)}, and {_READ_KIND}READER")
    verbs = prepare(samples, with_programs=any(kind in KINDS for kind in kinds))
    for kind in kinds:
        for number in numbers:
            began = time.monotonic()
            trial = one_trial(kind, number, samples, verbs)
            tally.add(kind, number, trial, time.monotonic() - began)
            print(f"{kind} {number}: {len(trial.faults)} faults, {time.monotonic() - began:.1f} s", flush=True)


def command_line() -> None:
    """Options of the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--tally", type=Path, default=Path("torture.json"), help="file that is added to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", help="with --number: repeat a trial; may be given again")
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument(
        "--trials", type=int, default=1, help="with --kind: trials of each, of this number and the next"
    )
    given = parser.parse_args()
    tally = Tally.load(given.tally)
    with tempfile.TemporaryDirectory(prefix="torture-samples-") as folder:
        samples = Path(folder) / "samples"
        if given.kind:
            repeat(given.kind, range(given.number, given.number + given.trials), tally, samples)
        else:
            torture(given.hours, tally, samples, given.seed)
        print(tally.table())


if __name__ == "__main__":
    command_line()
