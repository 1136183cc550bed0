"""Maps as other programs write them: modes, orders of bytes, headers and packings, without stamp or pixel size."""

from __future__ import annotations

import bz2
import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cocofold.mapfit.density_map import read_map
from cocofold.system.errors import InputError

# Whole numbers, which every mode holds
_VALUES = np.random.default_rng(0).integers(0, 100, (10, 12, 14))
_STAMP, _CELL, _COUNTS = 208, 40, 28  # where the header has MAP, the cell's lengths and its numbers of voxels


def _plain(kind: str, path: Path) -> bytearray:
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(_VALUES.astype("f4" if kind in ("stack", "long header", "swapped") else kind))
        if kind == "stack":
            file.set_data(_VALUES[None].astype("f4"))
        if kind == "long header":
            file.set_extended_header(np.zeros(300, "V4"))
        file.voxel_size = 2.0
    content = bytearray(path.read_bytes())
    if kind == "swapped":
        # Words of four bytes, but for the stamps of format and machine, and ten lines of text
        words = np.frombuffer(bytes(content), "<u4").byteswap().tobytes()
        content[:_STAMP], content[1024:] = words[:_STAMP], words[1024:]
        content[212:214], content[216:224] = b"\x11\x11", words[216:224]
    return content


@pytest.mark.parametrize("kind", ["f4", "i1", "i2", "u2", "f2", "long header", "stack", "swapped"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress], ids=["plain", "gzip", "bzip2"])
@pytest.mark.parametrize("stamp", [b"MAP ", b"MAP\0", b"\0\0\0\0", b"    ", b"EMAN"])
def test_modes_packings_and_stamps(kind: str, pack: Callable[[bytes], bytes], stamp: bytes, tmp_path: Path) -> None:
    path = tmp_path / "map.mrc"
    content = _plain(kind, path)
    content[_STAMP : _STAMP + 4] = stamp
    path.write_bytes(pack(bytes(content)))
    found = read_map(path)
    np.testing.assert_array_equal(found.values, _VALUES)
    assert found.pixel_size_angstrom == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (_CELL, struct.pack("<3f", 0, 0, 0)),
        (_CELL, struct.pack("<3f", np.nan, np.nan, np.nan)),
        (_CELL, struct.pack("<3f", -28, -24, -20)),
        (_CELL, struct.pack("<3f", 28, 24, 0)),
        (_COUNTS, struct.pack("<3i", 0, 0, 0)),
        (_COUNTS, struct.pack("<3i", -1, -1, -1)),
    ],
)
@pytest.mark.parametrize("kind", ["f4", "stack"])
def test_headers_without_a_pixel_size(place: int, words: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "map.mrc"
    content = _plain(kind, path)
    content[place : place + 12] = words
    path.write_bytes(content)
    if kind == "stack" and place == _COUNTS:
        # Nothing else tells how many volumes there are.
        with pytest.raises(InputError, match="cannot be read as a map"):
            read_map(path)
        return
    with pytest.raises(InputError, match=r"has no pixel size.*give it with --map-pixel-size"):
        read_map(path, pixel_size_option="--map-pixel-size")
    found = read_map(path, 2.0)
    np.testing.assert_array_equal(found.values, _VALUES)
    assert found.pixel_size_angstrom == 2.0
