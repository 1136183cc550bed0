"""Stacks of particle images: found as a particles' file names them, checked against it, copied to a fast disk."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cocofold.particles.mrc import (
    COMPRESSED_ENDS,
    HEADER_BYTES,
    StackReader,
    read_stack_header,
    unpack_remedy,
)
from cocofold.particles.particle_set import ParticleSet
from cocofold.system.errors import InputError, require_folder

# Numbers of images are signed 32-bit integers in MRC headers.
_MAX_SLICE_NUMBER = 1 << 31
_FORMAT_SUFFIXES = (":mrcs", ":mrc")  # appended by some programs to force the format


def parse_image_names(names: Sequence[str], source: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the stacks in the order of their first particle, and each particle's stack and slice from 0.

    Parameters
    ----------
    names : sequence of str
        ``rlnImageName`` of each particle.
    source : Path
        The particles' file, for messages.

    Raises
    ------
    InputError
        If a name is not of the form index@stack, or that of a file.
    """
    stacks, index, slices = _split_names(names)
    is_number = (slices >= 1) & (slices < _MAX_SLICE_NUMBER) & (slices == np.floor(slices))
    wrong = np.flatnonzero(~is_number | (np.array(stacks) == "")[index])
    if len(wrong):
        raise InputError(
            f"{source}: row {wrong[0] + 1} has rlnImageName = {names[wrong[0]]}; "
            "the form index@stack is needed, with the index from 1, such as 000001@Extract/job010/stack.mrcs"
        )
    for suffix in _FORMAT_SUFFIXES:
        stacks = [stack[: -len(suffix)] if stack.endswith(suffix) else stack for stack in stacks]
    return stacks, index.astype(int), slices.astype(int) - 1


def _split_names(names: Sequence[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Different names of stacks, each image's stack, (n,) int, and its number, (n,) float, NaN if it is none."""
    table = _table_of_names(names)
    if table is None:
        # A name without an index is that of a file of one image.
        parts = [name.partition("@") if "@" in name else ("1", "@", name) for name in names]
        table = pd.DataFrame({0: [number for number, _, _ in parts], 1: [path for _, _, path in parts]}, dtype=object)
    slices = pd.to_numeric(table[0], errors="coerce").to_numpy(dtype=float)
    if not isinstance(table[1].dtype, pd.CategoricalDtype):
        index, unique = pd.factorize(table[1])
        return [str(path) for path in unique], index.astype(int), slices
    index, codes = pd.factorize(table[1].cat.codes.to_numpy())
    return [str(path) for path in table[1].cat.categories[codes]], index.astype(int), slices


def _table_of_names(names: Sequence[str]) -> pd.DataFrame | None:
    """Numbers and stacks of names that all have the form number@stack; None if some have not.

    The parser of tables splits them in a third of the time that Python takes.
    """
    text = "\n".join(names)
    if text.count("@") != len(names):
        return None
    options: dict[str, Any] = {"header": None, "quoting": csv.QUOTE_NONE, "keep_default_na": False, "engine": "c"}
    try:
        table = pd.read_csv(io.StringIO(text), sep="@", dtype={1: "category"}, low_memory=False, **options)
    except (ValueError, OverflowError):  # a number of hundreds of digits
        return None
    is_whole = table.shape == (len(names), 2) and not table.isna().any(axis=None)
    return table if is_whole else None


def find_stacks(names: Sequence[str], source: Path, particles_dir: Path | None) -> tuple[Path, ...]:
    """Where the stacks named in a particles' file are.

    Names are tried in ``particles_dir`` if given, in the folder of the file and in each of that folder's parents,
    since RELION and CryoSPARC count paths from the project's folder. What is not there is sought in ``particles_dir``
    by the last parts of its name, the longest first: the stacks' own folder may be given, or a project's folder for
    absolute paths of another machine. ``.mrc`` stands for ``.mrcs`` and the other way round.

    Parameters
    ----------
    names : sequence of str
        As in the file.
    source : Path
        The particles' file.
    particles_dir : Path or None

    Returns
    -------
    tuple of Path
        Absolute; links are not followed.

    Raises
    ------
    InputError
        If ``particles_dir`` is no folder, a stack is in none of the places or compressed, or one file would stand for
        two names.
    """
    if particles_dir is not None:
        require_folder(str(particles_dir), particles_dir, "give the folder from which the stacks' paths count")
    beside = [Path(os.path.abspath(source)), source.resolve()]
    given = [] if particles_dir is None else [os.path.abspath(particles_dir)]
    places = list(dict.fromkeys([*given, *(str(folder) for file in beside for folder in file.parents)]))
    folders: dict[str, bool] = {}

    def find(name: str, end: str = "") -> str | None:
        return _find_file(name, places, given, folders, end)

    # A name with the ending of a packed file is also that of the stack unpacked from it.
    spellings = [dict.fromkeys((_without_packing(name), name)) for name in names]
    found = [next(filter(None, map(find, spelling)), None) for spelling in spellings]
    missing = [name for name, path in zip(names, found) if path is None]
    if missing:
        packed = next((path for end in COMPRESSED_ENDS if (path := find(missing[0], end))), None)
        if packed is not None:
            raise InputError(f"{source}: the stack {missing[0]} is compressed; {unpack_remedy(Path(packed))}")
        tails = " and, by the last parts of its name, below " + given[0] if given else ""
        raise InputError(
            f"{source}: {len(missing)} of {len(names)} stacks not found, the first is {missing[0]}; looked for it "
            f"(also as .mrc for .mrcs or the other way round) in {', '.join(places)}{tails}. "
            "Give the stacks' own folder or the one from which their paths count (--particles-dir), or repair the paths"
        )
    _refuse_one_file_for_two_names(names, found, places, source)
    return tuple(Path(str(path)) for path in found)


def _find_file(
    name: str, places: Sequence[str], given: Sequence[str], folders: dict[str, bool], end: str = ""
) -> str | None:
    """The file that a name stands for, with an ending added; None if it is nowhere.

    ``folders`` remembers which folders exist, so that each is looked for once and not for each of its files.
    """
    spellings = [name]
    with contextlib.suppress(UnicodeEncodeError):
        # Letters of Latin-1 are single bytes in the names of some file systems.
        spellings.append(os.fsdecode(name.encode("latin-1")))
    # Programs on Windows write backslashes.
    spellings = list(dict.fromkeys([*spellings, *(spelling.replace("\\", "/") for spelling in spellings)]))

    def candidates() -> Iterator[tuple[str, str]]:
        for swap in (False, True):
            for spelling in spellings:
                for place in places:
                    yield place, _other_ending(spelling) if swap else spelling
        parts = [re.split(r"[/\\]+", spelling) for spelling in spellings]
        for swap in (False, True):
            for place in given:
                for one in parts:
                    for k in range(1, len(one)):
                        tail = "/".join(one[k:])
                        yield place, _other_ending(tail) if swap else tail

    for place, spelling in candidates():
        path = os.path.abspath(os.path.join(place, spelling) + end)
        folder = os.path.dirname(path)
        if folder not in folders:
            folders[folder] = os.path.isdir(folder)
        if folders[folder] and os.path.isfile(path):
            return path
    return None


def _without_packing(name: str) -> str:
    return name.rpartition(".")[0] if name.endswith(COMPRESSED_ENDS) else name


def _other_ending(name: str) -> str:
    """``.mrc`` for ``.mrcs`` and the other way round."""
    return name[:-1] if name.endswith(".mrcs") else f"{name}s" if name.endswith(".mrc") else name


def _refuse_one_file_for_two_names(
    names: Sequence[str], found: Sequence[str | None], places: Sequence[str], source: Path
) -> None:
    """Refuse a file that was found for two names, unless it is where both names say."""
    first: dict[str | None, str] = {}
    for name, path in zip(names, found):
        other = first.setdefault(path, name)
        if other == name:
            continue
        there = [
            any(os.path.abspath(os.path.join(place, one.replace("\\", "/"))) == path for place in places)
            for one in (name, other)
        ]
        if not all(there):
            raise InputError(
                f"{source}: for the stacks {other} and {name} only {path} is found; give the folder from which their "
                "whole paths count (--particles-dir)"
            )


def check_stacks(
    stacks: Sequence[Path],
    stack_index: np.ndarray,
    slice_index: np.ndarray,
    box: int | None,
    source: Path,
    whole: np.ndarray | None = None,
) -> int:
    """Check every stack's header against the metadata and return the box.

    Parameters
    ----------
    stacks : sequence of Path
    stack_index, slice_index : (n,) int
        Each particle's stack, and its image there from 0.
    box : int or None
        Pixels along a side that the metadata announce; if None, all stacks must have the first one's.
    source : Path
        The particles' file, for messages.
    whole : (k,) int, optional
        Rows of particles whose image is a whole file, named without an index.

    Raises
    ------
    InputError
        If a stack cannot be read, its images are not square or of another box, a particle is beyond its end, or a file
        named without an index has several images.
    """
    if (slice_index < 0).any():
        raise InputError(f"{source}: row {int((slice_index < 0).argmax()) + 1} names an image before the stack's first")
    last = np.full(len(stacks), -1)
    np.maximum.at(last, stack_index, slice_index)
    found_box = box
    rows_of_files = {} if whole is None else dict(zip(stack_index[whole[::-1]].tolist(), whole[::-1].tolist()))
    for number, (path, highest) in enumerate(zip(stacks, last)):
        header = read_stack_header(path)
        if header.count > 1 and number in rows_of_files:
            raise InputError(
                f"{source}: row {rows_of_files[number] + 1} names {path} without an index, a file of {header.count} "
                "images; the form index@stack is needed, with the index from 1, such as 000001@Extract/stack.mrcs"
            )
        if header.width != header.height:
            raise InputError(
                f"{path}: images of {header.width} x {header.height} pixels; square ones are needed, extract again"
            )
        if found_box is None:
            found_box = header.width
        if header.width != found_box:
            announced = "first stack has" if box is None else "metadata say"
            raise InputError(
                f"{path}: images of {header.width} pixels, but the {announced} {found_box} ({source}); "
                "give the stacks that belong to the file, all of one box"
            )
        if highest >= header.count:
            raise InputError(
                f"{source}: image {highest + 1} of {path} is named, but the stack has {header.count}; "
                "the stack is incomplete or not the file's own"
            )
    if found_box is None:
        raise InputError(f"{source}: names no stack; particles need rlnImageName or blob/path")
    return found_box


STACK_NAME = "particles.mrcs"
RESERVED_BYTES = 64 * 2**20  # bytes that are left to others
_BYTES_AT_ONCE = 32 * 2**20


@contextlib.contextmanager
def copied_to_scratch(
    particles: ParticleSet, folder: Path, progress: Callable[[int, int], None] | None = None
) -> Iterator[ParticleSet]:
    """The same particles with their images, and no others, in one float32 stack in a folder of its own.

    It lies below ``folder`` and is removed at the end, also when an exception ends it (signals that end the process are
    one within ``cocofold.system.processes``). Pixels are those that ``ParticleSet.images`` gives; an image that
    rows share is copied once.

    Parameters
    ----------
    particles : ParticleSet
    folder : Path
        On a fast disk.
    progress : callable, optional
        Called with the number of images copied, and of all.

    Raises
    ------
    InputError
        If the folder is missing, cannot be written or has too little space, or a stack cannot be read.
    """
    require_folder(f"--scratch {folder}", folder, "give one on a disk with enough space")
    slices = particles.image_numbers
    plain = replace(particles, contrast=np.ones(len(particles)))
    images = plain.subset(np.unique(slices, return_index=True)[1])
    needed = HEADER_BYTES + len(images) * particles.box**2 * 4 + RESERVED_BYTES
    available = shutil.disk_usage(folder).free
    if available < needed:
        raise InputError(
            f"--scratch {folder}: {needed / 1e9:.2f} GB are needed for {len(images)} images, "
            f"{available / 1e9:.2f} GB are available; make room, give another folder, or leave --scratch out"
        )
    with contextlib.ExitStack() as stack:
        try:
            own = Path(tempfile.mkdtemp(prefix="cocofold-", dir=folder))
        except OSError as error:
            raise InputError(
                f"--scratch {folder}: cannot be written ({error.strerror}); give another folder"
            ) from error
        stack.callback(shutil.rmtree, own, ignore_errors=True)
        _copy(images, own / STACK_NAME, progress)
        yield replace(
            particles,
            stacks=(own / STACK_NAME,),
            stack_index=np.zeros(len(particles), dtype=int),
            slice_index=slices,
            reader=StackReader(),
        )


def _copy(particles: ParticleSet, path: Path, progress: Callable[[int, int], None] | None) -> None:
    at_once = max(1, _BYTES_AT_ONCE // (particles.box**2 * 4))
    try:
        with open(path, "wb") as file:
            file.write(_float32_stack_header(len(particles), particles.box, particles.pixel_size_angstrom))
            for begin in range(0, len(particles), at_once):
                rows = np.arange(begin, min(begin + at_once, len(particles)))
                file.write(particles.images(rows).astype("<f4", copy=False).tobytes())
                if progress is not None:
                    progress(int(rows[-1]) + 1, len(particles))
    except OSError as error:
        raise InputError(
            f"--scratch: {path} cannot be written ({error.strerror}); make room, give another folder, or leave it out"
        ) from error


def _float32_stack_header(count: int, box: int, pixel_size_angstrom: float) -> bytes:
    """Header of a little-endian float32 MRC stack."""
    words = np.zeros(HEADER_BYTES // 4, dtype="<i4")
    words[:4] = (box, box, count, 2)
    words[7:10] = (box, box, 1)
    words[10:13] = _as_words(box * pixel_size_angstrom, box * pixel_size_angstrom, pixel_size_angstrom)
    words[13:16] = _as_words(90, 90, 90)
    words[16:19] = (1, 2, 3)
    words[19:22] = _as_words(0, -1, -2)  # least, most and mean are not known
    words[27] = 20140
    words[54] = _as_words(-1)[0]  # nor is the deviation
    raw = bytearray(words.tobytes())
    raw[208:212] = b"MAP "
    raw[212:216] = bytes((0x44, 0x44, 0, 0))
    return bytes(raw)


def _as_words(*values: float) -> np.ndarray:
    return np.array(values, dtype="<f4").view("<i4")
