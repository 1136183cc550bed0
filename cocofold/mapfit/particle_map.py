"""A map reconstructed from particles, with its resolution and what a model does not explain of it, as files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cocofold.likelihood.observed_images import refuse_incompatible_input
from cocofold.likelihood.particle_optics import unsupported_aberrations
from cocofold.likelihood.reconstruction import Reconstruction, reconstruct
from cocofold.mapfit.density_map import DensityMap
from cocofold.mapfit.target_map import fourier_shell_correlation, resolution_from_half_maps, soft_molecule_mask
from cocofold.mapfit.unexplained_density import UnexplainedDensity, find_unexplained_density
from cocofold.particles import read_particles
from cocofold.particles.particle_set import ParticleSet
from cocofold.structure.geometry import point_group_rotations
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model
from cocofold.system.atomic_files import check_new_folder, refuse_unwritable, write_atomically
from cocofold.system.errors import InputError
from cocofold.system.hardware import find_device

# Pieces of unexplained density that are told; all are in the JSON.
_MOST_PIECES_TOLD = 5


@dataclass(frozen=True)
class ParticleMap:
    """A map of particles, and what a model does not explain of it.

    Attributes
    ----------
    reconstruction : Reconstruction
        ``map`` and ``half_maps``.
    resolution_angstrom : float
        Where the FSC of the half maps within a soft mask falls below 0.143.
    shells_angstrom, fsc : (n_shells,) float
        The FSC within the mask.
    unexplained : UnexplainedDensity, optional
    """

    reconstruction: Reconstruction
    resolution_angstrom: float
    shells_angstrom: np.ndarray
    fsc: np.ndarray
    unexplained: UnexplainedDensity | None

    @property
    def lines(self) -> list[str]:
        """What was found, for the user."""
        first = (
            f"{self.reconstruction.images[0]} images; resolution {self.resolution_angstrom:.2f} Å, where the FSC of "
            "the half maps within a soft mask falls below 0.143"
        )
        return [first, *([] if self.unexplained is None else _describe(self.unexplained))]

    def write(self, out: Path, half_maps: bool) -> None:
        """Write maps and ``reconstruction.json`` into a folder, which is made."""
        images, first, second = self.reconstruction.images
        shells = [[round(at, 3), round(value, 4)] for at, value in zip(self.shells_angstrom, self.fsc.tolist())]
        facts = {
            "images": images,
            "images_of_halves": [first, second],
            "resolution_angstrom": self.resolution_angstrom,
            "fsc": shells,
            **({} if self.unexplained is None else {"unexplained": self.unexplained.as_dict()}),
        }
        maps = {"reconstruction.mrc": self.reconstruction.map}
        if half_maps:
            maps |= dict(zip(("half1.mrc", "half2.mrc"), self.reconstruction.half_maps))
        if self.unexplained is not None:
            maps["unexplained.mrc"] = self.unexplained.map
        with refuse_unwritable(out, "give another folder"):
            out.mkdir(parents=True, exist_ok=True)
            for name, values in maps.items():
                DensityMap(values, self.reconstruction.pixel_size_angstrom).write(out / name)
            write_atomically(out / "reconstruction.json", json.dumps(facts, indent=1) + "\n")


def reconstruct_particles(
    particles: ParticleSet | str | os.PathLike[str],
    model: Model | str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    half_maps: bool = False,
    symmetry: str | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> ParticleMap:
    """Reconstruct a map of particles at their poses, and weigh what a model does not explain of it.

    Parameters
    ----------
    particles : ParticleSet, str or Path
        Protein is white.
    model : Model, str or Path, optional
        All atoms of the particle, in the map's frame. If it was placed in the map's mirror image, poses are mirrored.
    out : str or Path, optional
        Folder for the maps and ``reconstruction.json``, made anew; nothing is written without it.
    half_maps : bool
        Write the half maps too.
    symmetry : str, optional
        Point group of the particle.
    seed : int
        Of the split into halves where the particles have no half sets, and of the noise that gives errors.
    device : str
        auto, cpu, cuda or cuda:N.
    progress : callable, optional
        Told the number of images done and of all.

    Raises
    ------
    InputError
        For input that cannot be used, before anything is written.
    """
    folder = None if out is None else Path(out)
    if folder is not None:
        check_new_folder("--out", folder)
    rotations = None if symmetry is None else point_group_rotations(symmetry)
    where = find_device(device)
    some = particles if isinstance(particles, ParticleSet) else read_particles(particles)
    start = model if isinstance(model, Model) or model is None else read_model(model)
    if start is not None and start.in_mirror_image:
        some = some.mirrored()
    if start is not None:
        refuse_incompatible_input(start, some, "--model", "--particles")
    elif unsupported_aberrations(some):
        raise InputError("--particles: " + "; ".join(unsupported_aberrations(some)))
    found = reconstruct(some, rotations, seed, where, progress)
    if min(found.images) == 0:
        raise InputError(f"--particles: {len(some)} of one image; two images or more make two half maps")
    first, second = (DensityMap(values, found.pixel_size_angstrom) for values in found.half_maps)
    mask = soft_molecule_mask(DensityMap(found.map, found.pixel_size_angstrom))
    shells, fsc = fourier_shell_correlation(first, second, mask)
    resolution = resolution_from_half_maps(first, second, mask)
    unexplained = None
    if start is not None:
        unexplained = find_unexplained_density(found, start.positions, start.atomic_numbers, seed)
    result = ParticleMap(found, resolution, shells, fsc, unexplained)
    if folder is not None:
        result.write(folder, half_maps)
    return result


def _describe(found: UnexplainedDensity) -> list[str]:
    lines = [
        f"missing mass {found.missing_mass:.1%} ± {found.error:.1%} of the particle's; {found.away_from_atoms:.1%} lie "
        f"away from all atoms, and atoms of {found.without_density:.1%} have no density"
    ]
    for piece in found.pieces[:_MOST_PIECES_TOLD]:
        place = ", ".join(f"{value:.0f}" for value in piece.centre_angstrom)
        lines.append(f"  {piece.mass_share:.1%} around ({place}) Å, about {piece.extent_angstrom:.0f} Å across")
    return lines
