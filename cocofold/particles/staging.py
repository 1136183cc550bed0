"""Images copied to a scratch disk for the time of a run."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from cocofold.errors import InputError
from cocofold.particles.particle_set import ParticleSet
from cocofold.particles.stacks import HEADER_BYTES, StackReader

STACK_NAME = "particles.mrcs"
FREE_BESIDES = 64 * 2**20  # bytes that are left to others
_BYTES_AT_ONCE = 32 * 2**20


@contextlib.contextmanager
def staged(
    particles: ParticleSet, folder: Path, progress: Callable[[int, int], None] | None = None
) -> Iterator[ParticleSet]:
    """The same particles with their images, and no others, in one float32 stack in a folder of its own.

    It lies below ``folder`` and is removed at the end, also when an exception ends it (signals that end the process are
    one within ``cocofold.endings``). Pixels are those that ``ParticleSet.images`` gives.

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
    needed = HEADER_BYTES + len(particles) * particles.box**2 * 4 + FREE_BESIDES
    available = shutil.disk_usage(folder).free
    if available < needed:
        raise InputError(
            f"--scratch {folder}: {needed / 1e9:.2f} GB are needed for {len(particles)} images, "
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
        _copy(particles, own / STACK_NAME, progress)
        yield replace(
            particles,
            stacks=(own / STACK_NAME,),
            stack_index=np.zeros(len(particles), dtype=int),
            slice_index=np.arange(len(particles)),
            contrast=np.ones(len(particles)),
            reader=StackReader(),
        )


def _copy(particles: ParticleSet, path: Path, progress: Callable[[int, int], None] | None) -> None:
    at_once = max(1, _BYTES_AT_ONCE // (particles.box**2 * 4))
    try:
        with open(path, "wb") as file:
            file.write(_header(len(particles), particles.box, particles.pixel_size_angstrom))
            for begin in range(0, len(particles), at_once):
                rows = np.arange(begin, min(begin + at_once, len(particles)))
                file.write(particles.images(rows).astype("<f4", copy=False).tobytes())
                if progress is not None:
                    progress(int(rows[-1]) + 1, len(particles))
    except OSError as error:
        raise InputError(
            f"--scratch: {path} cannot be written ({error.strerror}); make room, give another folder, or leave it out"
        ) from error


def _header(count: int, box: int, pixel_size_angstrom: float) -> bytes:
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
