"""Files that a command is to write: whether it can, before it begins."""

from __future__ import annotations

import os
from pathlib import Path

from cocofold.errors import InputError


def check_writable(option: str, path: Path | None) -> None:
    """Refuse a file that could not be written; None is none.

    Raises
    ------
    InputError
        In the words of the command line.
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
