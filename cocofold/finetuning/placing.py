"""Where a run's model lies in the particles' frame: as it came, as a placement says, or by a fit into a map."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cocofold.errors import InputError
from cocofold.finetuning.folder import RunFolder
from cocofold.finetuning.options import Options
from cocofold.particles import ParticleSet
from cocofold.placement import AS_IS, AUTO, Placement, apply_placement, bodies_of_atoms
from cocofold.placement.assemblies import copies_of
from cocofold.placement.bodies import overlap
from cocofold.placement.in_files import PLACEMENT, SUBUNIT, MapFiles, place_in_map
from cocofold.placement.progress import shown
from cocofold.placement.target import Atoms
from cocofold.structure import Model, read_placed_as
from cocofold.symmetry import normal_name, rotations_of

_SAME_CENTRE_PIXELS = 0.05
_MOST_OVERLAPPING = 0.2


@dataclass(frozen=True)
class Place:
    """How a model comes into the particles' frame.

    Attributes
    ----------
    placement : Placement or None
        None if it is there already.
    hand : str
        ``mirrored`` if the poses are to be mirrored.
    symmetry : str or None
        Point group of the assembly of which the model is one subunit.
    seconds : float
        That the fit took.
    """

    placement: Placement | None
    hand: str
    symmetry: str | None
    seconds: float = 0.0

    def put(self, model: Model) -> Model:
        """The model there."""
        return model if self.placement is None else apply_placement(model, self.placement)

    def moves(self, model: Model) -> tuple[np.ndarray, np.ndarray]:
        """Rotation (n_atoms, 3, 3) and translation (n_atoms, 3) Å of each of the model's atoms."""
        if self.placement is None:
            return np.tile(np.eye(3), (len(model), 1, 1)), np.zeros((len(model), 3))
        owner, bodies = bodies_of_atoms(model, self.placement), self.placement.bodies
        rotations = np.stack([body.rotation for body in bodies])
        return rotations[owner], np.stack([body.translation_angstrom for body in bodies])[owner]


def find_place(
    model: Model, path: str | None, options: Options, particles: ParticleSet, folder: RunFolder, device: torch.device
) -> Place:
    """Read the placement, or fit the model into the map, or take it to be in place.

    Parameters
    ----------
    model : Model
        As it came.
    path : str, optional
        Its file.
    options : Options
    particles : ParticleSet
    folder : RunFolder
        Of the run; a fit goes to ``placement`` in it.
    device

    Raises
    ------
    InputError
        If it says that it is placed and is to be placed again, or symmetries contradict each other.
    """
    placed_as = {} if path is None else read_placed_as(path)
    option = "--map" if options.map else "--placement" if options.placement else None
    if placed_as and option is not None:
        raise InputError(
            f"--model {path}: says that it is placed in a map already; leave {option} out, or give the model as it was "
            "before cocofold fit"
        )
    symmetry = None if options.symmetry in (None, AUTO) else normal_name(str(options.symmetry))
    if symmetry is not None and placed_as.get("symmetry", "C1") != "C1":
        raise InputError(
            f"--model {path}: holds all copies of its subunit already ({placed_as['symmetry']}); with --symmetry give "
            f"one subunit, {SUBUNIT} beside it, or leave --symmetry out"
        )
    if option is None:
        return Place(None, placed_as.get("hand", AS_IS), symmetry)
    placement = _fitted(model, options, folder, device) if options.map else Placement.read(str(options.placement))
    if symmetry is not None and placement.symmetry not in (None, symmetry):
        raise InputError(
            f"--symmetry {options.symmetry}: the placement was made with {placement.symmetry}; give that, or fit anew"
        )
    placement = _about_the_particles_centre(placement, particles, folder)
    symmetry = symmetry or placement.symmetry
    seconds = float(placement.facts.get("seconds", 0.0)) if options.map else 0.0
    return Place(placement, placement.hand, None if symmetry == "C1" else symmetry, seconds)


def _fitted(model: Model, options: Options, folder: RunFolder, device: torch.device) -> Placement:
    """The model placed in the map; a run that is resumed finds what it had."""
    out = folder.path / "placement"
    if not (out / PLACEMENT).is_file():
        folder.say(f"placing the model in {options.map}; see {out}")
        files = MapFiles(Path(str(options.map)), resolution_angstrom=options.map_resolution)
        with shown() as tell:
            _, lines = place_in_map(model, files, out, options.bodies, options.hand, options.symmetry, device, tell)
        for line in lines:
            folder.say(line)
    return Placement.read(out / PLACEMENT)


def _about_the_particles_centre(placement: Placement, particles: ParticleSet, folder: RunFolder) -> Placement:
    """The placement in the particles' box, whose centre is the map's, whatever the sizes of the two."""
    known = placement.facts.get("map")
    if not isinstance(known, dict) or not {"box", "pixel_size_angstrom"} <= set(known):
        return placement
    of_map = np.array([int(n) // 2 for n in known["box"]]) * float(known["pixel_size_angstrom"])
    shift = particles.box // 2 * particles.pixel_size_angstrom - of_map
    if np.abs(shift).max() < _SAME_CENTRE_PIXELS * particles.pixel_size_angstrom:
        return placement
    x, y, z = shift.round(2).tolist()
    folder.say(
        f"map and particles have boxes of different size: the model is shifted by ({x:g}, {y:g}, {z:g}) Å, so that "
        "their centres meet"
    )
    moved = [replace(body, translation_angstrom=body.translation_angstrom + shift) for body in placement.bodies]
    return replace(placement, bodies=tuple(moved))


def axes_of(symmetry: str, particles: ParticleSet) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (n, 3, 3) of a point group, and the centre (3,) Å about which they turn: that of the particles' box."""
    return rotations_of(symmetry), np.full(3, particles.box // 2 * particles.pixel_size_angstrom)


def check_copies(model: Model, symmetry: str, rotations: np.ndarray, centre: np.ndarray) -> None:
    """Refuse a subunit whose copies lie on each other."""
    first, *others = copies_of(Atoms.of(model), rotations, centre)
    share = overlap(first, others)
    if share > _MOST_OVERLAPPING:
        raise InputError(
            f"--symmetry {symmetry}: {share:.0%} of the subunit's CA atoms lie within 3 Å of a copy's; give one "
            f"subunit in its place (the axes meet at {centre[0]:g} Å on each axis), or --map to place it"
        )
