"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def appearing_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it at the end; removed if anything goes wrong.

    An ``OSError`` while writing, of a full disk for example, leaves with the name of ``path``.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        if error.filename in (None, str(partial), partial):
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Remove temporary files below a folder that a process left which was killed while writing."""
    for path in folder.rglob(".*.part"):
        path.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike[str], content: str) -> None:
    """Write a text file that appears whole or not at all."""
    with appearing_whole(path) as partial:
        partial.write_text(content)
