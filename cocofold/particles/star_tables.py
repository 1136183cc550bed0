"""The blocks of a STAR file as tables, with checks of the form of the file and of the values in its columns."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cocofold.system.errors import InputError

TEXT_LABELS = [
    "rlnImageName",
    "rlnMicrographName",
    "rlnOpticsGroupName",
    "rlnOddZernike",
    "rlnEvenZernike",
    "cocofoldCryosparcAberrations",
    "cocofoldScoredRings",
]
# Spellings of a number that is not there: of C and Python programs, and of pandas.
MISSING_NUMBERS = ["nan", "NaN", "<NA>"]
# Quotes and the sign of a comment mean something only at the start of a value, as in RELION: grid#2 is a name.
_SPECIAL_START = re.compile(r"(?:^|[ \t])[\"'#]")
_VALUE = re.compile(r"\"(?P<double>.*?)\"(?=[ \t]|$)|'(?P<single>.*?)'(?=[ \t]|$)|(?P<comment>#.*)|(?P<plain>[^ \t]+)")
# Stand for blanks within a quoted value and for an empty one while a row is split at blanks.
_BLANK, _TAB, _EMPTY = "\x1f", "\x1e", "\x1d"
# Ends every row while it is split, so that a value which is missing differs from one that is not a number.
_END_OF_ROW = " 0"


@dataclass(frozen=True)
class StarBlock:
    """One block of a STAR file.

    Attributes
    ----------
    path : Path
    name : str
        Without ``data_``.
    table : pandas.DataFrame
        Of a label that stands twice, the first column.
    repeated : tuple of str
        Labels that stand twice.
    has_rows : bool
        Whether it is a loop; otherwise each label has its value beside it.
    """

    path: Path
    name: str
    table: pd.DataFrame
    repeated: tuple[str, ...] = ()
    has_rows: bool = True

    def __contains__(self, label: str) -> bool:
        """Whether there is a column of this label; raises ``InputError`` if there are several."""
        if label in self.repeated:
            raise InputError(
                f"{self.path}: data_{self.name} has {label} twice, and which column counts is not said; "
                "remove one of them"
            )
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


def read_star_blocks(path: Path, as_text: bool = False) -> dict[str, StarBlock]:
    """All blocks of a STAR file by name.

    A comment may follow a block's name on its line (``data_optics # version 30001``). Text is UTF-8, or where it is
    not, Latin-1.

    Parameters
    ----------
    path : Path
    as_text : bool
        Keep every value as it is written, also numbers.

    Raises
    ------
    InputError
        If the file is missing, not text, not STAR, lists particles or optics groups in several blocks, or has rows
        that do not fit its labels.
    """
    split = _split_blocks(path, _read_lines(path))
    if not split:
        raise InputError(f"{path}: not a STAR file (no line starts with data_)")
    found = [_read_block(path, name, lines, as_text) for name, lines in split if lines]
    if not found:
        raise InputError(f"{path}: not readable as STAR (no block has labels); give the file as its program wrote it")
    _refuse_joined_files(path, found)
    blocks: dict[str, StarBlock] = {}
    for block in found:
        if block.name not in blocks or len(block):
            blocks[block.name] = block
    return blocks


def find_particle_and_optics_blocks(path: Path, blocks: dict[str, StarBlock]) -> tuple[StarBlock, StarBlock | None]:
    """The block of the particles and that of optics groups, which RELION 3.0 does not have.

    Raises
    ------
    InputError
        If no block lists images.
    """
    with_images = [block for block in blocks.values() if "rlnImageName" in block]
    if "particles" in blocks:
        particles = blocks["particles"]
    elif with_images:
        particles = next((block for block in with_images if len(block)), with_images[0])
    else:
        found = ", ".join(f"data_{name}" for name in blocks)
        raise InputError(
            f"{path}: no block has rlnImageName (blocks found: {found}); give the STAR of a particle set, "
            "such as run_data.star of a 3D refinement"
        )
    return particles, blocks.get("optics")


def require_finite(values: np.ndarray, label: str, path: Path, shown: Sequence[object] | None = None) -> np.ndarray:
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
    finite = np.isfinite(values)
    bad = np.flatnonzero(~(finite if finite.ndim == 1 else finite.all(axis=tuple(range(1, finite.ndim)))))
    if len(bad):
        value = (values if shown is None else shown)[bad[0]]
        raise InputError(
            f"{path}: row {bad[0] + 1} has {label} = {value} ({len(bad)} such rows); every value must be a finite "
            "number: remove these rows or repair them"
        )
    return values


def require_half_sets(values: np.ndarray, label: str, path: Path) -> np.ndarray | None:
    """Return (n,) int half sets, 1 or 2, or 0 where a particle is in neither; None if no particle is in one.

    Parameters
    ----------
    values : (n,) float
        What is below 1 or no number stands for neither.
    label : str
        The file's name of the column.
    path : Path

    Raises
    ------
    InputError
        If a value is above 0 and neither 1 nor 2.
    """
    values = np.where(values > 0, values, 0.0)
    bad = np.flatnonzero(~np.isin(values, (0, 1, 2)))
    if len(bad):
        raise InputError(
            f"{path}: row {bad[0] + 1} has {label} for half set {values[bad[0]]:g}; half sets are 1 and 2: "
            "remove the column or repair it"
        )
    return values.astype(int) if values.any() else None


def parse_number_list(block: StarBlock, label: str, text: object) -> tuple[float, ...]:
    """``[0.1,0,-2]`` as numbers."""
    stripped = str(text).strip()
    try:
        if not (stripped.startswith("[") and stripped.endswith("]")):
            raise ValueError
        values = tuple(float(part) for part in stripped[1:-1].split(",") if part.strip())
        if not np.isfinite(values).all():
            raise ValueError
    except ValueError:
        raise InputError(
            f"{block.path}: {label} is {stripped}; a list of finite numbers such as [0.1,0,-2] is needed"
        ) from None
    return values


def _read_lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}); check the path and its permissions") from error
    if b"\x00" in content:
        raise InputError(f"{path}: not a STAR file (it holds binary zeros)")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    # Only these ends of lines: str.splitlines also splits at letters of Latin-1.
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _split_blocks(path: Path, lines: list[str]) -> list[tuple[str, list[str]]]:
    """Name of each block, and its lines after the first, stripped: from its loop or first label on, without
    those that are empty or comments."""
    blocks: list[tuple[str, list[str]]] = []
    for line in lines:
        stripped = line.strip(" \t")
        if stripped.startswith("data_"):
            name, *rest = re.split(r"[ \t]+", stripped, maxsplit=1)
            if rest and not rest[0].startswith("#"):
                raise InputError(
                    f"{path}: a row starts with {name}, and STAR keeps data_ for the start of a block; "
                    "put another column first"
                )
            blocks.append((name.removeprefix("data_").split("#")[0], []))
        elif blocks and (blocks[-1][1] or stripped.startswith(("loop_", "_"))) and stripped[:1] not in ("", "#"):
            blocks[-1][1].append(stripped)
    return blocks


def _read_block(path: Path, name: str, lines: list[str], as_text: bool) -> StarBlock:
    """A block from its lines, of which the first is the loop's or that of a label."""
    has_rows = lines[0].startswith("loop_")
    if has_rows:
        after = next((n for n, line in enumerate(lines[1:], start=1) if not line.startswith("_")), len(lines))
        heads, rows = lines[1:after], lines[after:]
    else:
        pairs = [_values_of(line) for line in itertools.takewhile(lambda line: not line.startswith("loop_"), lines)]
        wrong = next((pair for pair in pairs if len(pair) != 2), None)
        if wrong is not None:
            raise InputError(
                f"{path}: not readable as STAR (data_{name} has {len(wrong) - 1} values for {wrong[0]}); every label "
                "outside of a loop needs one value"
            )
        heads, rows = [pair[0] for pair in pairs], [" ".join(pair[1] for pair in pairs)]
    labels = [re.split(r"[ \t]", line, maxsplit=1)[0].removeprefix("_") for line in heads]
    table = _table_of_rows(path, name, labels, rows, as_text)
    repeated = tuple(label for label, count in Counter(labels).items() if count > 1)
    return StarBlock(path, name, table.loc[:, ~table.columns.duplicated()], repeated, has_rows)


def _values_of(row: str) -> list[str]:
    """Values of a row, without quotes and comment; stand-ins keep them in one piece."""
    values = []
    for match in _VALUE.finditer(row):
        if match["comment"] is None:
            value = next(match[kind] for kind in ("plain", "double", "single") if match[kind] is not None)
            values.append(value.replace(" ", _BLANK).replace("\t", _TAB) or _EMPTY)
    return values


def _table_of_rows(path: Path, name: str, labels: list[str], rows: list[str], as_text: bool) -> pd.DataFrame:
    # The letters are looked for first, which is quicker.
    quoted = any(letter in row for letter in "\"'#" for row in rows) and any(map(_SPECIAL_START.search, rows))
    if quoted:
        rows = [" ".join(_values_of(row)) if _SPECIAL_START.search(row) else row for row in rows]
    if not rows:
        return pd.DataFrame(np.zeros((0, len(labels))), columns=labels)
    text = {number for number, label in enumerate(labels) if label in TEXT_LABELS}
    numbers = [number for number in range(len(labels) + 1) if number not in text]
    kinds: dict[str, Any] = {"dtype": str, "na_filter": False}
    if not as_text:
        kinds = {"dtype": dict.fromkeys(text, str), "na_values": dict.fromkeys(numbers, MISSING_NUMBERS)}
    try:
        table = pd.read_csv(
            io.StringIO("".join(f"{row}{_END_OF_ROW}\n" for row in rows)),
            sep=r"\s+",
            header=None,
            quoting=csv.QUOTE_NONE,
            keep_default_na=False,
            **kinds,
            low_memory=False,
            engine="c",
        )
    except ValueError as error:  # among them the parser's own, of rows that are too long
        _refuse_uneven_rows(path, name, labels, rows)
        raise InputError(f"{path}: data_{name} is not readable as STAR ({error}); repair the file") from error
    last = table.iloc[:, -1]
    if table.shape[1] != len(labels) + 1 or (last.isna() | (last.astype(str) == "")).any():
        _refuse_uneven_rows(path, name, labels, rows)
    table = table.iloc[:, : len(labels)]
    table.columns = pd.Index(labels)
    if quoted:
        meant = str.maketrans({_BLANK: " ", _TAB: "\t", _EMPTY: ""})
        is_text = [not pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]
        for number in np.flatnonzero(is_text):
            column = table.iloc[:, number].map(
                lambda value: value.translate(meant) if isinstance(value, str) else value
            )
            table.isetitem(number, column)
    return table


def _refuse_uneven_rows(path: Path, name: str, labels: list[str], rows: list[str]) -> None:
    """Refuse rows that have not one value for each label."""
    counts = np.array([len(re.findall(r"[^ \t]+", row)) for row in rows])
    short = np.flatnonzero(counts < len(labels))
    if len(short):
        raise InputError(
            f"{path}: row {short[0] + 1} of data_{name} has no value for its last label, "
            f"{labels[-1]} ({len(short)} such rows); the row is cut short: repair the file"
        )
    long = np.flatnonzero(counts > len(labels))
    if len(long):
        raise InputError(
            f"{path}: not readable as STAR (row {long[0] + 1} of data_{name} has {counts[long[0]]} values for "
            f"{len(labels)} labels, {len(long)} such rows); every row needs one value for each label of its block"
        )


def _refuse_joined_files(path: Path, blocks: list[StarBlock]) -> None:
    """Refuse several lists of particles, or different ones of optics groups, of which all but one would be lost."""
    lists = [block for block in blocks if len(block) and "rlnImageName" in block.table.columns]
    optics = [block for block in blocks if len(block) and block.name == "optics"]
    if len(lists) < 2 and all(block.table.equals(optics[0].table) for block in optics):
        return
    found = lists if len(lists) > 1 else optics
    listed = ", ".join(f"data_{block.name} with {len(block)} rows" for block in found)
    if len({block.name for block in found}) > 1:
        raise InputError(f"{path}: several blocks list images ({listed}); give a file with one of them")
    times = "twice" if len(found) == 2 else f"{len(found)} times"
    raise InputError(
        f"{path}: data_{found[0].name} is there {times}, as where files were appended to one another ({listed}); "
        "join them with relion_star_handler --combine, or give one of them"
    )
