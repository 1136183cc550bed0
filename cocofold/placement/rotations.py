"""Rotations spread evenly over all of SO(3)."""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial.transform import Rotation

_PHI = math.sqrt(2)
# The real root of psi^4 = psi + 4.
_PSI = 1.533751168755204288118041413


def even_rotations(step_rad: float) -> np.ndarray:
    """A super-Fibonacci spiral (Alexa, CVPR 2022) as dense as a cubic grid of this step.

    Parameters
    ----------
    step_rad : float
        SO(3) has the volume 8 pi^2 where a rotation's angle is the distance, so that ``8 pi^2 / step^3`` are needed.

    Returns
    -------
    (n, 3, 3) float64
    """
    count = max(1, math.ceil(8 * math.pi**2 / step_rad**3))
    along = np.arange(count) + 0.5
    inner, outer = np.sqrt(along / count), np.sqrt(1 - along / count)
    alpha, beta = 2 * math.pi * along / _PHI, 2 * math.pi * along / _PSI
    quaternions = np.stack(
        [inner * np.sin(alpha), inner * np.cos(alpha), outer * np.sin(beta), outer * np.cos(beta)], axis=-1
    )
    return Rotation.from_quat(quaternions).as_matrix()


def angles_between(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Angles (degrees) of the rotations that lead from each of ``left`` to each of ``right``.

    Parameters
    ----------
    left : (n, 3, 3) float
    right : (m, 3, 3) float

    Returns
    -------
    (n, m) float
    """
    trace = np.einsum("aij,bij->ab", left, right)
    return np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))
