"""CryoSPARC .cs files as tables: the NumPy form and the newer column-wise form."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from cocofold.errors import InputError

NUMPY_MAGIC = b"\x93NUMPY"
COLUMNS_MAGIC = b"\x95CSDAT"


def read_cs_table(path: Path) -> dict[str, np.ndarray]:
    """All columns of a .cs file by name; text as ``str``.

    Raises
    ------
    InputError
        If the file is missing, damaged, or of neither form.
    """
    try:
        with open(path, "rb") as file:
            magic = file.read(6)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}); check the path and its permissions") from error
    if magic not in (NUMPY_MAGIC, COLUMNS_MAGIC):
        raise InputError(
            f"{path}: not a CryoSPARC file (it starts with {magic!r}); give a .cs file as CryoSPARC wrote it"
        )
    try:
        columns = _read_numpy(path) if magic == NUMPY_MAGIC else _read_columns(path)
    except Exception as error:  # NumPy's and JSON's readers raise whatever their pieces raise
        raise InputError(f"{path}: damaged or not a particle table ({error}); export it again") from error
    return {name: _as_text(values) if values.dtype.kind == "S" else values for name, values in columns.items()}


def _read_numpy(path: Path) -> dict[str, np.ndarray]:
    table = np.load(path, allow_pickle=False)
    if table.dtype.names is None:
        raise ValueError("an array without named columns")
    if table.ndim != 1:
        raise ValueError(f"an array of {table.ndim} dimensions")
    return {name: table[name] for name in table.dtype.names}


def _read_columns(path: Path) -> dict[str, np.ndarray]:
    """Read the column-wise form.

    After the magic: a JSON header preceded by its length (uint32, little-endian), which lists length, columns and
    those compressed; each column, preceded by its length in bytes; to the end, texts ended by zero bytes. A column of
    texts holds the places of its texts there as uint64. Compression is that of LZ4 blocks.
    """
    content = path.read_bytes()
    at = len(COLUMNS_MAGIC)

    def take() -> bytes:
        nonlocal at
        (size,) = struct.unpack_from("<I", content, at)
        part = content[at + 4 : at + 4 + size]
        if len(part) < size:
            raise ValueError("the file is cut short")
        at += 4 + size
        return part

    header = json.loads(take())
    length = int(header["length"])
    compression = header.get("compression")
    if compression not in (None, "lz4"):
        raise ValueError(f"compression {compression}, of which only lz4 is read")
    compressed = set(header.get("compressed_fields") or ())
    raw = {}
    for name, kind, *shape in header["dtype"] if length else ():
        is_text = kind.endswith("O")
        dtype = np.dtype("<u8" if is_text else kind)
        full_shape = (length, *np.atleast_1d(shape[0] if shape else []).astype(int).tolist())
        size = int(np.prod(full_shape)) * dtype.itemsize
        stored = take()
        data = lz4_block(stored, size) if name in compressed else stored
        if len(data) != size:
            raise ValueError(f"column {name} has {len(data)} bytes instead of {size}")
        raw[name] = (is_text, np.frombuffer(data, dtype).reshape(full_shape))
    texts = content[at:]
    return {name: _texts_at(texts, values) if is_text else values for name, (is_text, values) in raw.items()}


def _texts_at(texts: bytes, places: np.ndarray) -> np.ndarray:
    unique, inverse = np.unique(places, return_inverse=True)
    if len(unique) and unique[-1] >= len(texts):
        raise ValueError("a text lies beyond the end of the file")
    values = [texts[place : texts.index(b"\x00", place)].decode() for place in unique.tolist()]
    return np.array(values, dtype=str)[inverse.reshape(places.shape)]


def _as_text(values: np.ndarray) -> np.ndarray:
    return np.char.decode(values, "utf-8", "replace")


def lz4_block(data: bytes, size: int) -> bytes:
    """Decompress one LZ4 block.

    A block is a chain of sequences: a token, whose upper four bits count literal bytes and lower four bits the length
    of a match less 4 (15 goes on in further bytes up to one below 255); the literals; the distance back to the match
    (uint16, little-endian). The last sequence ends with its literals.

    Parameters
    ----------
    data : bytes
    size : int
        Bytes after decompression.

    Raises
    ------
    ValueError
        If the block is damaged.
    """
    out = bytearray()
    at = 0

    def extended(length: int) -> int:
        nonlocal at
        while length >= 15:
            byte = data[at]
            at += 1
            length += byte
            if byte < 255:
                break
        return length

    try:
        while at < len(data):
            token = data[at]
            at += 1
            literals = extended(token >> 4)
            out += data[at : at + literals]
            at += literals
            if at >= len(data):
                break
            distance = data[at] | data[at + 1] << 8
            at += 2
            match = extended(token & 15) + 4
            start = len(out) - distance
            if distance == 0 or start < 0 or len(out) + match > size:
                raise ValueError("damaged compression")
            # A match may run into what it writes: the piece then repeats.
            piece = bytes(out[start : start + match])
            out += (piece * (match // len(piece) + 1))[:match]
    except IndexError:
        raise ValueError("damaged compression") from None
    if len(out) != size:
        raise ValueError(f"{len(out)} bytes after decompression instead of {size}")
    return bytes(out)
