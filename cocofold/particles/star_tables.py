"""The blocks of a STAR file as tables, with checks of the form of the file."""

from __future__ import annotations

import linecache
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import starfile

from cocofold.particles.particle_set import require_finite
from cocofold.system.errors import InputError

ROW_STARTING_WITH_DATA = re.compile(rb"^[ \t]*(data_\S*)[ \t]+[^#\s]", re.MULTILINE)
TEXT_LABELS = [
    "rlnImageName",
    "rlnMicrographName",
    "rlnOpticsGroupName",
    "rlnOddZernike",
    "rlnEvenZernike",
    "cocofoldCryosparcAberrations",
    "cocofoldScoredRings",
]


@dataclass(frozen=True)
class StarBlock:
    """One block of a STAR file.

    Attributes
    ----------
    path : Path
    name : str
        Without ``data_``.
    table : pandas.DataFrame
    """

    path: Path
    name: str
    table: pd.DataFrame

    def __contains__(self, label: str) -> bool:
        return label in self.table.columns

    def __len__(self) -> int:
        return len(self.table)

    def numbers(self, label: str, default: float | None = None) -> np.ndarray:
        """A column as (n,) float64, all finite; ``default`` throughout if the block has no such column.

        Raises
        ------
        InputError
            If a value is not a finite number.
        """
        if label not in self and default is not None:
            return np.full(len(self), default)
        column = self.table[label]
        values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
        return require_finite(values, label, self.path, shown=column.tolist())


def read_star_blocks(path: Path) -> dict[str, StarBlock]:
    """All blocks of a STAR file by name.

    Raises
    ------
    InputError
        If the file is missing, not text, not STAR, or has rows that do not fit its labels.
    """
    try:
        content = path.read_bytes()
        content.decode()
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}); check the path and its permissions") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a STAR file (byte {error.start} is not UTF-8 text)") from error
    if b"\x00" in content:
        raise InputError(f"{path}: not a STAR file (it holds binary zeros)")
    row = ROW_STARTING_WITH_DATA.search(content)
    if row:
        raise InputError(
            f"{path}: a row starts with {row[1].decode()}, and STAR keeps data_ for the start of a block; "
            "put another column first"
        )
    linecache.checkcache(str(path))  # starfile reads through this cache, which a failed read leaves filled
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.DtypeWarning)
            parsed = starfile.read(path, always_dict=True, parse_as_string=TEXT_LABELS)
    except Exception as error:  # the parser has no exception of its own for malformed text
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{path}: not readable as STAR ({reason}); every row needs one value for each label of its block"
        ) from error
    blocks = {}
    for title, parsed_block in parsed.items():
        name = block_name(title)
        table = pd.DataFrame([parsed_block]) if isinstance(parsed_block, dict) else parsed_block
        blocks[name] = StarBlock(path, name, table)
        _refuse_short_rows(blocks[name])
    if not blocks:
        raise InputError(f"{path}: not a STAR file (no line starts with data_)")
    return blocks


def block_name(title: str) -> str:
    """Name of a block without the comment that may follow it on its line, as in ``data_optics # version 30001``."""
    return title.split("#")[0].strip()


def _refuse_short_rows(block: StarBlock) -> None:
    """Refuse rows with fewer values than labels, which the parser fills up at their end."""
    if len(block) == 0:
        return
    last = block.table.iloc[:, -1]
    short = np.flatnonzero((last.isna() | (last.astype(str) == "")).to_numpy())
    if len(short):
        raise InputError(
            f"{block.path}: row {short[0] + 1} of data_{block.name} has no value for its last label, "
            f"{block.table.columns[-1]} ({len(short)} such rows); the row is cut short: repair the file"
        )
