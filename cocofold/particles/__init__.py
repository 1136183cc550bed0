"""Particles: STAR (RELION 3.0 to 5) and CryoSPARC .cs files with their stacks, as one ``ParticleSet``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cocofold.particles.cryosparc import read_cryosparc
from cocofold.particles.mrc import faults_of_images
from cocofold.particles.particle_set import ParticleSet
from cocofold.particles.star_read import read_star
from cocofold.system.errors import SKIP_OPTION, InputError

_BYTES_AT_ONCE = 32 * 2**20  # of images that are looked at


def read_particles(
    path: str | os.PathLike[str],
    particles_dir: str | os.PathLike[str] | None = None,
    passthrough: Sequence[str | os.PathLike[str]] = (),
    ignore_aberrations: bool = False,
) -> ParticleSet:
    """Read particles from a RELION STAR file (3.0 to 5) or a CryoSPARC .cs file.

    Poses, optics and every stack's header are checked here; images are read when asked for.

    Parameters
    ----------
    path : path
        A .star or .cs file.
    particles_dir : path, optional
        Folder from which the stacks' paths count. Without it, and after it, the file's folder and its parents are
        searched.
    passthrough : sequence of paths
        Further .cs files of the same job, joined by ``uid``; for .cs only.
    ignore_aberrations : bool
        Leave out the aberrations of CryoSPARC that cannot be applied, however large they are.

    Returns
    -------
    ParticleSet

    Raises
    ------
    InputError
        For every file that cannot be used, with the reason and the remedy.
    """
    path = Path(path)
    folder = None if particles_dir is None else Path(particles_dir)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a .star file of RELION or a .cs file of CryoSPARC")
    found = _read(path, folder, [Path(other) for other in passthrough])
    if ignore_aberrations and any(group.cryosparc_aberrations for group in found.optics):
        return found.without_cryosparc_aberrations(f"{path}: aberrations of CryoSPARC are left out, as asked")
    return found


def _read(path: Path, folder: Path | None, passthrough: Sequence[Path]) -> ParticleSet:
    suffix = path.suffix.lower()
    if suffix == ".cs":
        return read_cryosparc(path, folder, passthrough)
    if suffix != ".star":
        raise InputError(f"{path}: particles are read from .star and .cs files; give the file that lists the images")
    if passthrough:
        raise InputError(f"{path}: passthrough files belong to .cs files; leave --passthrough out for a STAR file")
    return read_star(path, folder)


def without_bad_images(
    particles: ParticleSet, progress: Callable[[int, int], None] | None = None
) -> tuple[ParticleSet, np.ndarray]:
    """The particles whose images are neither empty nor faulty, with a note that lists the others, and their rows.

    All images are read.

    Parameters
    ----------
    particles : ParticleSet
    progress : callable, optional
        Called with the number of images looked at, and of all.

    Raises
    ------
    InputError
        If no particle is left, or a stack cannot be read.
    """
    good, lines, done = np.ones(len(particles), dtype=bool), [], 0
    at_once = max(1, _BYTES_AT_ONCE // (particles.box**2 * 4))
    for number, path in enumerate(particles.stacks):
        rows = np.flatnonzero(particles.stack_index == number)
        slices, bad = np.unique(particles.slice_index[rows]), []
        for begin in range(0, len(slices), at_once):
            some = slices[begin : begin + at_once]
            faults, empty = faults_of_images(particles.reader.read(path, some))
            bad += [row for place, row in enumerate(some.tolist()) if place in faults or empty[place]]
        good[rows] = ~np.isin(particles.slice_index[rows], bad)
        done += len(rows)
        if progress is not None:
            progress(done, len(particles))
        lines += [f"{path}: {_in_ranges(np.array(bad) + 1)}"] if bad else []
    kept = np.flatnonzero(good)
    if len(kept) == 0:
        raise InputError(f"{SKIP_OPTION}: all {len(particles)} images are empty or no signal; give other particles")
    note = f"{len(particles) - len(kept)} of {len(particles)} particles are left out for their images ({SKIP_OPTION})"
    listed = (": images (from 1) of " + "; ".join(lines),) if lines else ("",)
    return replace(particles.subset(kept), notes=(*particles.notes, note + listed[0])), kept


def _in_ranges(numbers: np.ndarray) -> str:
    """Ascending numbers as in ``4, 7-9``."""
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
    return ", ".join(f"{part[0]}" if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


__all__ = ["read_particles", "without_bad_images"]
