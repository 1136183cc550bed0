"""MRC files: stacks of particle images (checked by their headers, read slice by slice), and maps.

Stacks are read by code of our own, which takes any byte order and files without a stamp, keeps nothing mapped into
memory, and names what is damaged. Maps are read and written by ``mrcfile``.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import math
import os
import shlex
import threading
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np

from cocofold.system.atomic_files import atomic_path
from cocofold.system.errors import MOST_ARRAY_BYTES, SKIP_OPTION, InputError, packing_program, refuse_large

# Length of the fixed header (MRC2014); an extended header may follow
HEADER_BYTES = 1024
# Places of values in the header, in words of four bytes (MRC2014), and of the machine stamp in bytes.
_NX, _NY, _NZ, _MODE, _NSYMBT, _IMOD_STAMP_WORD, _IMOD_FLAGS_WORD = 0, 1, 2, 3, 23, 38, 39
_MACHINE_STAMP_BYTE, _BIG_ENDIAN_STAMP = 212, 0x11
# Images with longer sides than this are taken for headers in the other byte order; cameras have up to 12,000 pixels.
MAX_IMAGE_SIDE = 1 << 15
# Bytes that one call asks the system for; Python notices a signal only between two calls.
MAX_BYTES_PER_READ = 1 << 24
# Modes of pixels by their number: NumPy types of those that are read (MRC2014), and names of the others
DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
UNSUPPORTED_MODES = {3: "complex int16", 4: "complex float32", 5: "int8 of an old kind", 7: "int32", 101: "4-bit"}
PACKED_MAPS = ("gzip", "bzip2")  # read as they are
# Programs whose archives hold several files, and what unpacks them
_ARCHIVERS = {"zip": "unzip", "7z": "7z x"}
COMPRESSED_ENDS = (".gz", ".bz2", ".zst", ".xz")
IMOD_STAMP = 1146047817  # the letters IMOD; bit 0 of the flags then says that bytes are signed
_BYTES_ARE_SIGNED = 1


@dataclass(frozen=True)
class StackHeader:
    """What the header of an MRC stack says: images, their pixels, the pixels' type, bytes before the first of them."""

    count: int
    height: int
    width: int
    dtype: np.dtype
    offset: int


def read_stack_header(path: Path) -> StackHeader:
    """Read and check the header of an MRC stack.

    The header's origin, voxel size and axis order are not used, as in RELION; neither are the MAP string and the
    machine stamp, which older files lack: the byte order is the one in which the sizes make sense.

    Raises
    ------
    InputError
        If the file is missing, compressed, not MRC, of a pixel type that is not read, or shorter than it says.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(HEADER_BYTES)
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}); check the path and its permissions") from error
    program = packing_program(raw)
    if program is not None:
        raise InputError(f"{path}: compressed with {program}; only plain stacks are read: {unpack_remedy(path)}")
    if len(raw) < HEADER_BYTES:
        raise InputError(f"{path}: {len(raw)} bytes, less than the {HEADER_BYTES} of an MRC header; copy it again")
    order = _byte_order(path, raw)
    words = np.frombuffer(raw, dtype=f"{order}i4")
    width, height, count, mode = (int(words[place]) for place in (_NX, _NY, _NZ, _MODE))
    if mode not in DTYPES:
        raise InputError(
            f"{path}: pixels of MRC mode {mode} ({UNSUPPORTED_MODES[mode]}); modes 0 (int8), 1 (int16), 2 (float32), "
            "6 (uint16) and 12 (float16) are read: convert the stack"
        )
    dtype = np.dtype(f"{order}{DTYPES[mode]}")
    if mode == 0 and words[_IMOD_STAMP_WORD] == IMOD_STAMP and not words[_IMOD_FLAGS_WORD] & _BYTES_ARE_SIGNED:
        dtype = np.dtype("u1")
    header = StackHeader(count, height, width, dtype, HEADER_BYTES + int(words[_NSYMBT]))
    needed = header.offset + count * height * width * dtype.itemsize
    if size < needed:
        raise InputError(
            f"{path}: {size} bytes, but its header announces {count} images of {width} x {height} pixels "
            f"({needed} bytes); the file is cut short, copy it again"
        )
    return header


def _byte_order(path: Path, raw: bytes) -> str:
    for order in "><" if raw[_MACHINE_STAMP_BYTE] == _BIG_ENDIAN_STAMP else "<>":
        words = np.frombuffer(raw, dtype=f"{order}i4")
        width, height, count, mode, extended = (words[place] for place in (_NX, _NY, _NZ, _MODE, _NSYMBT))
        sizes_possible = 0 < width <= MAX_IMAGE_SIDE and 0 < height <= MAX_IMAGE_SIDE and count > 0 and extended >= 0
        if sizes_possible and (mode in DTYPES or mode in UNSUPPORTED_MODES):
            return order
    raise InputError(f"{path}: not an MRC file (its header has no possible sizes); particle stacks must be .mrcs/.mrc")


def _has_possible_header(path: Path, raw: bytes) -> bool:
    try:
        return len(raw) == HEADER_BYTES and bool(_byte_order(path, raw))
    except InputError:
        return False


class _OpenStack:
    """A stack's file and header; the file is closed when nobody uses it any more."""

    def __init__(self, path: Path, header: StackHeader, descriptor: int) -> None:
        self._path = path
        self.header = header
        self._descriptor, self._close = descriptor, os.close

    @classmethod
    def open(cls, path: Path) -> _OpenStack:
        """Read the header of a stack and open the file.

        Raises
        ------
        InputError
            If the stack cannot be read, or its header makes no sense.
        """
        header = read_stack_header(path)
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise InputError(
                f"{path}: cannot be opened ({error.strerror}); check the path and its permissions"
            ) from None
        return cls(path, header, descriptor)

    def __del__(self) -> None:
        self._close(self._descriptor)

    def read_into(self, pixels: np.ndarray, first: int) -> None:
        """Read consecutive images, from ``first``, into an array of the file's type."""
        bytes_of = pixels.reshape(-1).view(np.uint8)
        position = self.header.offset + first * pixels[0].nbytes
        done = 0
        while done < len(bytes_of):
            try:
                part = os.pread(self._descriptor, min(len(bytes_of) - done, MAX_BYTES_PER_READ), position + done)
            except OSError as error:
                raise InputError(
                    f"{self._path}: cannot be read ({error.strerror}); check the disk and that the stack is still there"
                ) from error
            if not part:
                raise InputError(
                    f"{self._path}: ends before its image {first + done // pixels[0].nbytes + 1}; it became shorter "
                    "while it was in use: copy it again, and let nothing change it during a run"
                )
            bytes_of[done : done + len(part)] = np.frombuffer(part, dtype=np.uint8)
            done += len(part)


class StackReader:
    """Reads images from many stacks, of which a bounded number is open.

    Files are read, not mapped into memory: what was read does not count as memory of the process, and a stack that is
    cut short meanwhile ends in a message. A reader may be shared by threads, and copied into other processes (the
    files are opened there anew).

    Parameters
    ----------
    max_open_files : int
        Number of files kept open at a time; a process may usually have 1024 open.

    Attributes
    ----------
    empty : set of (path, slice)
        Images whose pixels are all alike, of those that were asked of a particle set.
    """

    def __init__(self, max_open_files: int = 32) -> None:
        self.max_open_files = max_open_files
        self.empty: set[tuple[Path, int]] = set()
        self._open: OrderedDict[Path, _OpenStack] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[StackReader], tuple[int]]:
        return StackReader, (self.max_open_files,)

    def read(self, path: Path, slices: np.ndarray) -> np.ndarray:
        """Images of one stack.

        Parameters
        ----------
        path : Path
        slices : (k,) int
            Counted from 0; images that follow each other in the file are read at once.

        Returns
        -------
        (k, height, width) float32

        Raises
        ------
        InputError
            If the stack cannot be read or has fewer images.
        """
        stack = self._stack(path)
        header = stack.header
        if len(slices) and not 0 <= slices.min() <= slices.max() < header.count:
            raise InputError(
                f"{path}: image {slices.max() + 1} is asked for, but the stack has {header.count}; "
                "give the stacks that belong to the particles' file"
            )
        pixels = np.empty((len(slices), header.height, header.width), dtype=header.dtype)
        breaks = np.flatnonzero(np.diff(slices) != 1) + 1
        for begin, end in zip([0, *breaks], [*breaks, len(slices)]):
            if end > begin:
                stack.read_into(pixels[begin:end], int(slices[begin]))
        # Half-precision infinities are kept here; the caller looks for them.
        return pixels.astype(np.float32, copy=False)

    def _stack(self, path: Path) -> _OpenStack:
        with self._lock:
            if path in self._open:
                self._open.move_to_end(path)
                return self._open[path]
        stack = _OpenStack.open(path)
        with self._lock:
            self._open[path] = stack
            while len(self._open) > self.max_open_files:
                self._open.popitem(last=False)
        return stack


# Standard deviations from the median beyond which a pixel is a fault of the file: hot pixels and gold are tens to
# hundreds away. Smaller values refuse real images, larger ones let a pixel drown an image.
_MOST_DEVIATIONS = 1e4
# Pixels that give an image's median and spread, enough for a limit so far away. The spread is that of normal noise
# with this share of pixels within so many of its deviations: so large a share that a molecule without noise around it
# counts, and small enough that a saturated row or a few grains of gold do not.
_SAMPLED_PIXELS, _SHARE_WITHIN, _DEVIATIONS_OF_SHARE = 512, 0.97, 2.170


def require_usable_images(images: np.ndarray, stack: Path, slices: np.ndarray) -> np.ndarray:
    """Refuse images that ``faults_of_images`` finds fault with; returns those whose pixels are all alike, (k,) bool.

    Parameters
    ----------
    images : (k, height, width) float32
    stack : Path
        For messages.
    slices : (k,) int
        Numbers of the images in the stack, from 0, for messages.

    Raises
    ------
    InputError
    """
    faults, empty = faults_of_images(images)
    for bad, fault in faults.items():
        raise InputError(
            f"{stack}: image {slices[bad] + 1} (counted from 1) {fault}; remove the particle or extract it again, or "
            f"leave such images out with {SKIP_OPTION}"
        )
    return empty


def faults_of_images(images: np.ndarray) -> tuple[dict[int, str], np.ndarray]:
    """What is wrong with images that are not finite, have pixels far from all others, or are no float32.

    Parameters
    ----------
    images : (k, height, width) float32

    Returns
    -------
    faults : dict of int to str
        By the row of the image.
    empty : (k,) bool
        Images whose pixels are all alike.
    """
    pixels = images.reshape(len(images), -1)
    # These are no numbers, or infinite, where any pixel is.
    low, high = pixels.min(1).astype(float), pixels.max(1).astype(float)
    is_finite = np.isfinite(low) & np.isfinite(high)
    faults = dict.fromkeys(np.flatnonzero(~is_finite).tolist(), "has pixels that are NaN or infinite")
    if faults:
        # As zeros they have no other fault.
        pixels = np.where(is_finite[:, None], pixels, 0)
        low, high = np.where(is_finite, low, 0), np.where(is_finite, high, 0)
    step = max(1, pixels.shape[1] // _SAMPLED_PIXELS)
    while math.gcd(step, images.shape[2]) > 1:  # so that all columns are visited
        step += 1
    sample = pixels[:, ::step].astype(float)
    middle = np.median(sample, axis=1)
    away = np.abs(sample - middle[:, None])
    spread = np.quantile(away, _SHARE_WITHIN, axis=1) / _DEVIATIONS_OF_SHARE
    spread = np.where(spread > 0, spread, np.sqrt((away**2).mean(1)))
    # Pixels that are alike but for rounding tell no spread.
    spread = np.maximum(spread, np.finfo(np.float32).eps * np.abs(middle))
    too_far = (spread > 0) & (np.maximum(high - middle, middle - low) > _MOST_DEVIATIONS * spread)
    too_large = np.maximum(-low, high) * pixels.shape[1] > np.sqrt(np.finfo(np.float32).max)
    for bad in np.flatnonzero(too_far | too_large).tolist():
        faults[bad] = (
            f"has pixels from {low[bad]:.3g} to {high[bad]:.3g}, which is no signal (median {middle[bad]:.3g}, "
            f"standard deviation {spread[bad]:.3g}; allowed are {_MOST_DEVIATIONS:g} deviations, within float32)"
        )
    return dict(sorted(faults.items())), (low == high) & is_finite


def unpack_remedy(path: Path) -> str:
    """The command that unpacks a compressed stack."""
    with open(path, "rb") as file:
        program = packing_program(file.read(8)) or "gzip"
    if program in _ARCHIVERS:
        return f"unpack it first: {_ARCHIVERS[program]} {shlex.quote(str(path))}"
    has_end = path.suffix in COMPRESSED_ENDS
    plain = path.with_suffix("") if has_end else path.with_name(f"{path.name}.unpacked")
    rename = "" if has_end else f" && mv {shlex.quote(str(plain))} {shlex.quote(str(path))}"
    return f"unpack it first: {program} -dc {shlex.quote(str(path))} > {shlex.quote(str(plain))}{rename}"


def write_map(path: str | os.PathLike[str], values: np.ndarray, pixel_size_angstrom: float) -> None:
    """Write a map as MRC in the frame of its box (no origin); the file appears whole or not at all.

    Parameters
    ----------
    path : path
    values : (nz, ny, nx) float32
    pixel_size_angstrom : float
        The same along all axes.
    """
    with atomic_path(path) as partial, mrcfile.new(partial, overwrite=True) as file:
        file.set_data(values)
        file.voxel_size = pixel_size_angstrom


def _refuse_large_map(path: Path, name: str, packed: str | None) -> None:
    """Refuse a map whose header announces more than memory is to hold, before it is unpacked."""
    opener: Any = {"gzip": gzip.open, "bzip2": bz2.open}.get(packed or "", open)
    with opener(path, "rb") as file:
        head = file.read(HEADER_BYTES)
    if not _has_possible_header(path, head):
        return  # its reader says so
    words = np.frombuffer(head, dtype=f"{_byte_order(path, head)}i4").astype(object)
    # Complex float32 pixels, the largest, have eight bytes; int16 pixels become float32.
    pixel_bytes = 8 if words[_MODE] in UNSUPPORTED_MODES else 4
    count = int(words[_NX] * words[_NY] * words[_NZ])
    refuse_large(name, HEADER_BYTES + int(words[_NSYMBT]) + count * pixel_bytes, MOST_ARRAY_BYTES)


@contextlib.contextmanager
def open_map(path: Path, name: str) -> Iterator[mrcfile.mrcfile.MrcFile]:
    """Open a map in MRC or CCP4 format, plain or packed by gzip or bzip2, whose data are there.

    A map without ``MAP`` in its header is read if its sizes and mode make sense, as stacks are.

    Parameters
    ----------
    path : Path
    name : str
        What to call the file in messages.

    Raises
    ------
    InputError
        If the file is missing or is no map, or if something in the ``with`` block finds it damaged.
    """
    if not path.is_file():
        raise InputError(f"{name}: no such file; give an MRC or CCP4 map")
    try:
        with path.open("rb") as start:
            head = start.read(HEADER_BYTES)
        packed = packing_program(head)
        if packed not in (None, *PACKED_MAPS):
            raise InputError(f"{name}: compressed with {packed}; {unpack_remedy(path)}")
        if packed is None and head[208:211] != b"MAP" and not _has_possible_header(path, head):
            raise InputError(f"{name}: is no MRC or CCP4 map (its header has no 'MAP' and no possible sizes); give one")
        _refuse_large_map(path, name, packed)
        with warnings.catch_warnings():
            # mrcfile warns of a file that is longer than its header says; a shorter one is an error.
            warnings.simplefilter("ignore", RuntimeWarning)
            file = mrcfile.open(path, permissive=True)
        with file:
            if file.data is None:
                raise ValueError("the data are not there, or not as the header says")
            yield file
    except (OSError, EOFError, ValueError, ArithmeticError, zlib.error) as error:
        raise InputError(f"{name}: cannot be read as a map ({error}); it may be cut short: copy it again") from error
