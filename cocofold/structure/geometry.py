"""Geometry of points: superposition of paired points, torsion angles, axes from two directions.

Superpositions are least-squares fits (Kabsch 1976) by roma, in double precision. They are unique unless the points
lie on one line, for which any of the best rotations comes out.
"""

from __future__ import annotations

import numpy as np

# Below this length (Å) the middle bond of a torsion counts as this long, so that points that coincide give an angle
# instead of a division by zero.
_SHORTEST_AXIS_ANGSTROM = 1e-9


def find_superposition(moving: np.ndarray, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and translation that bring paired points nearest to each other.

    Parameters
    ----------
    moving, fixed : (n, 3) float
        Paired points, Å.

    Returns
    -------
    rotation : (3, 3) float64
        Proper: a mirror image is not reflected back.
    translation : (3,) float64
        ``fixed ≈ rotation @ moving + translation``, Å.
    """
    import roma
    import torch

    rotation, translation = roma.rigid_points_registration(
        *(torch.from_numpy(np.array(points, dtype=np.float64, order="C")) for points in (moving, fixed))
    )
    return rotation.numpy(), translation.numpy()


def superpose_onto(moving: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """``moving`` after its superposition on ``fixed``, (n, 3) Å."""
    rotation, translation = find_superposition(moving, fixed)
    return moving @ rotation.T + translation


def pair_moments(moving: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Products of paired points x and y whose sums over any subset fix its superposition and its squared distances.

    They serve searches that superpose thousands of subsets of the same pairs.

    Parameters
    ----------
    moving, fixed : (n, 3) float
        Paired points, Å. They should be centred near the origin: distances come out as small differences of large
        sums, whose round-off grows with the square of the distance from the origin.

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
    sums : (..., 17) float64
        Moments summed over the pairs of each set.

    Returns
    -------
    rotation : (..., 3, 3) float64
    translation : (..., 3) float64
        ``y ≈ rotation @ x + translation``.
    """
    import roma
    import torch

    count = sums[..., :1]
    moving, fixed = sums[..., 1:4] / count, sums[..., 4:7] / count
    covariance = sums[..., 7:16].reshape(*sums.shape[:-1], 3, 3) / count[..., None]
    covariance = covariance - fixed[..., :, None] * moving[..., None, :]
    rotation = roma.special_procrustes(torch.from_numpy(covariance)).numpy()
    return rotation, fixed - (rotation @ moving[..., None])[..., 0]


def squared_distance_weights(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Weights w, (..., 17), with ``w @ moments = |rotation @ x + translation - y|²``.

    Parameters
    ----------
    rotation : (..., 3, 3) float
    translation : (..., 3) float
        Å.
    """
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


def rmsd(first: np.ndarray, second: np.ndarray) -> float:
    """Root mean square distance (Å) of paired points as they are, (n, 3) Å each."""
    return float(np.sqrt(((first - second) ** 2).sum(1).mean()))


def root_mean_square(values: np.ndarray) -> float:
    """Root mean square of the values that are numbers; NaN values do not count."""
    return float(np.sqrt(np.nanmean(values**2)))


def torsion_radians(points: np.ndarray) -> np.ndarray:
    """Torsions of four points each, from -π to π by the convention of IUPAC (cis is 0).

    Parameters
    ----------
    points : (..., 4, 3) float

    Returns
    -------
    (...) float
    """
    one, two, three, four = (points[..., place, :] for place in range(4))
    axis = three - two
    left, right = np.cross(one - two, axis), np.cross(four - three, axis)
    length = np.maximum(np.linalg.norm(axis, axis=-1), _SHORTEST_AXIS_ANGSTROM)
    sine = (np.cross(left, right) * axis).sum(-1) / length
    return np.arctan2(sine, (left * right).sum(-1))


def axes_from_directions(x: np.ndarray, toward: np.ndarray) -> np.ndarray:
    """Right-handed orthonormal axes by Gram-Schmidt: x along ``x``, y in the half plane of ``toward``.

    Parameters
    ----------
    x, toward : (..., 3) float
        Directions that are not parallel; their lengths do not matter.

    Returns
    -------
    (..., 3, 3) float
        Axes in the columns.
    """
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    y = toward - (toward * x).sum(-1, keepdims=True) * x
    y = y / np.linalg.norm(y, axis=-1, keepdims=True)
    return np.stack([x, y, np.cross(x, y)], axis=-1)


def radius_of_gyration(positions: np.ndarray) -> float:
    """Root mean square distance of positions, (n, 3) Å, from their centroid."""
    return float(np.sqrt(((positions - positions.mean(0)) ** 2).sum(1).mean()))
