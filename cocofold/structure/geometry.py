"""Rigid geometry: superposition, radius, rotations of point groups and assemblies of copies."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any

import gemmi
import numpy as np
from scipy.spatial.transform import Rotation

from cocofold.structure.model import Model
from cocofold.system.errors import InputError

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


# Turns below this angle have no axis that says anything: coordinates that differ by 0.5 Å turn a body by about 2°.
_LEAST_TURN_DEGREES = 3.0


@dataclass(frozen=True)
class ScrewMotion:
    """A rigid motion as a turn about an axis and a shift along it.

    Attributes
    ----------
    angle_degrees : float
    axis : (3,) float or None
        Unit vector, about which the turn is right-handed; None for a turn of less than 3°.
    point_angstrom : (3,) float or None
        Of the axis, the one nearest to the body's centre.
    along_axis_angstrom : float
        Shift along the axis; 0 without one.
    from_angstrom, to_angstrom : (3,) float
        The body's centre before and after.
    """

    angle_degrees: float
    axis: np.ndarray | None
    point_angstrom: np.ndarray | None
    along_axis_angstrom: float
    from_angstrom: np.ndarray
    to_angstrom: np.ndarray

    @property
    def centre_shift_angstrom(self) -> float:
        """By how much the body's centre moves."""
        return float(np.linalg.norm(self.to_angstrom - self.from_angstrom))

    @classmethod
    def of(cls, rotation: np.ndarray, translation: np.ndarray, centre: np.ndarray) -> ScrewMotion:
        """Of ``x -> rotation @ x + translation``, (3, 3) and (3,) Å, of a body with its centre there, (3,) Å."""
        turn = Rotation.from_matrix(rotation).as_rotvec()
        angle = float(np.linalg.norm(turn))
        ends = centre, rotation @ centre + translation
        if np.degrees(angle) < _LEAST_TURN_DEGREES:
            return cls(float(np.degrees(angle)), None, None, 0.0, *ends)
        axis = turn / angle
        along = float(axis @ translation)
        # (1 - R) p = t across the axis; what lies along the axis is free, and taken from the centre.
        point = np.linalg.lstsq(np.eye(3) - rotation, translation - along * axis, rcond=None)[0]
        point = point + axis * (axis @ (centre - point))
        return cls(float(np.degrees(angle)), axis, point, along, *ends)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, rounded."""
        return {
            "angle_degrees": round(self.angle_degrees, 2),
            "axis": None if self.axis is None else [round(value, 4) for value in self.axis.tolist()],
            "point_angstrom": (
                None if self.point_angstrom is None else [round(value, 2) for value in self.point_angstrom.tolist()]
            ),
            "along_axis_angstrom": round(self.along_axis_angstrom, 2),
            "centre_shift_angstrom": round(self.centre_shift_angstrom, 2),
            "from_angstrom": [round(value, 2) for value in self.from_angstrom.tolist()],
            "to_angstrom": [round(value, 2) for value in self.to_angstrom.tolist()],
        }

    def __str__(self) -> str:
        shift = f"its centre moves by {self.centre_shift_angstrom:.1f} Å"
        if self.axis is None or self.point_angstrom is None:
            return f"shifts without a clear turn ({self.angle_degrees:.1f}°); {shift}"
        axis = ", ".join(f"{value:.2f}" for value in self.axis)
        point = ", ".join(f"{value:.0f}" for value in self.point_angstrom)
        return (
            f"turns by {self.angle_degrees:.0f}° about the axis ({axis}) through ({point}) Å and shifts by "
            f"{self.along_axis_angstrom:.1f} Å along it; {shift}"
        )


# Largest fold of a cyclic or dihedral group: it only catches slips of the hand, as particles with more are not known
# (the vault has D39).
MAX_FOLD = 60
_CYCLIC = re.compile(r"C([1-9]\d?)")
_DIHEDRAL = re.compile(r"D([1-9]\d?)")
# Largest difference of entries below which two rotations are the same; those about a 60-fold axis differ by 0.1.
_SAME_ROTATION = 1e-6
# The golden ratio: where two-fold axes lie along x, y and z, an icosahedron has five-fold axes like (1, 0, golden).
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


def copy_positions(positions: np.ndarray, rotations: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Positions of all symmetric copies, one copy after the other.

    Parameters
    ----------
    positions : (n, 3) float
        Å.
    rotations : (c, 3, 3) float
        The identity first.
    centre : (3,) float
        Å, on all axes.

    Returns
    -------
    (c n, 3) float
    """
    return (np.einsum("cij,nj->cni", rotations, positions - centre) + centre).reshape(-1, 3)


def build_assembly(subunit: Model, rotations: np.ndarray, centre: np.ndarray) -> Model:
    """Model of all copies: the subunit's atoms, then each copy's in the same order, under new chain names.

    Parameters
    ----------
    subunit : Model
    rotations : (c, 3, 3) float
        The identity first.
    centre : (3,) float
        Å, on all axes.
    """
    structure = subunit.structure.clone()
    names = [chain.name for chain in structure[0]]
    generator = gemmi.Assembly.Gen()
    generator.chains = list(dict.fromkeys(names))
    for rotation in rotations:
        operator = gemmi.Assembly.Operator()
        transform = gemmi.Transform()
        transform.mat.fromlist(rotation.tolist())
        transform.vec.fromlist((centre - rotation @ centre).tolist())
        operator.transform = transform
        generator.operators.append(operator)
    assembly = gemmi.Assembly("all")
    assembly.generators.append(generator)
    structure.assemblies.clear()
    structure.assemblies.append(assembly)
    # Every atom has its copies, even if it lies on an axis.
    structure.transform_to_assembly("all", gemmi.HowToNameCopiedChain.Short, merge_dist=0)
    model = Model.of(structure)
    positions = copy_positions(subunit.positions, rotations, centre)
    return replace(model, positions=positions, notes=subunit.notes, described=subunit.described)


def _axis_rotation(fold: int, axis: tuple[float, float, float]) -> np.ndarray:
    direction = np.array(axis, dtype=float)
    return Rotation.from_rotvec(2 * math.pi / fold * direction / np.linalg.norm(direction)).as_matrix()


def _group_closure(generators: list[np.ndarray]) -> np.ndarray:
    """All products of the generators, each once."""
    found = [np.eye(3)]
    # The list grows while it is walked, so that the products' products are formed as well.
    for element in found:
        for generator in generators:
            product = generator @ element
            if all(np.abs(product - known).max() > _SAME_ROTATION for known in found):
                found.append(product)
    return np.stack(found)


def residue_centres(model: Model, positions: np.ndarray) -> np.ndarray:
    """CA of each residue, or the mean of its atoms where there is none, (n_residues, 3) Å."""
    count = np.maximum(np.bincount(model.residue_of_atom, minlength=len(model.residues)), 1)
    centres = np.zeros((len(model.residues), 3))
    np.add.at(centres, model.residue_of_atom, positions)
    centres /= count[:, None]
    residues, atoms = model.backbone()
    centres[residues] = positions[atoms[:, 1]]
    return centres
