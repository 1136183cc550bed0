"""Covalent bonds and the coordination of metals, found from distances."""

from __future__ import annotations

import gemmi
import numpy as np
from scipy.spatial import cKDTree

from cocofold.structure.model import Model

_LONGEST_ANGSTROM = (1.75, 2.05, 2.3)
_LONGEST_TO_HYDROGEN_ANGSTROM = 1.35
_HEAVIER_THAN = 10
_LONGEST_TO_METAL_ANGSTROM = 2.8
# Nitrogen, oxygen, fluorine, sulfur, chlorine, selenium, bromine, iodine.
_COORDINATING = (7, 8, 9, 16, 17, 34, 35, 53)
_METALS = [number for number in range(1, 119) if gemmi.Element(number).is_metal]


def covalent_bonds(model: Model) -> np.ndarray:
    """Pairs of bonded atoms, (n_bonds, 2) int.

    Two atoms up to neon are bonded below 1.75 Å, below 2.05 Å if one is heavier (C-S, P-O), below 2.3 Å if both
    are (S-S), and a hydrogen below 1.35 Å. A metal is bonded to nitrogen, oxygen, sulfur, selenium and halogens below
    2.8 Å, and to nothing else.
    """
    pairs = cKDTree(model.positions).query_pairs(_LONGEST_ANGSTROM[-1], output_type="ndarray")
    distance = np.linalg.norm(model.positions[pairs[:, 0]] - model.positions[pairs[:, 1]], axis=1)
    numbers = model.atomic_numbers[pairs]
    limit = np.array(_LONGEST_ANGSTROM)[(numbers > _HEAVIER_THAN).sum(1)]
    limit[(numbers == 1).any(1)] = _LONGEST_TO_HYDROGEN_ANGSTROM
    bonds = pairs[distance < limit]
    metal = is_metal(model)
    if not metal.any():
        return bonds
    return np.concatenate([bonds[~metal[bonds].any(1)], _coordination(model, metal)])


def is_metal(model: Model) -> np.ndarray:
    """Whether each atom is of a metal, (n_atoms,) bool."""
    return np.isin(model.atomic_numbers, _METALS)


def _coordination(model: Model, metal: np.ndarray) -> np.ndarray:
    metals, others = np.flatnonzero(metal), np.flatnonzero(np.isin(model.atomic_numbers, _COORDINATING))
    if len(others) == 0:
        return np.empty((0, 2), dtype=int)
    near = cKDTree(model.positions[metals]).query_ball_tree(
        cKDTree(model.positions[others]), _LONGEST_TO_METAL_ANGSTROM
    )
    found = [(metals[row], others[column]) for row, columns in enumerate(near) for column in sorted(columns)]
    return np.array(found, dtype=int).reshape(-1, 2)
