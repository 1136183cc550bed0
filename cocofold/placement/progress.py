"""Progress of a search on a terminal, with the time left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cocofold.placement.finding import Tell


@contextlib.contextmanager
def shown() -> Iterator[Tell]:
    """A bar on standard error, shown on terminals only, told what is done and how much of it."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    task = bar.add_task("placing", total=1.0)
    current = ""

    def tell(what: str, done: float) -> None:
        nonlocal current
        if what != current:
            bar.reset(task, description=what)
            current = what
        bar.update(task, completed=done)

    with bar:
        yield tell
