"""Subunits of symmetric maps: which placement's copies make up the map, and which symmetry a map has."""

from __future__ import annotations

import numpy as np
import torch

from cocofold.placement.bodies import MOST_CLASHING, overlap
from cocofold.placement.finding import Judge
from cocofold.placement.motions import Motions
from cocofold.placement.target import Atoms, Target, draw
from cocofold.symmetry import copied, rotations_of

SYMMETRIC_FROM = 0.8
_POINTS = 15_000
_COARSEST_ANGSTROM = 12.0
_DENSE = 0.4
_CANDIDATES = (
    *(f"{kind}{fold}" for fold in range(12, 1, -1) for kind in "DC"), "O", "T", "I1", "I2", "I3", "I4"
)  # fmt: skip


def copies_of(atoms: Atoms, rotations: np.ndarray, centre: np.ndarray) -> list[Atoms]:
    """A placed molecule and its copies about a centre (Å)."""
    positions = copied(atoms.positions, rotations, centre).reshape(len(rotations), -1, 3)
    alphas = copied(atoms.alphas, rotations, centre).reshape(len(rotations), -1, 3)
    return [Atoms(one, atoms.atomic_numbers, other) for one, other in zip(positions, alphas)]


def judge_assemblies(atoms: Atoms, rotations: np.ndarray) -> Judge:
    """Scores for placements of a subunit: the whole map's correlation with all of its copies.

    At the points of one subunit a symmetric map says too little, as it is full of density on all sides; the copies
    together must explain all of it. Of a placement and its copies one is taken.
    """

    def judge(target: Target, resolution_angstrom: float, motions: Motions) -> Motions:
        centre = target.density.centre_angstrom
        grid = target.grid(resolution_angstrom)
        folded = motions.folded(rotations, centre)
        scores = [
            _correlation(draw(_whole(atoms, folded[row : row + 1], rotations, centre), grid), grid.values)
            for row in range(len(folded))
        ]
        return Motions(folded.rotations, folded.centres, np.array(scores))

    return judge


def without_overlaps(atoms: Atoms, target: Target, motions: Motions, rotations: np.ndarray) -> Motions:
    """Placements in the order given, those first whose copies do not run into each other."""
    centre = target.density.centre_angstrom
    clear = np.array(
        [
            overlap(copies[0], copies[1:]) <= MOST_CLASHING
            for copies in (
                copies_of(_moved(atoms, motions[row : row + 1]), rotations, centre) for row in range(len(motions))
            )
        ]
    )
    return Motions.in_turn([motions[clear], motions[~clear]])


def _whole(atoms: Atoms, motion: Motions, rotations: np.ndarray, centre: np.ndarray) -> Atoms:
    placed = _moved(atoms, motion)
    numbers = np.tile(atoms.atomic_numbers, len(rotations))
    return Atoms(copied(placed.positions, rotations, centre), numbers, copied(placed.alphas, rotations, centre))


def symmetry_of(target: Target) -> tuple[str, dict[str, float]]:
    """The point group of highest order under which a map looks the same, and what speaks for each that was tried.

    A map is turned by the group's rotations about its box's centre; the least correlation with itself, at 12 Å or
    coarser, within the sphere that holds the molecule, must be 0.8.

    Returns
    -------
    group : str
        C1 if there is no other.
    scores : dict
        Least correlation by group.
    """
    grid = target.grid(max(_COARSEST_ANGSTROM, target.resolution_angstrom))
    centre = torch.as_tensor(target.density.centre_angstrom, dtype=torch.float32, device=grid.values.device)
    dense = torch.nonzero(
        grid.values > _DENSE * grid.values.flatten().topk(max(8, grid.values.numel() // 500)).values.mean()
    )
    radius = float((dense.flip(1) * grid.voxel_angstrom - centre).norm(dim=1).max())
    every = torch.nonzero(torch.ones_like(grid.values)).flip(1) * grid.voxel_angstrom - centre
    points = every[every.norm(dim=1) <= radius]
    points = points[:: max(1, len(points) // _POINTS)]
    seen = grid.at((points + centre)[None])[0]
    scores = {}
    for group in _CANDIDATES:
        turns = torch.as_tensor(rotations_of(group)[1:], dtype=torch.float32, device=points.device)
        scores[group] = min(_correlation(seen, grid.at((points @ turn.T + centre)[None])[0]) for turn in turns)
    same = [group for group in _CANDIDATES if scores[group] >= SYMMETRIC_FROM]
    return max(same, key=lambda group: len(rotations_of(group)), default="C1"), scores


def _moved(atoms: Atoms, motions: Motions) -> Atoms:
    return atoms.moved(motions.rotations[0], motions.centres[0])


def _correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])
