"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import secrets
import shutil
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from cocofold.system.errors import MOST_TEXT_BYTES, InputError, refuse_damaged, refuse_large

# Names of temporary files: hidden, and of no format that another program would read.
_PARTIAL_PREFIX, _PARTIAL_SUFFIX = ".", ".part"
_KEPT_OF_NAME = 200  # bytes of a file's name that its temporary file repeats
_MODE_OF_FILES = 0o666  # less the umask, as of every new file
_MOST_LISTED_FILES = 5  # that a message names
# Links such as /dev/stdout lie here, and would be replaced by a file.
_SYSTEM_FOLDERS = (Path("/dev"),)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file beside ``path``, renamed to it at the end; removed if anything goes wrong.

    It is there, empty, and its name cannot be foreseen: nobody else can have put a link in its place, and what others
    put there later is not followed.

    The file is flushed to the disk before it is renamed, so that the machine too may fail at any moment. An ``OSError``
    while writing, of a full disk for example, leaves with the name of ``path``.
    """
    path = Path(path)
    # The name's end tells formats to some programs, its beginning that the file is hidden; a name of 255 bytes is full.
    kept = os.fsdecode(os.fsencode(path.name)[:_KEPT_OF_NAME])
    _refuse_device(path)
    partial = path.with_name(f"{_PARTIAL_PREFIX}{kept}.{secrets.token_hex(8)}{_PARTIAL_SUFFIX}")
    try:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _MODE_OF_FILES))
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


def _refuse_device(path: Path) -> None:
    """Refuse to rename a file over a device, pipe or socket, or over a link to one: it would be gone for everybody."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "a device or pipe, which no file may replace", str(path))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path}: somebody put something else in the place of this file")
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


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write JSON that appears whole or not at all; numbers that are not finite, which JSON does not have, are null."""
    write_atomically(path, json.dumps(_with_finite_numbers(content), indent=1, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str], name: object, remedy: str, needs_object: bool = True) -> Any:
    """Content of a JSON file, by default an object.

    Parameters
    ----------
    path
    name : object
        What the user calls the file.
    remedy : str
        What to do if it is none.

    Raises
    ------
    InputError
        If it cannot be read, is no JSON, or holds no object.
    """
    with refuse_damaged(name, remedy, "JSON"):
        refuse_large(name, os.path.getsize(path), MOST_TEXT_BYTES)
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    if needs_object and not isinstance(content, dict):
        raise InputError(f"{name}: holds a {type(content).__name__} and no JSON object; {remedy}")
    return content


def _with_finite_numbers(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _with_finite_numbers(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_with_finite_numbers(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


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
    if path.exists() and not path.is_file():
        raise InputError(f"{option} {path}: is a device or pipe, which would be replaced; give the name of a file")
    if not folder.is_dir():
        raise InputError(f"{option} {path}: there is no folder {folder}; make it, or give a file elsewhere")
    if folder.resolve() in _SYSTEM_FOLDERS:
        raise InputError(f"{option} {path}: {folder} is a folder of the system's devices; give a file elsewhere")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{option} {path}: the folder {folder} may not be written to; give a file elsewhere")


def check_new_folder(option: str, path: Path, may_hold: Collection[str] = ()) -> None:
    """Refuse a path at which no new folder can be filled.

    Parameters
    ----------
    option : str
        What the user calls it.
    path : Path
    may_hold : collection of str
        Names that the folder may hold already; temporary files of killed processes may be there too.

    Raises
    ------
    InputError
        If it is a file, holds anything else, or may not be written to.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{option} {path}: is a file; give a folder")
    held = sorted(one.name for one in path.iterdir() if not is_partial(one)) if path.is_dir() else []
    foreign = [name for name in held if name not in may_hold]
    if foreign:
        more = " and more" if len(foreign) > _MOST_LISTED_FILES else ""
        raise InputError(
            f"{option} {path}: the folder holds {', '.join(foreign[:_MOST_LISTED_FILES])}{more}; give another one"
        )
    place = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{option} {path}: cannot be written in {place}; give another folder")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """Make a folder; what is new in it is removed if anything goes wrong, so that the same command can run again.

    Raises
    ------
    InputError
        In place of an ``OSError``, with the file's name.
    """
    held = set(path.iterdir()) if path.is_dir() else None
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        with contextlib.suppress(OSError):
            for new in set(path.iterdir()) - (held or set()):
                shutil.rmtree(new) if new.is_dir() else new.unlink()
            if held is None:
                path.rmdir()
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise InputError(f"{error.filename or path}: cannot be written ({reason}); give another folder") from error
        raise
