"""What long work shows on a terminal: progress bars with the time left, and the lines of its log."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cocofold.system.errors import escape_unprintable

# Told what is being done, and what share of it is done, from 0 to 1.
ProgressCallback = Callable[[str, float], None]

# Weight of a batch in the mean correlation that the bar shows: about the last twenty batches count.
_SMOOTHED = 0.05


def _terminal_bar(*columns: ProgressColumn) -> Progress:
    """A bar on standard error, shown on terminals only, and gone when it ends."""
    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


class _ConsoleHandler(logging.Handler):
    """Lines on standard output, as long as somebody looks."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record's message."""
        try:
            print(escape_unprintable(self.format(record)), flush=True)
        except OSError:
            # A closed pipe, a terminal that hung up: from now on nothing is shown, and nothing fails at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def console_log() -> Iterator[None]:
    """Show on standard output what goes to the logger ``cocofold``, as commands do."""
    logger, handler = logging.getLogger("cocofold"), _ConsoleHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _stop(bar: Progress) -> None:
    # The terminal may be gone, which must not hide why the run ends.
    with contextlib.suppress(OSError):
        bar.stop()


class EtaEstimator:
    """Time left, from the steps taken since ``first_step``; a second pass is as long as the first at most."""

    def __init__(self, first_step: int, last_step: int, passes_left: int) -> None:
        self._began = time.monotonic()
        self._first = first_step
        self._last = last_step
        self._later = (passes_left - 1) * last_step

    def seconds_left(self, step: int) -> float:
        """Seconds left at most; 0 before the first step."""
        taken = step - self._first
        each = (time.monotonic() - self._began) / taken if taken else 0.0
        return each * (self._last - step + self._later)


class TrainingProgressBar:
    """A bar on standard error, shown on terminals only.

    Parameters
    ----------
    total, done : int
        Steps of the pass, and those taken already.
    """

    def __init__(self, total: int, done: int) -> None:
        self._bar = _terminal_bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._task = self._bar.add_task("FRC", total=total, completed=done)
        self._correlation: float | None = None

    def __enter__(self) -> TrainingProgressBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _stop(self._bar)

    def step(self, correlation: float, done: int) -> None:
        """Show the mean correlation of a step's batch, and the number of steps that are done."""
        before = correlation if self._correlation is None else self._correlation
        self._correlation = (1 - _SMOOTHED) * before + _SMOOTHED * correlation
        self._bar.update(self._task, completed=done, description=f"FRC {self._correlation:.3f}")


@contextlib.contextmanager
def image_progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for what is done image by image, told the number done and of all; it goes when all are."""
    bar = _terminal_bar(
        TextColumn(what), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"), TimeRemainingColumn()
    )
    task = bar.add_task(what, total=None)

    def report(done: int, total: int) -> None:
        # The total is known before the bar is drawn, which would be an error without one
        bar.update(task, completed=done, total=total)
        if not bar.live.is_started and done < total:
            bar.start()
        if done == total:
            bar.stop()

    try:
        yield report
    finally:
        _stop(bar)


@contextlib.contextmanager
def share_progress_bar() -> Iterator[ProgressCallback]:
    """A bar on standard error, shown on terminals only, told what is done and what share of it."""
    bar = _terminal_bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    task = bar.add_task("", total=1.0)
    current = ""

    def tell(what: str, done: float) -> None:
        nonlocal current
        if what != current:
            bar.reset(task, description=what)
            current = what
        bar.update(task, completed=done)

    bar.start()
    try:
        yield tell
    finally:
        _stop(bar)
