"""Pairs of bases in DNA and RNA, by the geometry of their rings."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from cocofold.structure.geometry import find_superposition
from cocofold.structure.model import Model

# Ring atoms of a base in the reference frame of its pairs, Å: adenine and cytosine of Olson et al. (J. Mol. Biol. 313,
# 229, 2001), from which those of other purines and pyrimidines differ by less than 0.1 Å. z is the base's normal, and
# the origins of both bases of a Watson-Crick pair coincide.
_PURINE_RING = {
    "N9": (-1.291, 4.498, 0.0), "C8": (0.024, 4.897, 0.0), "N7": (0.877, 3.902, 0.0), "C5": (0.071, 2.771, 0.0),
    "C6": (0.369, 1.398, 0.0), "N1": (-0.668, 0.532, 0.0), "C2": (-1.912, 1.023, 0.0), "N3": (-2.320, 2.290, 0.0),
    "C4": (-1.267, 3.124, 0.0),
}  # fmt: skip
_PYRIMIDINE_RING = {
    "N1": (-1.285, 4.542, 0.0), "C2": (-1.472, 3.158, 0.0), "N3": (-0.391, 2.344, 0.0), "C4": (0.837, 2.868, 0.0),
    "C5": (1.056, 4.275, 0.0), "C6": (-0.023, 5.068, 0.0),
}  # fmt: skip
# Atoms of a nucleotide that are neither of its base nor of its sugar; those of the sugar end in a prime.
PHOSPHATE_ATOMS = ("P", "OP1", "OP2", "OP3", "O1P", "O2P", "O3P")
# What makes two bases a pair, after Lu & Olson (Nucleic Acids Res. 31, 5108, 2003): origins within 15 Å, at most 2.5 Å
# apart along the mean normal, normals within 65 degrees, N1 or N9 at least 4.5 Å apart, and a nitrogen or oxygen of
# each base within 4 Å.
_MOST_BETWEEN_ORIGINS_ANGSTROM, _MOST_ALONG_NORMAL_ANGSTROM, _MOST_BETWEEN_NORMALS_DEGREES = 15.0, 2.5, 65.0
_LEAST_BETWEEN_GLYCOSIDIC_ANGSTROM, _MOST_HYDROGEN_BOND_ANGSTROM = 4.5, 4.0


def pairing_edge_atoms(model: Model) -> np.ndarray:
    """For each residue the atom by which its base takes part in a Watson-Crick pair, N1 or N3; -1 without a base."""
    purine = np.all([model.atoms_named(name) >= 0 for name in _PURINE_RING], axis=0)
    pyrimidine = np.all([model.atoms_named(name) >= 0 for name in _PYRIMIDINE_RING], axis=0)
    edge = np.where(purine, model.atoms_named("N1"), model.atoms_named("N3"))
    return np.where(pyrimidine, edge, -1)


def find_base_pairs(model: Model) -> np.ndarray:
    """Residues whose bases are paired, (n, 2) int, the first one first, after Lu & Olson (2003).

    Of several bases that could be a base's partner it is the one with the least sum of the distance of their origins,
    twice their distance along the normal (Å) and a twentieth of the angle of their normals (degrees), if it is the
    partner's best too. Bases of any kind that have the ring of a purine or a pyrimidine count, by atom names.
    """
    rows = np.intersect1d(np.flatnonzero(pairing_edge_atoms(model) >= 0), model.nucleotides()[0])
    if len(rows) < 2:
        return np.zeros((0, 2), dtype=int)
    axes, origins, glycosidic = _base_frames(model, rows)
    one, other = cKDTree(origins).query_pairs(_MOST_BETWEEN_ORIGINS_ANGSTROM, output_type="ndarray").T
    apart = origins[one] - origins[other]
    normals = axes[:, :, 2]
    cosines = (normals[one] * normals[other]).sum(1)
    angles = np.degrees(np.arccos(np.clip(np.abs(cosines), 0, 1)))
    mean_normal = normals[one] + np.where(cosines < 0, -1, 1)[:, None] * normals[other]
    along = np.abs((apart * mean_normal).sum(1)) / np.linalg.norm(mean_normal, axis=1)
    fit = (along <= _MOST_ALONG_NORMAL_ANGSTROM) & (angles <= _MOST_BETWEEN_NORMALS_DEGREES)
    fit &= np.linalg.norm(glycosidic[one] - glycosidic[other], axis=1) >= _LEAST_BETWEEN_GLYCOSIDIC_ANGSTROM
    bonded = _joined_by_hydrogen_bonds(model, rows)
    fit &= np.array([pair in bonded for pair in zip(one.tolist(), other.tolist())], dtype=bool)
    one, other = one[fit], other[fit]
    score = (np.linalg.norm(apart, axis=1) + 2 * along + angles / 20)[fit]
    best = np.full(len(rows), np.inf)
    np.minimum.at(best, np.concatenate([one, other]), np.concatenate([score, score]))
    mutual = (score == best[one]) & (score == best[other])
    found = np.sort(rows[np.stack([one[mutual], other[mutual]], axis=1)], axis=1)
    return found[np.lexsort(found.T[::-1])]


def _base_frames(model: Model, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Axes (in columns) and origins of bases, fitted to their rings, and positions of their N9 or N1."""
    named = {name: model.atoms_named(name) for name in (*_PURINE_RING, *_PYRIMIDINE_RING)}
    rotations, origins, glycosidic = [], [], []
    for row in rows:
        ring = _PURINE_RING if all(named[name][row] >= 0 for name in _PURINE_RING) else _PYRIMIDINE_RING
        positions = model.positions[[named[name][row] for name in ring]]
        rotation, translation = find_superposition(np.array(list(ring.values())), positions)
        rotations.append(rotation)
        origins.append(translation)
        glycosidic.append(positions[0])
    return np.array(rotations), np.array(origins), np.array(glycosidic)


def _joined_by_hydrogen_bonds(model: Model, rows: np.ndarray) -> set[tuple[int, int]]:
    """Places in ``rows``, the lower first, of residues of which a nitrogen or oxygen of either base is near."""
    place = np.full(len(model.residues), -1)
    place[rows] = np.arange(len(rows))
    of_sugar = np.char.endswith(model.atom_names.astype(str), "'") | np.isin(model.atom_names, PHOSPHATE_ATOMS)
    polar = np.flatnonzero(np.isin(model.atomic_numbers, (7, 8)) & ~of_sugar & (place[model.residue_of_atom] >= 0))
    near = cKDTree(model.positions[polar]).query_pairs(_MOST_HYDROGEN_BOND_ANGSTROM, output_type="ndarray")
    joined = np.sort(place[model.residue_of_atom[polar[near]]], axis=1)
    return {(one, other) for one, other in joined.tolist() if one != other}
