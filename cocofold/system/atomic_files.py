"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from cocofold.system.errors import InputError

# Names of temporary files: hidden, and of no format that another program would read.
_PARTIAL_PREFIX, _PARTIAL_SUFFIX = ".", ".part"


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it at the end; removed if anything goes wrong.

    The file is flushed to the disk before it is renamed, so that the machine too may fail at any moment. An ``OSError``
    while writing, of a full disk for example, leaves with the name of ``path``.
    """
    path = Path(path)
    partial = path.with_name(f"{_PARTIAL_PREFIX}{path.name}.{os.getpid()}{_PARTIAL_SUFFIX}")
    try:
        yield partial
        _flush(partial)
        os.replace(partial, path)
    except OSError as error:
        if error.filename in (None, str(partial), partial):
            error.filename = str(path)
        raise
    finally:
        # In a folder that has become read-only it stays, and must not hide why.
        with contextlib.suppress(OSError):
            partial.unlink()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_partial(path: Path) -> bool:
    """Whether a file is a temporary one, left by a process that was killed while it wrote."""
    return path.name.startswith(_PARTIAL_PREFIX) and path.name.endswith(_PARTIAL_SUFFIX)


def remove_partial(folder: Path) -> None:
    """Remove temporary files below a folder, left by a process that was killed while it wrote."""
    for path in folder.rglob(f"{_PARTIAL_PREFIX}*{_PARTIAL_SUFFIX}"):
        path.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike[str], content: str) -> None:
    """Write a text file that appears whole or not at all."""
    with atomic_path(path) as partial:
        partial.write_text(content, encoding="utf-8")


@contextlib.contextmanager
def refuse_unwritable(path: Path | None, remedy: str = "give another file") -> Iterator[None]:
    """Turn an ``OSError`` of writing into an ``InputError`` that names the file, or else ``path``, and the remedy."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{error.filename or path}: not written ({error.strerror}); {remedy}") from error


def check_writable(option: str, path: Path | None) -> None:
    """Refuse a path at which no file can be written; None is accepted.

    Raises
    ------
    InputError
        With a message in the words of the command line.
    """
    if path is None:
        return
    folder = path.absolute().parent
    if path.is_dir():
        raise InputError(f"{option} {path}: is a folder; give the name of a file")
    if not folder.is_dir():
        raise InputError(f"{option} {path}: there is no folder {folder}; make it, or give a file elsewhere")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{option} {path}: the folder {folder} may not be written to; give a file elsewhere")
