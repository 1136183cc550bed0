"""Input that cannot be used: its one exception, a check, and how packed files begin."""

from __future__ import annotations

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
