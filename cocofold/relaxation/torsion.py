"""Torsions of four points."""

from __future__ import annotations

import numpy as np


def dihedral(points: np.ndarray) -> float:
    """Torsion of four points, (4, 3), in radians from -π to π."""
    a, b, c = np.diff(points, axis=0)
    left, right = np.cross(a, b), np.cross(b, c)
    return float(np.arctan2(np.dot(np.cross(left, right), b) / np.linalg.norm(b), np.dot(left, right)))
