"""Input that cannot be used: its one exception, checks of numbers, and how packed files begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

# Programs that pack files, by the bytes with which such files begin
PROGRAM_OF_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf": "7z",
}


class InputError(Exception):
    """Input that cannot be used; its message says what was found, what is allowed and what to do.

    The command line prints the message and exits with status 2, without a traceback.
    """


def require_within(option: str, value: float, least: float, most: float) -> None:
    """Refuse a number outside a range, in the words of the command line.

    Raises
    ------
    InputError
    """
    if not least <= value <= most:
        raise InputError(f"{option} {value:g}: must be from {least:g} to {most:g}")


def packing_program(start: bytes) -> str | None:
    """The program that packed a file which begins so, or None."""
    return next((program for magic, program in PROGRAM_OF_MAGIC.items() if start.startswith(magic)), None)


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
