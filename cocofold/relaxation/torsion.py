"""The torsion of four points."""

from __future__ import annotations

import gemmi
import numpy as np


def dihedral(points: np.ndarray) -> float:
    """Torsion of four points, (4, 3), in radians from -π to π."""
    return float(gemmi.calculate_dihedral(*(gemmi.Position(*point) for point in points)))
