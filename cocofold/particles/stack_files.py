"""Stacks of particle images: found as a particles' file names them, checked against it, copied to a fast disk."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cocofold.particles.mrc import COMPRESSED_ENDS, HEADER_BYTES, StackReader, read_stack_header, unpack_remedy
from cocofold.particles.particle_set import ParticleSet
from cocofold.system.errors import InputError


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
    if particles_dir is not None and not particles_dir.is_dir():
        raise InputError(f"{particles_dir}: no such folder; give the folder from which the stacks' paths count")
    beside = [Path(os.path.abspath(source)), source.resolve()]
    given = [] if particles_dir is None else [os.path.abspath(particles_dir)]
    places = list(dict.fromkeys([*given, *(str(folder) for file in beside for folder in file.parents)]))
    # A name with the ending of a packed file is also that of the stack unpacked from it.
    found = [_find_file(_without_packing(name), places, given) or _find_file(name, places, given) for name in names]
    missing = [name for name, path in zip(names, found) if path is None]
    if missing:
        packed = next((path for end in COMPRESSED_ENDS if (path := _find_file(missing[0], places, given, end))), None)
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


def _find_file(name: str, places: Sequence[str], given: Sequence[str], end: str = "") -> str | None:
    """The file that a name stands for, with an ending added; None if it is nowhere."""
    spellings = [name]
    with contextlib.suppress(UnicodeEncodeError):
        # Letters of Latin-1 are single bytes in the names of some file systems.
        spellings.append(os.fsdecode(name.encode("latin-1")))
    whole = [(place, spelling) for spelling in dict.fromkeys(spellings) for place in places]
    parts = [re.split(r"[/\\\\]+", spelling) for spelling in dict.fromkeys(spellings)]
    tails = [(place, "/".join(one[k:])) for place in given for one in parts for k in range(1, len(one))]
    for candidates in (whole, tails):
        for swap in (False, True):
            for place, tail in candidates:
                path = os.path.abspath(os.path.join(place, _other_ending(tail) if swap else tail) + end)
                if os.path.isfile(path):
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
        there = [any(os.path.abspath(os.path.join(place, one)) == path for place in places) for one in (name, other)]
        if other != name and not all(there):
            raise InputError(
                f"{source}: for the stacks {other} and {name} only {path} is found; give the folder from which their "
                "whole paths count (--particles-dir)"
            )


def check_stacks(
    stacks: Sequence[Path], stack_index: np.ndarray, slice_index: np.ndarray, box: int | None, source: Path
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

    Raises
    ------
    InputError
        If a stack cannot be read, its images are not square or of another box, or a particle is beyond its end.
    """
    if (slice_index < 0).any():
        raise InputError(f"{source}: row {int((slice_index < 0).argmax()) + 1} names an image before the stack's first")
    last = np.full(len(stacks), -1)
    np.maximum.at(last, stack_index, slice_index)
    found_box = box
    for path, highest in zip(stacks, last):
        header = read_stack_header(path)
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
    one within ``cocofold.system.signals``). Pixels are those that ``ParticleSet.images`` gives; an image that
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
    if not folder.is_dir():
        raise InputError(f"--scratch {folder}: no such folder; give one on a disk with enough space")
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
