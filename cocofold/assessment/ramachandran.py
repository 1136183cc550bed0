"""Where residues lie in the Ramachandran plot."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates

FAVOURED_LEVEL = 0.02
# The general case, and glycine, proline and what precedes proline
OUTLIER_LEVELS = {"general": 0.0005, "glycine": 0.002, "proline": 0.002, "preproline": 0.002}
_KINDS = tuple(OUTLIER_LEVELS)
_BINS, _BIN_DEGREES = 180, 2.0


def kinds_of(names: np.ndarray, followers: np.ndarray) -> np.ndarray:
    """Which of the four plots each residue belongs to, by its name and that of the next one; (n,) str."""
    kinds = np.where(followers == "PRO", "preproline", "general")
    kinds = np.where(names == "PRO", "proline", kinds)
    return np.where(names == "GLY", "glycine", kinds)


def judge(phi: np.ndarray, psi: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which torsions are favoured and which are outliers; what is neither is allowed.

    Contours of Lovell et al., Proteins 50, 437 (2003): favoured are the 98 % of their 500 structures' residues that lie
    densest, outliers those beyond 99.95 % (glycine, proline and what precedes proline: 99.8 %). Their tables come with
    the package pyrama; between bins they are interpolated.

    Parameters
    ----------
    phi, psi : (n,) float
        Degrees.
    kinds : (n,) str
        As ``kinds_of`` gives them.

    Returns
    -------
    favoured, outlier : (n,) bool
    """
    level = np.zeros(len(phi))
    for kind in _KINDS:
        rows = kinds == kind
        place = (np.stack([phi[rows], psi[rows]]) + 180) / _BIN_DEGREES - 0.5
        level[rows] = map_coordinates(_table(kind), place, order=1, mode="grid-wrap")
    return level >= FAVOURED_LEVEL, level < np.array([OUTLIER_LEVELS[kind] for kind in kinds.tolist()])


@cache
def _table(kind: str) -> np.ndarray:
    """Density of bins of 2 degrees by phi and psi, from -179; (180, 180) float."""
    # Found without importing pyrama, whose import opens matplotlib's graphical backend.
    spec = find_spec("pyrama")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the package pyrama, which has the Ramachandran tables, is not installed")
    rows = np.loadtxt(Path(spec.origin).parent / "data" / f"pref_{kind}.data")
    table = np.zeros((_BINS, _BINS))
    place = ((rows[:, :2] + 179) / _BIN_DEGREES).round().astype(int)
    table[place[:, 0], place[:, 1]] = rows[:, 2]
    return table
