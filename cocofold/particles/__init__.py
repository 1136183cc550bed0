"""Particles: STAR (RELION 3.0 to 5) and CryoSPARC .cs files with their stacks, as one ``ParticleSet``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cocofold.particles.cryosparc import read_cryosparc
from cocofold.particles.particle_set import ParticleSet
from cocofold.particles.star_read import read_star
from cocofold.system.errors import InputError


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


__all__ = ["read_particles"]
