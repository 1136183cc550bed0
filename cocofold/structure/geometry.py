"""Least-squares superposition of paired points (Kabsch 1976), one set or many at once."""

from __future__ import annotations

import gemmi
import numpy as np

N_MOMENTS = 17


def pair_moments(moving: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Products of paired points x and y whose sums over any subset fix its superposition and its squared distances.

    Parameters
    ----------
    moving, fixed : (n, 3) float
        Paired points, Å; best centred near the origin.

    Returns
    -------
    (n, 17) float
        For each pair ``1, x, y, y xᵀ, |x|² + |y|²``.
    """
    outer = fixed[:, :, None] * moving[:, None, :]
    squares = (moving**2).sum(1) + (fixed**2).sum(1)
    return np.column_stack([np.ones(len(moving)), moving, fixed, outer.reshape(-1, 9), squares])


def superpose_from_moments(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Proper rotations and translations that bring x nearest to y.

    Parameters
    ----------
    sums : (..., 17) float
        Moments summed over the pairs of each set.

    Returns
    -------
    rotation : (..., 3, 3) float
    translation : (..., 3) float
        ``y ≈ rotation @ x + translation``.
    """
    count = sums[..., :1]
    moving, fixed = sums[..., 1:4] / count, sums[..., 4:7] / count
    covariance = sums[..., 7:16].reshape(*sums.shape[:-1], 3, 3) / count[..., None]
    covariance = covariance - fixed[..., :, None] * moving[..., None, :]
    left, _, right = np.linalg.svd(covariance)
    # Without this the best fit of a mirror image would be a reflection.
    left[..., :, 2] *= np.sign(np.linalg.det(left @ right))[..., None]
    rotation = left @ right
    return rotation, fixed - (rotation @ moving[..., None])[..., 0]


def squared_distance_weights(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Weights w, (..., 17), with ``w @ moments = |rotation @ x + translation - y|²``."""
    turned_back = (np.swapaxes(rotation, -1, -2) @ translation[..., None])[..., 0]
    return np.concatenate(
        [
            (translation**2).sum(-1, keepdims=True),
            2 * turned_back,
            -2 * translation,
            -2 * rotation.reshape(*rotation.shape[:-2], 9),
            np.ones((*rotation.shape[:-2], 1)),
        ],
        axis=-1,
    )


def find_superposition(moving: np.ndarray, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation (3, 3) and translation (3,) Å that bring paired points, (n, 3) Å each, nearest to each other."""
    centre_moving, centre_fixed = moving.mean(0), fixed.mean(0)
    rotation, shift = superpose_from_moments(pair_moments(moving - centre_moving, fixed - centre_fixed).sum(0))
    return rotation, shift + centre_fixed - rotation @ centre_moving


def superpose_onto(moving: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """``moving`` after its superposition on ``fixed``, (n, 3) Å."""
    rotation, translation = find_superposition(moving, fixed)
    return moving @ rotation.T + translation


def rmsd(first: np.ndarray, second: np.ndarray) -> float:
    """Root mean square distance (Å) of paired points as they are, (n, 3) Å each."""
    return float(np.sqrt(((first - second) ** 2).sum(1).mean()))


def torsion_radians(points: np.ndarray) -> float:
    """Torsion of four points, (4, 3), in radians from -π to π."""
    return float(gemmi.calculate_dihedral(*(gemmi.Position(*point) for point in points)))
