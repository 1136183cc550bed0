"""Processes: their end by a signal, or with the program that started them, when their state is whole; and workers.

Also what they print: whoever looks, and in whatever letters, it never ends the work.

Of several processes that work together, the coordinator, of rank 0, runs the program; the workers compare their share
of the images for it. Which one this is, is known before anything large is imported.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from cocofold.system.errors import InputError
from cocofold.system.hardware import require_processes

# The alarm is the time limit's.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM)
# "Try again later", as sysexits.h has it; queues submit such a job again.
TIME_LIMIT_STATUS = 75
_SECONDS_OF_UNIT = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}
# A timer of the system takes no more on every platform.
_LONGEST_LIMIT_DAYS = 365
# Time in which further signals are not heeded, so that an impatient second Ctrl-C does not leave half a file behind.
_GRACE_SECONDS = 10.0
STOP_WITH_VARIABLE = "COCOFOLD_STOP_WITH"


class Interrupted(SystemExit):
    """The process was asked to end; its exit status is 128 and the signal's number, or 75 at a time limit.

    Parameters
    ----------
    why : str
        For the user.
    number : int
        Number of the signal.

    Attributes
    ----------
    advice : str
        What the user may do now, if anything.
    """

    def __init__(self, why: str, number: int) -> None:
        super().__init__(TIME_LIMIT_STATUS if number == signal.SIGALRM else 128 + number)
        self.why = why
        self.advice = ""

    def __str__(self) -> str:
        return f"ended by {self.why}" + (f"; {self.advice}" if self.advice else "")


class SignalHandler:
    """Turns signals that would end the process, and the end of another process, into the exception ``Interrupted``.

    SIGTERM, SIGINT, SIGHUP and the alarm of ``time_limit`` raise it at once, or within ``deferred`` at the next
    ``check``, in the main thread; those that are ignored stay so. For 10 s further signals do not disturb what is done
    at the end. Other threads leave signals alone.

    Parameters
    ----------
    stop_with : int, optional
        Number of a process; when it is gone, that counts as a SIGTERM. Looked at by ``check``.

    Raises
    ------
    InputError
        When it is entered, if there is no such process, or the system cannot watch one.
    """

    def __init__(self, stop_with: int | None = None) -> None:
        self._received_signal: int | None = None
        self._deferring = False
        self._raised_at = float("-inf")
        self._handlers: dict[int, object] = {}
        self._stop_with = stop_with
        self._watched: int | None = None

    def __enter__(self) -> SignalHandler:
        if self._stop_with is not None:
            self._watched = _open_process(self._stop_with)
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._on_signal)
            self._raise_pending_of_outer()
        return self

    def _raise_pending_of_outer(self) -> None:
        """Raise again what was caught since the context around this one: libraries do that while they are imported."""
        for handler in self._handlers.values():
            around = getattr(handler, "__self__", None)
            if isinstance(around, SignalHandler) and around._received_signal is not None:
                self.__exit__(None, None, None)
                around.check()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if self._watched is not None:
            os.close(self._watched)
            self._watched = None

    def _on_signal(self, number: int, frame: object) -> None:
        self._received_signal = number
        if not self._deferring and time.monotonic() - self._raised_at >= _GRACE_SECONDS:
            self.check()

    def check(self) -> None:
        """Raise ``Interrupted`` if the process was asked to end, or the watched one is gone."""
        if self._received_signal is not None:
            self._raised_at = time.monotonic()
            number = self._received_signal
            raise Interrupted("the time limit" if number == signal.SIGALRM else signal.Signals(number).name, number)
        if self._watched is not None and _is_gone(self._watched):
            self._raised_at = time.monotonic()
            raise Interrupted(f"the end of process {self._stop_with}", signal.SIGTERM)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Let signals wait for ``check``, or for the end of the block."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        self.check()


@contextlib.contextmanager
def time_limit(text: str | None) -> Iterator[None]:
    """Within the block, send this process an alarm when a time is over: ``SignalHandler`` then ends it with status 75.

    Parameters
    ----------
    text : str, optional
        The time as days, hours, minutes and seconds with their units: ``55m``, ``1h30m``, ``2d``. None: no limit.

    Raises
    ------
    InputError
        For what is not such a time, or not above 0 and at most a year.
    """
    if text is None:
        yield
        return
    seconds = _seconds_of(text)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _seconds_of(text: str) -> float:
    """Seconds of a time limit."""
    parts = re.findall(r"(\d{1,9}(?:\.\d{1,9})?)([dhms])", text, re.ASCII)
    seconds = sum(float(number) * _SECONDS_OF_UNIT[unit] for number, unit in parts)
    is_whole = "".join(number + unit for number, unit in parts) == text
    if not is_whole or not 0 < seconds <= _LONGEST_LIMIT_DAYS * _SECONDS_OF_UNIT["d"]:
        raise InputError(
            f"--time-limit {text}: give a time above 0 and of at most {_LONGEST_LIMIT_DAYS} days, with its units, such "
            "as 55m, 1h30m or 2d"
        )
    return seconds


def watch_process_of_environment() -> None:
    """End this process by SIGTERM when the process that ``COCOFOLD_STOP_WITH`` names, if it is set, is gone.

    For programs that start commands: their own end, even by SIGKILL, then leaves none behind.

    Raises
    ------
    InputError
        If the variable is not the number of a process that runs.
    """
    number = os.environ.get(STOP_WITH_VARIABLE)
    if not number:
        return
    if not number.isdigit():
        raise InputError(f"{STOP_WITH_VARIABLE} is {number!r}; it must be the number of a process, or unset")
    watched = _open_process(int(number))

    def wait() -> None:
        select.select([watched], [], [])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def ignore_signals() -> None:
    """Let no signal that ``SignalHandler`` knows end the process any more."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _open_process(number: int) -> int:
    try:
        watched = os.pidfd_open(number)
    except AttributeError as error:
        raise InputError("--stop-with: needs Linux and Python 3.9 or later; leave it out") from error
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSYS, errno.EPERM):
            raise InputError(
                "--stop-with: processes cannot be watched here (Linux 5.3 or later can); leave it out"
            ) from error
        raise InputError(
            f"--stop-with {number}: no such process; give the number of the process that started this one"
        ) from error
    if _is_gone(watched):
        os.close(watched)
        raise InputError(f"--stop-with {number}: this process has ended already; give one that runs")
    return watched


def _is_gone(watched: int) -> bool:
    poll = select.poll()
    poll.register(watched, select.POLLIN)
    return bool(poll.poll(0))


_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)  # a closed pipe, a terminal that hung up
_SPELLED = "cocofold-spelled"  # our handler of letters that an encoding lacks
_ANGSTROM = "Å"


class _StandardOutput(io.FileIO):
    """Standard output that nobody may be reading any more: what is written is then lost, and nothing else."""

    def write(self, content: object) -> int:
        """Write bytes; a full disk is an error, once, and a reader that is gone is none."""
        try:
            return super().write(content)  # type: ignore[arg-type]
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if error.errno not in _GONE:
                raise
            return memoryview(content).nbytes  # type: ignore[arg-type]


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Letters that a terminal does not have: A for Å, and for others their number as Python writes it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    plain = (letter if letter != _ANGSTROM else "A" for letter in found)
    return "".join(letter.encode("ascii", "backslashreplace").decode() for letter in plain), error.end


def settle_standard_streams() -> None:
    """Let no reader that is gone, and no letter that a terminal lacks, end the work.

    Streams that are closed are opened to nothing, so that no file of the work takes their number.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    codecs.register_error(_SPELLED, _spell)
    # Tests, notebooks and other programs have streams of their own.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream in (sys.__stdout__, sys.__stderr__):
            stream.reconfigure(errors=_SPELLED)
    stream = sys.stdout
    if isinstance(stream, io.TextIOWrapper) and sys.stdout is sys.__stdout__:
        raw = io.BufferedWriter(_StandardOutput(stream.fileno(), "w", closefd=False))
        stream.flush()
        sys.stdout = io.TextIOWrapper(raw, stream.encoding, _SPELLED, line_buffering=stream.isatty())


# The coordinator tells a worker its rank, and the number of processes, in these.
_RANK_VARIABLE, _COUNT_VARIABLE = "COCOFOLD_WORKER_RANK", "COCOFOLD_WORKER_COUNT"
# Set by torchrun for the processes that it starts.
_TORCHRUN_VARIABLE = "TORCHELASTIC_RUN_ID"


@dataclass(frozen=True)
class WorkerProcess:
    """One of several processes that work together; those that it has started are gone when its context ends.

    Attributes
    ----------
    rank, count : int
        Number of this process, from 0 (the coordinator), and number of all processes.
    count_on_machine : int
        Number of those on this machine.
    by_torchrun : bool
        Whether torchrun has started all.
    started_processes : sequence of Popen
        Workers that this process has started; each reads on its standard input where the coordinator is found.
    """

    rank: int
    count: int
    count_on_machine: int = 1
    by_torchrun: bool = False
    started_processes: Sequence[subprocess.Popen] = ()

    @classmethod
    def start_or_join(cls, count: int, oversubscribe: bool = False) -> WorkerProcess:
        """Find out which process this is; if it is the first of ``count``, start the workers on this machine.

        Raises
        ------
        InputError
            For a count below 1, one that is not torchrun's, or more than the machine has cores or memory for.
        """
        if count < 1:
            require_processes(count, oversubscribe)
        if _RANK_VARIABLE in os.environ:
            every = int(os.environ[_COUNT_VARIABLE])
            return cls(int(os.environ[_RANK_VARIABLE]), every, every)
        if _TORCHRUN_VARIABLE in os.environ:
            every = int(os.environ["WORLD_SIZE"])
            if count not in (1, every):
                raise InputError(f"--processes {count}: torchrun has started {every}; leave the option out")
            return cls(int(os.environ["RANK"]), every, int(os.environ["LOCAL_WORLD_SIZE"]), by_torchrun=True)
        require_processes(count, oversubscribe)
        return cls._start_workers(count) if count > 1 else cls(0, 1)

    @classmethod
    def _start_workers(cls, count: int) -> WorkerProcess:
        workers = [
            subprocess.Popen(
                [sys.executable, "-m", "cocofold", *sys.argv[1:]],
                env={
                    **os.environ,
                    _RANK_VARIABLE: str(rank),
                    _COUNT_VARIABLE: str(count),
                    "LOCAL_RANK": str(rank),
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                # Signals of a terminal are for the coordinator, which ends the workers.
                start_new_session=True,
            )
            for rank in range(1, count)
        ]
        return cls(0, count, count, started_processes=workers)

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.started_processes:
            process.kill()
            process.communicate()
