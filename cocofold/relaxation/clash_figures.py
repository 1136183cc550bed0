"""Clashes of proteins and nucleic acids, bonds and angles of proteins, by published definitions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from cocofold.relaxation.force_field import peptide_torsion_atoms
from cocofold.structure.geometry import torsion_radians

# ChimeraX's definition of a clash and its defaults: overlap, allowance for hydrogen bonds, and bonds between atoms that
# are left out
CLASH_OVERLAP_ANGSTROM = 0.6
HYDROGEN_BOND_ALLOWANCE_ANGSTROM = 0.4
EXCLUDED_BONDS = 4
# As MolProbity counts outliers of bonds and angles
OUTLIER_SIGMAS = 4.0

# Van der Waals radii (Å) of heavy atoms with their hydrogens: Tsai et al., J. Mol. Biol. 290, 253 (1999), which
# ChimeraX uses for models without hydrogens
_TETRAHEDRAL_CARBON, _TRIGONAL_CARBON, _NITROGEN, _SULPHUR = 1.88, 1.76, 1.64, 1.77
_CARBONYL_OXYGEN, _HYDROXYL_OXYGEN = 1.42, 1.46
_TRIGONAL = {
    "ARG": {"CZ"},
    "ASN": {"CG"},
    "ASP": {"CG"},
    "GLN": {"CD"},
    "GLU": {"CD"},
    "HIS": {"CG", "CD2", "CE1"},
    "PHE": {"CG", "CD1", "CD2", "CE1", "CE2", "CZ"},
    "TYR": {"CG", "CD1", "CD2", "CE1", "CE2", "CZ"},
    "TRP": {"CG", "CD1", "CD2", "CE2", "CE3", "CZ2", "CZ3", "CH2"},
    **{name: {"C2", "C4", "C5", "C6", "C8"} for name in ("A", "C", "G", "U", "DA", "DC", "DG", "DT")},
}
_HYDROXYL = {"OG", "OG1", "OH", "O2'"}

# Means and standard deviations (Å, degrees): Engh & Huber, International Tables for Crystallography F, 18.3 (2001)
# by the name of the residue that decides
_OTHERS = "others"
_BONDS = {
    ("N", "CA"): {_OTHERS: (1.459, 0.020), "GLY": (1.456, 0.015), "PRO": (1.468, 0.017)},
    ("CA", "C"): {_OTHERS: (1.525, 0.026), "GLY": (1.514, 0.016), "PRO": (1.524, 0.020)},
    ("C", "O"): {_OTHERS: (1.229, 0.019), "GLY": (1.232, 0.016), "PRO": (1.228, 0.020)},
}
_ANGLES = {
    ("N", "CA", "C"): {_OTHERS: (111.0, 2.7), "GLY": (113.1, 2.5), "PRO": (112.1, 2.6)},
    ("CA", "C", "O"): {_OTHERS: (120.1, 2.1), "GLY": (120.6, 1.8), "PRO": (120.2, 2.4)},
}
# Across the peptide; + marks atoms of the next residue
_ANGLE_AT_NITROGEN = ("C", "+N", "+CA")
_PEPTIDE_LINKS = {
    ("C", "+N"): {_OTHERS: (1.336, 0.023), "PRO": (1.338, 0.019)},
    ("CA", "C", "+N"): {_OTHERS: (117.2, 2.2), "GLY": (116.2, 2.0), "PRO": (117.1, 2.8)},
    ("O", "C", "+N"): {_OTHERS: (122.7, 1.6), "GLY": (123.2, 1.7), "PRO": (121.1, 1.9)},
    _ANGLE_AT_NITROGEN: {_OTHERS: (121.7, 2.5), "GLY": (122.3, 2.1), "PRO": (119.3, 1.5)},
}
# The last angle before a cis proline
_CIS_PROLINE = (127.0, 2.4)


@dataclass(frozen=True)
class Stereochemistry:
    """Stereochemistry of a protein and of nucleic acids, whose bonds and angles are not compared.

    Attributes
    ----------
    clashes : tuple of str
        Pairs of heavy atoms of different residues, more than four bonds apart, whose van der Waals spheres overlap by
        0.6 Å or more (ChimeraX's definition), less 0.4 Å between a donor and an acceptor of hydrogen bonds.
    backbone_values : int
        Bonds and angles of the backbone that were compared with Engh & Huber's.
    outliers : tuple of str
        Those more than four standard deviations off.
    worst_sigmas : float
        The largest deviation, in standard deviations; 0 if nothing was compared.
    """

    clashes: tuple[str, ...]
    backbone_values: int
    outliers: tuple[str, ...]
    worst_sigmas: float


def measure_stereochemistry(topology: Any, positions: np.ndarray, labels: Sequence[str]) -> Stereochemistry:
    """Clashes of heavy atoms, and deviations of bonds and angles of a protein's.

    Parameters
    ----------
    topology : openmm.app.Topology
    positions : (n, 3) float
        Å, of all atoms of the topology.
    labels : sequence of str
        A name for each residue.
    """
    sigmas, names = _deviations(topology, positions, labels)
    beyond = np.flatnonzero(np.abs(sigmas) > OUTLIER_SIGMAS)
    return Stereochemistry(
        clashes=tuple(_clashes(topology, positions, labels)),
        backbone_values=len(sigmas),
        outliers=tuple(f"{names[row]} {sigmas[row]:+.1f}σ" for row in beyond),
        worst_sigmas=float(np.abs(sigmas).max(initial=0)),
    )


def _clashes(topology: Any, positions: np.ndarray, labels: Sequence[str]) -> list[str]:
    heavy = [atom for atom in topology.atoms() if atom.element.atomic_number > 1]
    where = np.array([atom.index for atom in heavy])
    radii = np.array([_radius(atom) for atom in heavy])
    tree = cKDTree(positions[where])
    pairs = tree.query_pairs(2 * radii.max() - CLASH_OVERLAP_ANGSTROM, output_type="ndarray")
    distance = np.linalg.norm(positions[where[pairs[:, 0]]] - positions[where[pairs[:, 1]]], axis=1)
    overlap = radii[pairs].sum(1) - distance
    neighbours = _neighbours(topology)
    found = []
    for row in np.flatnonzero(overlap >= CLASH_OVERLAP_ANGSTROM).tolist():
        one, other = (heavy[atom] for atom in pairs[row])
        polar = {one.element.symbol, other.element.symbol} <= {"N", "O"}
        allowed = HYDROGEN_BOND_ALLOWANCE_ANGSTROM if polar else 0.0
        if one.residue is other.residue or overlap[row] - allowed < CLASH_OVERLAP_ANGSTROM:
            continue
        if other.index not in _atoms_within_bonds(neighbours, one.index):
            names = (f"{labels[atom.residue.index]} {atom.name}" for atom in (one, other))
            found.append(f"{' - '.join(names)} {overlap[row]:.2f} Å")
    return found


def _radius(atom: Any) -> float:
    symbol = atom.element.symbol
    if symbol == "C":
        trigonal = atom.name == "C" or atom.name in _TRIGONAL.get(atom.residue.name, ())
        return _TRIGONAL_CARBON if trigonal else _TETRAHEDRAL_CARBON
    if symbol == "O":
        return _HYDROXYL_OXYGEN if atom.name in _HYDROXYL else _CARBONYL_OXYGEN
    return {"N": _NITROGEN, "S": _SULPHUR}.get(symbol, _TETRAHEDRAL_CARBON)


def _neighbours(topology: Any) -> dict[int, list[int]]:
    bonded = defaultdict(list)
    for one, other in topology.bonds():
        bonded[one.index].append(other.index)
        bonded[other.index].append(one.index)
    return bonded


def _atoms_within_bonds(bonded: dict[int, list[int]], start: int) -> set[int]:
    """Atoms at most four bonds away."""
    reached = ring = {start}
    for _ in range(EXCLUDED_BONDS):
        ring = {atom for one in ring for atom in bonded[one]} - reached
        reached = reached | ring
    return reached


def _deviations(topology: Any, positions: np.ndarray, labels: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Deviations of backbone bonds and angles in standard deviations, (n_values,), and their names."""
    sigmas, names = [], []
    residues = list(topology.residues())
    named = [{atom.name: atom.index for atom in residue.atoms()} for residue in residues]
    for place, residue in enumerate(residues):
        after = residues[place + 1] if place + 1 < len(residues) else None
        expected = {key: _expected_value(table, residue.name) for key, table in (*_BONDS.items(), *_ANGLES.items())}
        if after is not None and after.chain is residue.chain:
            for key, table in _PEPTIDE_LINKS.items():
                expected[key] = _expected_value(table, _deciding_residue_name(key, residue.name, after.name))
            if after.name == "PRO" and _is_cis(named[place], named[place + 1], positions):
                expected[_ANGLE_AT_NITROGEN] = _CIS_PROLINE
        for key, (mean, deviation) in expected.items():
            atoms = [named[place + (name[0] == "+")].get(name.lstrip("+"), -1) for name in key]
            if -1 in atoms:
                continue
            points = positions[atoms]
            value = np.linalg.norm(points[1] - points[0]) if len(points) == 2 else _angle(points)
            sigmas.append((value - mean) / deviation)
            names.append(f"{labels[place]} {'-'.join(key)}")
    return np.array(sigmas), names


def _is_cis(named: dict[str, int], next_named: dict[str, int], positions: np.ndarray) -> bool:
    atoms = peptide_torsion_atoms(named, next_named)
    return -1 not in atoms and bool(np.abs(torsion_radians(positions[atoms])) < np.pi / 2)


def _deciding_residue_name(key: tuple[str, ...], name: str, after: str) -> str:
    """Which residue's kind decides about a bond or angle across a peptide: the next one, or a glycine before it."""
    return name if name == "GLY" and after != "PRO" and "+CA" not in key else after


def _expected_value(table: dict[str, tuple[float, float]], name: str) -> tuple[float, float]:
    return table.get(name, table[_OTHERS])


def _angle(points: np.ndarray) -> float:
    one, other = points[0] - points[1], points[2] - points[1]
    return float(np.degrees(np.arccos(np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other))))
