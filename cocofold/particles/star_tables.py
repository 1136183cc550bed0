"""The blocks of a STAR file as tables, with checks of the form of the file and of the values in its columns."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cocofold.system.errors import InputError, require_finite

TEXT_LABELS = [
    "rlnImageName",
    "rlnMicrographName",
    "rlnOpticsGroupName",
    "rlnOddZernike",
    "rlnEvenZernike",
    "cocofoldCryosparcAberrations",
    "cocofoldScoredRings",
]
# Beside those of optics and tilt series, all labels that are used; other columns of particles are not read, but for the
# last, which tells whether rows are whole.
_USED_LABELS = re.compile(
    r"rlnAngle(Rot|Tilt|Psi)|rlnOrigin[XYZ](Angst)?|rlnDefocus(U|V|Angle)|rlnPhaseShift|rlnCtf(Bfactor|Scalefactor|Image)"
    r"|rln(ImageName|RandomSubset|OpticsGroup|IsFlip|GroupName|MicrographPreExposure|ClassNumber|Voltage)"
    r"|rln(SphericalAberration|AmplitudeContrast|ImageSize|ImageDimensionality|ImagePixelSize|DetectorPixelSize)"
    r"|rln(Magnification|BeamTilt[XY]|OddZernike|EvenZernike|MagMat[01][01]|CtfDataAre.*|OpticsGroupName)|cocofold.*"
)
# Spellings of a number that is not there: of C and Python programs, and of pandas.
MISSING_NUMBERS = ["nan", "NaN", "<NA>"]
# Quotes and the sign of a comment mean something only at the start of a value, as in RELION: grid#2 is a name.
_SPECIAL = re.compile(
    rb"\"(?<![^ \t\n]\")(?P<double>.*?)\"(?=[ \t\n]|\Z)|'(?<![^ \t\n]')(?P<single>.*?)'(?=[ \t\n]|\Z)"
    rb"|#(?<![^ \t\n]#).*"
)
# Stand for blanks within a quoted value and for an empty one while a row is split at blanks.
_BLANK, _TAB, _EMPTY = "\x1f", "\x1e", "\x1d"
_STAND_INS = bytes.maketrans(b" \t", (_BLANK + _TAB).encode())
# Rows are read in parts of this size, by so many threads: enough for each of them, and little beside the file itself.
_BYTES_AT_ONCE, _MOST_THREADS, _MOST_LABELS, _MOST_BLOCKS = 1 << 23, 4, 2000, 5000


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
        return require_finite(values, label, self.path, shown=column.to_numpy())


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
    content, encoding = _read_content(path)
    split = _split_blocks(path, content, encoding)
    if not 0 < len(split) <= _MOST_BLOCKS:
        raise InputError(f"{path}: not a STAR file (no line starts with data_, or more than {_MOST_BLOCKS} do)")
    found = [_read_block(path, content, encoding, text, as_text) for text in split if text.lines]
    if not found:
        raise InputError(f"{path}: not readable as STAR (no block has labels); give the file as its program wrote it")
    _refuse_joined_files(path, found)
    blocks: dict[str, StarBlock] = {}
    for block in found:
        if block.name not in blocks or len(block):
            blocks[block.name] = block
    return blocks


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


def _read_content(path: Path) -> tuple[bytes, str]:
    """A file with newlines as its only ends of lines, and its encoding."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}); check the path and its permissions") from error
    if b"\x00" in content:
        raise InputError(f"{path}: not a STAR file (it holds binary zeros)")
    if content.startswith(codecs.BOM_UTF8):
        content = content[len(codecs.BOM_UTF8) :]
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        content.isascii() or content.decode()
    except UnicodeDecodeError:
        return content, "latin-1"
    return content, "utf-8"


@dataclass(frozen=True)
class _BlockText:
    """A block before its values are read.

    Attributes
    ----------
    name : str
    lines : list of str
        From its loop or first label to the last label, stripped, without those that are empty or comments.
    rows : slice
        Where in the file its rows are.
    """

    name: str
    lines: list[str]
    rows: slice


def _split_blocks(path: Path, content: bytes, encoding: str) -> list[_BlockText]:
    starts = _lines_that_start_with(b"data_", content)
    blocks = []
    for start, end in zip(starts, [*starts[1:], len(content)]):
        head, place = _next_line(content, start)
        name, *rest = re.split(r"[ \t]+", head.decode(encoding), maxsplit=1)
        if rest and not rest[0].startswith("#"):
            raise InputError(
                f"{path}: a row starts with {name}, and STAR keeps data_ for the start of a block; "
                "put another column first"
            )
        lines: list[str] = []
        while place < end:
            line, after = _next_line(content, place)
            if lines and lines[0].startswith("loop_") and line[:1] not in (b"", b"#", b"_"):
                break
            if (lines or line.startswith((b"loop_", b"_"))) and line[:1] not in (b"", b"#"):
                lines.append(line.decode(encoding))
            place = after
        blocks.append(_BlockText(name.removeprefix("data_").split("#")[0], lines, slice(min(place, end), end)))
    return blocks


def _lines_that_start_with(word: bytes, content: bytes) -> list[int]:
    """Where lines begin whose first letters but blanks are these."""
    found, place = [], content.find(word)
    while place >= 0:
        line = content.rfind(b"\n", 0, place) + 1
        if not content[line:place].strip(b" \t"):
            found.append(line)
        place = content.find(word, place + 1)
    return found


def _next_line(content: bytes, start: int) -> tuple[bytes, int]:
    """The line that begins somewhere, without blanks around it, and where the next one begins."""
    end = content.find(b"\n", start)
    end = len(content) if end < 0 else end
    return content[start:end].strip(b" \t"), end + 1


def _read_block(path: Path, content: bytes, encoding: str, text: _BlockText, as_text: bool) -> StarBlock:
    """The values of a block that has labels."""
    name, lines = text.name, text.lines
    if max(len(lines), len(_next_line(content, text.rows.start)[0].split())) > _MOST_LABELS:
        raise InputError(f"{path}: data_{name} has more than {_MOST_LABELS} labels, or values in a row; repair it")
    has_rows = lines[0].startswith("loop_")
    if has_rows:
        heads, parts = lines[1:], list(_parts_of(content, text.rows))
    else:
        if any(line.startswith("loop_") for line in lines):
            raise InputError(
                f"{path}: not readable as STAR (data_{name} has values beside labels, and a loop); "
                "put the loop into a block of its own"
            )
        pairs = [_values_of(line) for line in lines]
        wrong = next((pair for pair in pairs if len(pair) != 2), None)
        if wrong is not None:
            raise InputError(
                f"{path}: not readable as STAR (data_{name} has {len(wrong) - 1} values for {wrong[0]}); every label "
                "outside of a loop needs one value"
            )
        heads, parts = [pair[0] for pair in pairs], [" ".join(pair[1] for pair in pairs).encode(encoding)]
    labels = [re.split(r"[ \t]", line, maxsplit=1)[0].removeprefix("_") for line in heads]
    table = _table_of_rows(path, name, labels, parts, encoding, as_text)
    repeated = tuple(label for label, count in Counter(labels).items() if count > 1)
    return StarBlock(path, name, table.loc[:, ~table.columns.duplicated()], repeated, has_rows)


def _values_of(row: str) -> list[str]:
    """Values of a row, without quotes and comment; stand-ins keep them in one piece."""
    return re.findall(r"[^ \t]+", _unquoted(row.encode()).decode())


def _unquoted(rows: bytes) -> bytes:
    """Rows without quotes and comments; stand-ins keep what was quoted in one piece."""

    def plain(match: re.Match[bytes]) -> bytes:
        value = next((match[kind] for kind in ("double", "single") if match[kind] is not None), None)
        return b"" if value is None else value.translate(_STAND_INS) or _EMPTY.encode()

    # The letters are looked for first, which is quicker.
    return _SPECIAL.sub(plain, rows) if any(sign in rows for sign in (b'"', b"'", b"#")) else rows


def _table_of_rows(
    path: Path, name: str, labels: list[str], parts: list[bytes], encoding: str, as_text: bool
) -> pd.DataFrame:
    if not parts:
        return pd.DataFrame(np.zeros((0, len(labels))), columns=labels)
    used = list(range(len(labels))) if as_text else _used_columns(labels)
    kinds: dict[str, Any] = {"dtype": str, "na_filter": False}
    if not as_text:
        text = [number for number in used if labels[number] in TEXT_LABELS]
        numbers = [number for number in used if number not in text]
        kinds = {"dtype": dict.fromkeys(text, str), "na_values": dict.fromkeys(numbers, MISSING_NUMBERS)}

    def read(part: bytes) -> pd.DataFrame:
        return pd.read_csv(
            io.BytesIO(part),
            encoding=encoding,
            sep=r"\s+",
            header=None,
            usecols=used,
            quoting=csv.QUOTE_NONE,
            keep_default_na=False,
            low_memory=False,
            engine="c",
            **kinds,
        )

    try:
        # The parser is C, and lets other threads run meanwhile.
        with ThreadPoolExecutor(min(len(parts), _MOST_THREADS)) as threads:
            tables = list(threads.map(read, parts))
    except (ValueError, OverflowError) as error:  # among them the parser's own, of rows or numbers that are too long
        _refuse_uneven_rows(path, name, labels, parts, encoding)
        raise InputError(f"{path}: data_{name} is not readable as STAR ({error}); repair the file") from error
    # A row that is cut short has no last value, which may also be a number that is not there.
    if not labels or any(
        _lacks_values(table.iloc[:, -1]) or _count_values(part) != len(table) * len(labels)
        for table, part in zip(tables, parts)
    ):
        _refuse_uneven_rows(path, name, labels, parts, encoding)
    table = pd.concat(tables, ignore_index=True) if len(tables) > 1 else tables[0]
    table.columns = pd.Index([labels[number] for number in used])
    if any(stand_in.encode() in part for part in parts for stand_in in (_BLANK, _TAB, _EMPTY)):
        meant = str.maketrans({_BLANK: " ", _TAB: "\t", _EMPTY: ""})
        is_text = [not pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]
        for number in np.flatnonzero(is_text):
            column = table.iloc[:, number].map(
                lambda value: value.translate(meant) if isinstance(value, str) else value
            )
            table.isetitem(number, column)
    return table


def _used_columns(labels: list[str]) -> list[int]:
    """Numbers of the columns that are read: all where they may be of a tilt series."""
    if "rlnImageName" not in labels or any(label.startswith("rlnTomo") for label in labels):
        return list(range(len(labels)))
    last = len(labels) - 1
    return [number for number, label in enumerate(labels) if number == last or _USED_LABELS.fullmatch(label)]


def _lacks_values(column: pd.Series) -> bool:
    is_number = pd.api.types.is_numeric_dtype(column.dtype)
    return bool(column.isna().any() or (not is_number and (column == "").any()))


def _count_values(rows: bytes) -> int:
    """Number of values between blanks and ends of lines."""
    letters = np.frombuffer(rows, dtype=np.uint8)
    # The stand-ins are values, and greater than an end of a line.
    is_blank = (letters <= 13) | (letters == 32)
    return int(np.count_nonzero(is_blank[:-1] & ~is_blank[1:])) + int(not is_blank[0])


def _parts_of(content: bytes, rows: slice) -> Iterator[bytes]:
    """Whole rows, some megabytes at a time, without quotes and comments; no part is empty."""
    start = rows.start
    while start < rows.stop:
        end = content.find(b"\n", start + _BYTES_AT_ONCE, rows.stop)
        end = rows.stop if end < 0 else end + 1
        part = _unquoted(content[start:end])
        if not part.isspace():
            yield part
        start = end


def _refuse_uneven_rows(path: Path, name: str, labels: list[str], parts: Sequence[bytes], encoding: str) -> None:
    """Refuse rows that have not one value for each label."""
    rows = (row for part in parts for row in part.decode(encoding).split("\n"))
    counts = np.array([count for row in rows if (count := len(re.findall(r"[^ \t]+", row)))])
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
