"""Particle orientations: the matrix A that takes the map's frame to the image's, ``u = A @ (x - centre)``."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation


def matrices_from_relion(rot: np.ndarray, tilt: np.ndarray, psi: np.ndarray) -> np.ndarray:
    """Matrices ``A = Rz(psi) Ry(tilt) Rz(rot)`` (passive) of RELION's Euler angles.

    Parameters
    ----------
    rot, tilt, psi : (n,) float
        Degrees.

    Returns
    -------
    (n, 3, 3) float64
    """
    angles = np.stack([rot, tilt, psi], axis=-1)
    return Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix().transpose(0, 2, 1)


def matrices_from_cryosparc(vectors: np.ndarray) -> np.ndarray:
    """Matrices A of CryoSPARC's rotation vectors, (n, 3) rad to (n, 3, 3) float64."""
    return Rotation.from_rotvec(np.asarray(vectors, dtype=float)).as_matrix().transpose(0, 2, 1)


def mirrored_matrices(rotations: np.ndarray) -> np.ndarray:
    """Matrices A under which the map's mirror image along z gives the same images: ``diag(1, 1, -1) A diag(1, 1, -1)``.

    Parameters
    ----------
    rotations : (n, 3, 3) float

    Returns
    -------
    (n, 3, 3) float
    """
    mirror = np.array([1.0, 1.0, -1.0])
    return mirror[:, None] * np.asarray(rotations) * mirror


def relion_from_matrices(rotations: np.ndarray) -> np.ndarray:
    """RELION's Euler angles of matrices A, with tilt from 0 to 180° and rot and psi from -180° to 180°.

    Where tilt is 0 or 180° only a combination of rot and psi is defined: rot is then 0.

    Parameters
    ----------
    rotations : (n, 3, 3) float

    Returns
    -------
    (n, 3) float64
        rot, tilt, psi in degrees.
    """
    active = np.asarray(rotations, dtype=float).transpose(0, 2, 1)
    tilt = np.arctan2(np.hypot(active[:, 0, 2], active[:, 1, 2]), active[:, 2, 2])
    rot = np.arctan2(active[:, 1, 2], active[:, 0, 2])
    # psi is read after rot is undone, so that the rounding of rot near the poles cannot turn the image.
    cosine, sine = np.cos(rot), np.sin(rot)
    psi = np.arctan2(
        cosine * active[:, 1, 0] - sine * active[:, 0, 0],
        cosine * active[:, 1, 1] - sine * active[:, 0, 1],
    )
    return np.degrees(np.stack([rot, tilt, psi], axis=1))


def view_directions(rotations: np.ndarray) -> np.ndarray:
    """Directions of the projections in the map's frame, (n, 3), of matrices A, (n, 3, 3): the third row of each."""
    return np.asarray(rotations)[:, 2, :]
