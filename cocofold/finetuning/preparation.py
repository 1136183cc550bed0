"""What a run is given: the particles it uses, and whether they and the model belong together."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cocofold.finetuning.holdout import FEWEST_HELD_OUT
from cocofold.finetuning.options import Options
from cocofold.finetuning.run_folder import RunFolder
from cocofold.particles.mrc import HEADER_BYTES, StackReader
from cocofold.particles.particle_set import ParticleSet
from cocofold.preflight.check_inputs import CheckSettings, check
from cocofold.structure.model import Model
from cocofold.system.atomic_files import write_atomically
from cocofold.system.errors import InputError


def apply_particle_options(particles: ParticleSet, options: Options) -> ParticleSet:
    """Those of the particles that the options ask for."""
    if options.first is not None:
        particles = particles.subset(np.arange(min(options.first, len(particles))))
    if options.max_particles is not None and options.max_particles < len(particles):
        drawn = np.random.default_rng(options.seed).choice(len(particles), options.max_particles, replace=False)
        particles = particles.subset(np.sort(drawn))
    if particles.held_out is not None:
        _check_marks(particles.held_out, options)
    return particles


def _check_marks(held_out: np.ndarray, options: Options) -> None:
    """Refuse marks of held-out particles, (n,) bool, that cannot be followed."""
    if options.heldout is not None:
        raise InputError(
            f"--heldout {options.heldout:g}: {options.particles} says itself which particles are held out; leave "
            "--heldout out, or remove the column cocofoldHeldOut"
        )
    count = int(held_out.sum())
    if count < FEWEST_HELD_OUT or count == len(held_out):
        raise InputError(
            f"{options.particles}: {count} of {len(held_out)} particles are marked as held out (cocofoldHeldOut); at "
            f"least {FEWEST_HELD_OUT} must be, and not all: use more of the particles, or remove the column"
        )


_CHECK_FILE = "check.json"


def check_before_run(
    options: Options, particles: ParticleSet, model: Model, folder: RunFolder, device: torch.device
) -> None:
    """Ask whether particles and model belong together, once; not in the midst of a run that is resumed.

    What is found goes to ``check.json``.

    Raises
    ------
    InputError
        If something is clearly wrong.
    """
    report_file = folder.path / _CHECK_FILE
    if not options.check or report_file.is_file() or folder.checkpoint.is_file():
        return
    report = check(particles, model, CheckSettings(seed=options.seed, contrast=options.contrast), device=device)
    for line in report.lines:
        folder.say(f"check: {line}")
    if report.contradictions:
        raise InputError(f"{options.particles}: {'; '.join(report.contradictions)}; or go on as it is with --no-check")
    write_atomically(report_file, json.dumps(report.as_dict(), indent=1) + "\n")


STACK_NAME = "particles.mrcs"
RESERVED_BYTES = 64 * 2**20  # bytes that are left to others
_BYTES_AT_ONCE = 32 * 2**20


@contextlib.contextmanager
def copied_to_scratch(
    particles: ParticleSet, folder: Path, progress: Callable[[int, int], None] | None = None
) -> Iterator[ParticleSet]:
    """The same particles with their images, and no others, in one float32 stack in a folder of its own.

    It lies below ``folder`` and is removed at the end, also when an exception ends it (signals that end the process are
    one within ``cocofold.system.signals``). Pixels are those that ``ParticleSet.images`` gives.

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
    needed = HEADER_BYTES + len(particles) * particles.box**2 * 4 + RESERVED_BYTES
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
