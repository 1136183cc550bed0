"""How much of a map's density a placed model leaves uncovered."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from cocofold.placement.target import Atoms, Target

_COARSEST_ANGSTROM = 8.0
_DENSE = 0.4
_REACH_ANGSTROM = 3.0
_LEAST_BLOB_A3 = 2000.0


def uncovered_share(target: Target, placed: Atoms) -> float:
    """Share of the map's density, at 8 Å or coarser, that lies far from all atoms.

    Density counts where it is more than 0.4 of its median at the atoms, in pieces of at least 2,000 Å^3 (some 15
    residues), so that noise does not. Far is more than 3 Å and half the resolution.
    """
    grid = target.grid(max(_COARSEST_ANGSTROM, target.resolution_angstrom))
    values, voxel = grid.values.cpu().numpy(), grid.voxel_angstrom.cpu().numpy().astype(float)
    at = np.rint(placed.positions / voxel).astype(int)
    at = at[((at >= 0) & (at < values.shape[::-1])).all(1)]
    if len(at) == 0:
        return 1.0
    level = float(np.median(values[at[:, 2], at[:, 1], at[:, 0]]))
    if level <= 0:
        return 1.0
    pieces, count = ndimage.label(values > _DENSE * level)
    if count == 0:
        return 1.0
    sizes = np.bincount(pieces.ravel()) * voxel.prod()
    sizes[0] = 0
    dense = np.argwhere((sizes >= _LEAST_BLOB_A3)[pieces])
    if len(dense) == 0:
        return 1.0
    reach = _REACH_ANGSTROM + grid.resolution_angstrom / 2
    distance, _ = cKDTree(placed.positions).query(dense[:, ::-1] * voxel, distance_upper_bound=reach)
    weight = values[tuple(dense.T)]
    return float(weight[~np.isfinite(distance)].sum() / weight.sum())
