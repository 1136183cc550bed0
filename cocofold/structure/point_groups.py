"""Point groups of particles, with axes as RELION, Xmipp and Scipion lay them."""

from __future__ import annotations

import math
import re

import numpy as np
from scipy.spatial.transform import Rotation

from cocofold.system.errors import InputError

MAX_FOLD = 60
_CYCLIC = re.compile(r"C([1-9]\d?)")
_DIHEDRAL = re.compile(r"D([1-9]\d?)")
_GOLDEN = (1 + math.sqrt(5)) / 2
# Rotations that make the group: how many-fold, and about which axis (RELION's symmetries.cpp; lengths do not matter).
_POLYHEDRAL = {
    "T": ((3, (0, 0, 1)), (2, (0, math.sqrt(2), 1))),
    "O": ((4, (0, 0, 1)), (3, (1, 1, 1))),
    "I1": ((2, (1, 0, 0)), (5, (_GOLDEN, 0, -1)), (3, (1 + _GOLDEN, 1, 0))),
    "I2": ((2, (0, 0, 1)), (5, (1, 0, _GOLDEN)), (3, (0, 1, 1 + _GOLDEN))),
    "I3": ((2, (-1, 0, _GOLDEN)), (5, (0, 0, 1))),
    "I4": ((2, (1, 0, _GOLDEN)), (5, (2, 0, 1))),
}
ALLOWED_POINT_GROUPS = f"C1 to C{MAX_FOLD}, D1 to D{MAX_FOLD}, T, O, I (as I2) and I1 to I4"


def point_group_rotations(group: str) -> np.ndarray:
    """Rotations of a point group about the origin, the identity first.

    Cn and Dn have their n-fold axis along z, Dn a two-fold one along x; T has a three-fold axis along z, O a four-fold
    one; I1 and I2 have two-fold axes along x, y and z, and the five-fold axes next to z in the yz plane (I1) or in the
    xz plane (I2); I3 and I4 have a five-fold axis along z; I is I2.

    Parameters
    ----------
    group : str

    Returns
    -------
    (n, 3, 3) float64

    Raises
    ------
    InputError
        If there is no such group.
    """
    name = normalise_point_group(group)
    cyclic, dihedral = _CYCLIC.fullmatch(name), _DIHEDRAL.fullmatch(name)
    if cyclic:
        generators = [_axis_rotation(int(cyclic[1]), (0, 0, 1))]
    elif dihedral:
        generators = [_axis_rotation(int(dihedral[1]), (0, 0, 1)), _axis_rotation(2, (1, 0, 0))]
    else:
        generators = [_axis_rotation(fold, axis) for fold, axis in _POLYHEDRAL[name]]
    return _group_closure(generators)


def normalise_point_group(group: str) -> str:
    """A group's name in capitals, ``I`` as ``I2``.

    Raises
    ------
    InputError
        If there is no such group.
    """
    name = group.strip().upper()
    name = "I2" if name == "I" else name
    fold = _CYCLIC.fullmatch(name) or _DIHEDRAL.fullmatch(name)
    if name not in _POLYHEDRAL and not (fold and int(fold[1]) <= MAX_FOLD):
        raise InputError(f"--symmetry {group}: no point group that particles have; give {ALLOWED_POINT_GROUPS}")
    return name


def _axis_rotation(fold: int, axis: tuple[float, float, float]) -> np.ndarray:
    direction = np.array(axis, dtype=float)
    return Rotation.from_rotvec(2 * math.pi / fold * direction / np.linalg.norm(direction)).as_matrix()


def _group_closure(generators: list[np.ndarray]) -> np.ndarray:
    """All products of the generators, each once."""
    found = [np.eye(3)]
    for element in found:
        for generator in generators:
            product = generator @ element
            if all(np.abs(product - known).max() > 1e-6 for known in found):
                found.append(product)
    return np.stack(found)
