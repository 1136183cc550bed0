"""Input that cannot be used, what nobody expected, and how packed files begin."""

from __future__ import annotations

import contextlib
import gzip
import os
import platform
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# More letters than the longest path has (4096), of which the first say enough
_LONG_WORD = re.compile(r"(\S{100})\S{4100,}")
# Programs that pack files, by the bytes with which such files begin
PROGRAM_OF_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf": "7z",
}


def shorten_words(message: str) -> str:
    """A message in which words of a file or command line that are longer than any path are cut."""
    return _LONG_WORD.sub(r"\1...", message)


def escape_unprintable(text: str) -> str:
    """A text on one line that sends nothing to a terminal but letters: what is no letter is written as by ``repr``.

    Names of files and options may hold ends of lines, escape sequences, and bytes that are no UTF-8.
    """
    if text.isprintable():
        return text
    shown = (letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
    return "".join(shown)


class InputError(Exception):
    """Input that cannot be used; its message says what was found, what is allowed and what to do.

    The command line prints the message and exits with status 2, without a traceback.

    Parameters
    ----------
    message : str
    shown_below : sequence of str, optional
        Lines that stand below the message, such as the last ones of another program's log.
    """

    def __init__(self, message: str, shown_below: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.lines = (message, *shown_below)

    def __str__(self) -> str:
        return "\n  ".join(self.lines)


def require_within(option: str, value: float, least: float, most: float) -> None:
    """Refuse a number outside a range, in the words of the command line.

    Raises
    ------
    InputError
    """
    if not least <= value <= most:
        # No float holds an integer of more than 308 digits.
        shown = f"{value:g}" if isinstance(value, float) or abs(value) < _MOST_SHOWN else "of more than 300 digits"
        raise InputError(f"{option} {shown}: must be from {least:g} to {most:g}")


_MOST_SHOWN = 10**300
_KINDS: dict[str, Any] = {"str": str, "bool": bool, "int": int, "float": (int, float), "list[str]": (list, tuple)}


def require_type(option: str, value: object, annotation: str, may_be_none: bool) -> None:
    """Refuse a value that is not of the type that an annotation such as ``float | None`` names.

    Raises
    ------
    InputError
    """
    kind = _KINDS[annotation.split(" ")[0]]
    if not isinstance(value, kind) and not (value is None and may_be_none):
        raise InputError(f"{option} {value!r:.200}: must be of type {annotation}")


@contextlib.contextmanager
def refuse_damaged(name: object, remedy: str, kind: str = "") -> Iterator[None]:
    """Turn whatever a reader makes of damaged bytes into an ``InputError``; for reading alone, never for computing.

    Libraries that parse files do not say what they may raise. What is no fault of the file leaves as it is: input that
    is refused already, signals, and a memory that is full.

    Parameters
    ----------
    name : object
        What the user calls the file.
    remedy : str
        What to do.
    kind : str, optional
        What it cannot be read as.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        reason = (str(getattr(error, "strerror", None) or error).splitlines() or [""])[0][:_LONGEST_REASON]
        as_kind = f" as {kind}" if kind else ""
        raise InputError(f"{name}: cannot be read{as_kind} ({reason or type(error).__name__}); {remedy}") from error


# Bytes to which files may unpack, by default: texts (the largest models of the PDB have a quarter of it), and arrays,
# of which a map of 1024 voxels along each side is the largest that anybody fits a model to.
MOST_TEXT_BYTES, MOST_ARRAY_BYTES = 512 * 2**20, 4 * 2**30 + 2**20
UNPACKED_VARIABLE, UNPACKED_OPTION = "COCOFOLD_MOST_UNPACKED", "--most-unpacked"
_BYTES_AT_ONCE = 1 << 22


def most_unpacked(usual: int) -> int:
    """Bytes to which a file may unpack: as many as usual, or as the user allows (in GB)."""
    given = os.environ.get(UNPACKED_VARIABLE)
    if not given:
        return usual
    try:
        gigabytes = float(given)
    except ValueError:
        gigabytes = float("nan")
    require_within(f"{UNPACKED_OPTION} (or {UNPACKED_VARIABLE})", gigabytes, 0.001, 10**6)
    return int(gigabytes * 1e9)


def refuse_large(name: object, n_bytes: int, usual: int) -> None:
    """Refuse what takes more memory than a file may unpack to, before it is taken.

    Raises
    ------
    InputError
    """
    most = most_unpacked(usual)
    if n_bytes > most:
        raise InputError(
            f"{name}: unpacks to {n_bytes / 1e9:.2f} GB or more, and {most / 1e9:.2f} GB are allowed; if it is what it "
            f"should be, allow more: cocofold {UNPACKED_OPTION} {max(1, round(n_bytes / 1e9 * 2))} and then the command"
        )


def unpack_gzip(path: Path, name: object, usual: int) -> bytes:
    """Content of a file that gzip packed; refused as soon as it is larger than allowed, see ``refuse_large``."""
    parts, total = [], 0
    with gzip.open(path, "rb") as file:
        while part := file.read(_BYTES_AT_ONCE):
            total += len(part)
            refuse_large(name, total, usual)
            parts.append(part)
    return b"".join(parts)


def packing_program(start: bytes) -> str | None:
    """The program that packed a file which begins so, or None."""
    return next((program for magic, program in PROGRAM_OF_MAGIC.items() if start.startswith(magic)), None)


def require_folder(given: str, folder: Path, remedy: str) -> None:
    """Raise ``InputError`` if a folder is not there, or is a file, such as a packed folder; ``given`` names it."""
    if folder.is_dir():
        return
    if not folder.is_file():
        raise InputError(f"{given}: no such folder; {remedy}")
    with folder.open("rb") as file:
        is_packed = packing_program(file.read(8)) is not None
    found = "is packed, and no folder; unpack it and" if is_packed else "is a file, and no folder;"
    raise InputError(f"{given}: {found} {remedy}")


def require_finite(
    values: np.ndarray, label: str, path: Path, shown: Sequence[object] | np.ndarray | None = None
) -> np.ndarray:
    """Return (n,) or (n, k) numbers if all are finite.

    Parameters
    ----------
    values : (n,) or (n, k) float
    label : str
        The file's name of the column.
    path : Path
    shown : sequence of length n, optional
        What to quote in the message, the raw values of the file.

    Raises
    ------
    InputError
        Naming the first row, counted from 1, that is not finite.
    """
    import numpy as np  # here, since the command line reads this module at every start

    finite = np.isfinite(values)
    bad = np.flatnonzero(~(finite if finite.ndim == 1 else finite.all(axis=tuple(range(1, finite.ndim)))))
    if len(bad):
        value = (values if shown is None else shown)[bad[0]]
        raise InputError(
            f"{path}: row {bad[0] + 1} has {label} = {value} ({len(bad)} such rows); every value must be a finite "
            "number: remove these rows or repair them"
        )
    return values


# Option of all verbs that read images, and its help
SKIP_OPTION = "--skip-bad-images"
SKIP_HELP = "Leave out images that are empty or have pixels that are no signal, and list them."
_LONGEST_REASON = 300  # letters of what a library says
_UNEXPECTED_STATUS = 70  # EX_SOFTWARE of sysexits.h
# Options that say where a command writes; what goes wrong is told beside that
_PLACE_OPTIONS = ("--out", "--json")


class UnexpectedError(SystemExit):
    """Something that CoCoFold did not foresee, told in one message; ends the process with status 70.

    Parameters
    ----------
    error : BaseException
    version : str
        CoCoFold's.
    """

    def __init__(self, error: BaseException, version: str) -> None:
        super().__init__(_UNEXPECTED_STATUS)
        self._what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        self._log = _write_report(error, version)

    def __str__(self) -> str:
        how = f"please report it with {self._log}" if self._log else "please report it, with the command"
        return f"unexpected {self._what}; this is a defect of CoCoFold, {how}"


def _write_report(error: BaseException, version: str) -> Path | None:
    """A new file with the command and the traceback, beside the command's output or in the temporary folder."""
    lines = [
        f"CoCoFold {version}, Python {platform.python_version()}, {platform.platform()}",
        f"command: {sys.argv}",
        "",
        *traceback.format_exception(type(error), error, error.__traceback__),
    ]
    content = "\n".join(line.rstrip("\n") for line in lines).encode("utf-8", "backslashreplace") + b"\n"
    for folder in (*_places_beside_output(sys.argv), None):
        # Wherever it cannot be written, the next place may take it.
        with contextlib.suppress(OSError, ValueError):
            handle, name = tempfile.mkstemp(prefix="cocofold-error-", suffix=".log", dir=folder)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            return Path(name)
    return None


def _places_beside_output(arguments: list[str]) -> list[Path]:
    """The folder beside what the command writes, as the command line names it."""
    for place, argument in enumerate(arguments):
        option, _, value = argument.partition("=")
        if option in _PLACE_OPTIONS:
            value = value or next(iter(arguments[place + 1 :]), "")
            return [Path(value).absolute().parent] if value else []
    return []
