"""Random orientations of particles, and random errors of these."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from cocofold.particles.poses import matrices_from_relion


def draw_rotations(count: int, missing_cone_deg: float, rng: np.random.Generator) -> np.ndarray:
    """Rotations spread evenly over all whose view lies outside a cone around the map's z axis.

    The view is the axis along which the map is projected, and the cone takes it from above and from below: RELION's
    tilt lies between the cone's angle and 180° less that. In the plane of the image every angle is as likely.

    Parameters
    ----------
    count : int
    missing_cone_deg : float
        0 for all rotations, below 90.
    rng : numpy.random.Generator

    Returns
    -------
    (count, 3, 3) float64
        A: ``u = A @ (x - centre)``.
    """
    if count == 0:
        return np.empty((0, 3, 3))
    highest = np.cos(np.deg2rad(missing_cone_deg))
    rot, psi = rng.uniform(-180, 180, (2, count))
    tilt = np.degrees(np.arccos(rng.uniform(-highest, highest, count)))
    return matrices_from_relion(rot, tilt, psi)


def prefer_poles(rotations: np.ndarray, spread_deg: float, share: float, rng: np.random.Generator) -> np.ndarray:
    """Turn some of the views to the poles, as particles lie that stick to the surface of the ice.

    Parameters
    ----------
    rotations : (n, 3, 3) float
    spread_deg : float
        Views that are turned lie this far (standard deviation in each of two directions) from the map's z axis, seen
        from above or below.
    share : float
        Of the views that are turned, 0 to 1.
    rng : numpy.random.Generator

    Returns
    -------
    (n, 3, 3) float64
    """
    chosen = rng.uniform(size=len(rotations)) < share
    rot, psi = rng.uniform(-180, 180, (2, len(rotations)))
    from_pole = np.hypot(*rng.normal(0, spread_deg, (2, len(rotations))))
    tilt = np.where(rng.uniform(size=len(rotations)) < 0.5, from_pole, 180 - from_pole)
    return np.where(chosen[:, None, None], matrices_from_relion(rot, tilt, psi), rotations)


def disturb_rotations(rotations: np.ndarray, rms_deg: float, rng: np.random.Generator) -> np.ndarray:
    """Turn each rotation about an axis of its own, all axes as likely, by a normal angle.

    Parameters
    ----------
    rotations : (n, 3, 3) float
    rms_deg : float
        Standard deviation of the angle.
    rng : numpy.random.Generator

    Returns
    -------
    (n, 3, 3) float64
    """
    axes = rng.standard_normal((len(rotations), 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    angles = np.deg2rad(rms_deg) * rng.standard_normal(len(rotations))
    return Rotation.from_rotvec(axes * angles[:, None]).as_matrix() @ rotations
