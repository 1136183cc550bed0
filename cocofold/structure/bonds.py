"""Covalent bonds, found from distances."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from cocofold.structure.model import Model

_LONGEST_ANGSTROM = (1.75, 2.05, 2.3)
_LONGEST_TO_HYDROGEN_ANGSTROM = 1.35
_HEAVIER_THAN = 10


def covalent_bonds(model: Model) -> np.ndarray:
    """Pairs of covalently bonded atoms, (n_bonds, 2) int.

    Two atoms up to neon are bonded below 1.75 Å, below 2.05 Å if one is heavier (C-S, P-O), below 2.3 Å if both
    are (S-S), and a hydrogen below 1.35 Å.
    """
    pairs = cKDTree(model.positions).query_pairs(_LONGEST_ANGSTROM[-1], output_type="ndarray")
    distance = np.linalg.norm(model.positions[pairs[:, 0]] - model.positions[pairs[:, 1]], axis=1)
    numbers = model.atomic_numbers[pairs]
    limit = np.array(_LONGEST_ANGSTROM)[(numbers > _HEAVIER_THAN).sum(1)]
    limit[(numbers == 1).any(1)] = _LONGEST_TO_HYDROGEN_ANGSTROM
    return pairs[distance < limit]
