"""Which residues move by themselves, how they are linked, and what rides along with them."""

from __future__ import annotations

from dataclasses import dataclass

import gemmi
import numpy as np
from scipy.spatial import cKDTree

from cocofold.structure.geometry import axes_from_directions
from cocofold.structure.model import Model

LONGEST_PEPTIDE_BOND_ANGSTROM = 2.3


@dataclass(frozen=True)
class Backbone:
    """Rigid frames that carry all atoms: residues with N, CA and C, which move by themselves, and passengers.

    What is bonded to a residue with a backbone belongs to its frame, so that the bond stays as it is: sugars of a
    glycan, a cofactor, a metal that it coordinates, a cap, a residue that lacks a backbone atom. Nucleotides never do.

    Attributes
    ----------
    residues : (n,) int
        Rows in ``Model.residues`` of those with a backbone, in file order. Frame i is residue ``residues[i]``.
    atoms : (n, 3) int
        Rows of N, CA and C.
    passengers : (m,) int
        Rows in ``Model.residues`` of those that are bonded to none with a backbone (ligands, ions, nucleotides, water),
        which ride along with what is around them, each in one piece. Frame n + i is residue ``passengers[i]``.
    linked : (n + m,) bool
        Whether a peptide bond joins a frame to the next one: both in one chain, C and N closer than 2.3 Å in the
        model as given. False at a break in the chain, at its end, and for passengers.
    carrier : (n_atoms,) int
        The frame of each atom.
    chain : (n + m,) int
        Number of the chain of each frame, from 0; for a passenger that of the nearest residue with a backbone.
    """

    residues: np.ndarray
    atoms: np.ndarray
    passengers: np.ndarray
    linked: np.ndarray
    frame_of_atom: np.ndarray
    chain: np.ndarray

    def __len__(self) -> int:
        return len(self.residues)

    @classmethod
    def of(cls, model: Model) -> Backbone:
        """Find the frames, links and passengers of a model."""
        residues, atoms = model.backbone()
        names = [model.residues[row].chain for row in residues]
        order: dict[str, int] = {}
        chain = np.array([order.setdefault(name, len(order)) for name in names])
        carbon, nitrogen = model.positions[atoms[:-1, 2]], model.positions[atoms[1:, 0]]
        close = np.linalg.norm(carbon - nitrogen, axis=1) < LONGEST_PEPTIDE_BOND_ANGSTROM
        others = np.setdiff1d(np.unique(model.residue_of_atom), residues)
        anchors = _bonded_backbone_residues(model, residues, others) if len(others) else {}
        passengers = np.array([row for row in others if row not in anchors], dtype=int)
        linked = np.zeros(len(residues) + len(passengers), dtype=bool)
        linked[: len(residues) - 1] = close & (chain[1:] == chain[:-1])
        frame_of_residue = np.empty(len(model.residues), dtype=int)
        frame_of_residue[residues] = np.arange(len(residues))
        frame_of_residue[passengers] = len(residues) + np.arange(len(passengers))
        for row, anchor in anchors.items():
            frame_of_residue[row] = frame_of_residue[anchor]
        if len(passengers):
            centres = residue_centroids(model, passengers)
            chain = np.append(chain, chain[cKDTree(model.positions[atoms[:, 1]]).query(centres)[1]])
        return cls(residues, atoms, passengers, linked, frame_of_residue[model.residue_of_atom], chain)


def _bonded_backbone_residues(model: Model, residues: np.ndarray, others: np.ndarray) -> dict[int, int]:
    """For each of the other residues that is bonded to one with a backbone, also by way of others, that residue.

    Of several the one with the shortest bond. A metal belongs to what it coordinates, but passes nothing on: a
    nucleotide that holds a magnesium ion is not tied to the aspartate on its other side.
    """
    has_backbone = np.isin(np.arange(len(model.residues)), residues)
    bonds = covalent_bonds(model)
    owner = model.residue_of_atom[bonds]
    across = (owner[:, 0] != owner[:, 1]) & ~has_backbone[owner].all(1)
    passed_on = has_backbone[owner].any(1) | ~is_metal(model)[bonds].any(1)
    bonds, owner = bonds[across & passed_on], owner[across & passed_on]
    length = np.linalg.norm(model.positions[bonds[:, 0]] - model.positions[bonds[:, 1]], axis=1)
    pairs = [(int(first), int(second)) for first, second in owner[np.argsort(length, kind="stable")]]
    free = {int(row) for row in others if not _is_nucleotide(model.residues[row].name)}
    anchors: dict[int, int] = {}
    reached = {int(row): int(row) for row in residues}
    while reached:
        nearest: dict[int, int] = {}
        for first, second in pairs:
            for known, other in ((first, second), (second, first)):
                if known in reached and other in free:
                    nearest.setdefault(other, reached[known])
        free.difference_update(nearest)
        anchors.update(nearest)
        reached = nearest
    return anchors


def _is_nucleotide(name: str) -> bool:
    return gemmi.find_tabulated_residue(name).is_nucleic_acid()


def residue_centroids(model: Model, residues: np.ndarray) -> np.ndarray:
    """Mean position of the atoms of each residue, (n, 3) Å; ``residues`` are rows in ``Model.residues``."""
    count = np.bincount(model.residue_of_atom, minlength=len(model.residues))
    total = np.zeros((len(model.residues), 3))
    np.add.at(total, model.residue_of_atom, model.positions)
    return total[residues] / count[residues, None]


def residue_frames(backbone_positions: np.ndarray) -> np.ndarray:
    """Right-handed axes of residues by Gram-Schmidt: x along CA to C, y in the plane of N.

    Parameters
    ----------
    backbone_positions : (n, 3, 3) float
        N, CA and C of each residue.

    Returns
    -------
    (n, 3, 3) float
        Axes in the columns.
    """
    nitrogen, alpha, carbon = backbone_positions.transpose(1, 0, 2)
    return axes_from_directions(carbon - alpha, nitrogen - alpha)


_MAX_BOND_ANGSTROM_BY_HEAVY_ATOMS = (1.75, 2.05, 2.3)
_MAX_BOND_TO_HYDROGEN_ANGSTROM = 1.35
_NEON = 10
_MAX_BOND_TO_METAL_ANGSTROM = 2.8
# Nitrogen, oxygen, fluorine, sulfur, chlorine, selenium, bromine, iodine.
_COORDINATING_ELEMENTS = (7, 8, 9, 16, 17, 34, 35, 53)
_METALS = [number for number in range(1, 119) if gemmi.Element(number).is_metal]


def covalent_bonds(model: Model) -> np.ndarray:
    """Pairs of bonded atoms, (n_bonds, 2) int.

    Two atoms up to neon are bonded below 1.75 Å, below 2.05 Å if one is heavier (C-S, P-O), below 2.3 Å if both
    are (S-S), and a hydrogen below 1.35 Å. A metal is bonded to nitrogen, oxygen, sulfur, selenium and halogens below
    2.8 Å, and to nothing else.
    """
    pairs = cKDTree(model.positions).query_pairs(_MAX_BOND_ANGSTROM_BY_HEAVY_ATOMS[-1], output_type="ndarray")
    distance = np.linalg.norm(model.positions[pairs[:, 0]] - model.positions[pairs[:, 1]], axis=1)
    numbers = model.atomic_numbers[pairs]
    limit = np.array(_MAX_BOND_ANGSTROM_BY_HEAVY_ATOMS)[(numbers > _NEON).sum(1)]
    limit[(numbers == 1).any(1)] = _MAX_BOND_TO_HYDROGEN_ANGSTROM
    bonds = pairs[distance < limit]
    metal = is_metal(model)
    if not metal.any():
        return bonds
    return np.concatenate([bonds[~metal[bonds].any(1)], _metal_bonds(model, metal)])


def is_metal(model: Model) -> np.ndarray:
    """Whether each atom is of a metal, (n_atoms,) bool."""
    return np.isin(model.atomic_numbers, _METALS)


def _metal_bonds(model: Model, metal: np.ndarray) -> np.ndarray:
    metals, others = np.flatnonzero(metal), np.flatnonzero(np.isin(model.atomic_numbers, _COORDINATING_ELEMENTS))
    if len(others) == 0:
        return np.empty((0, 2), dtype=int)
    near = cKDTree(model.positions[metals]).query_ball_tree(
        cKDTree(model.positions[others]), _MAX_BOND_TO_METAL_ANGSTROM
    )
    found = [(metals[row], others[column]) for row, columns in enumerate(near) for column in sorted(columns)]
    return np.array(found, dtype=int).reshape(-1, 2)


_MAX_CHI = 4


@dataclass(frozen=True)
class SideChainTorsions:
    """Side-chain torsions chi 1 ... chi 4, ordered so that a torsion comes after those nearer to the backbone.

    Attributes
    ----------
    axes : (n_torsions, 2) int
        Atoms of each rotatable bond, the one nearer to the backbone first.
    turned : tuple of 4 pairs
        For each depth the torsion and the atom, both (n_turned,) int, of every atom that a torsion of that depth turns.
    """

    axes: np.ndarray
    turned: tuple[tuple[np.ndarray, np.ndarray], ...]

    def __len__(self) -> int:
        return len(self.axes)

    @classmethod
    def of(cls, model: Model, backbone: Backbone) -> SideChainTorsions:
        """Torsions of every side chain that hangs on its backbone alone.

        Rings, prolines, cystines and side chains bonded to another residue have none beyond what leaves these
        bonds in place, and planar groups at the end of a chain of four torsions do not turn.
        """
        pairs = covalent_bonds(model)
        owner = model.residue_of_atom
        tied = set(np.unique(pairs[owner[pairs[:, 0]] != owner[pairs[:, 1]]]))
        neighbours: dict[int, list[int]] = {}
        for first, second in pairs[owner[pairs[:, 0]] == owner[pairs[:, 1]]]:
            neighbours.setdefault(int(first), []).append(int(second))
            neighbours.setdefault(int(second), []).append(int(first))
        axes: list[tuple[int, int]] = []
        turned: list[tuple[list[int], list[int]]] = [([], []) for _ in range(_MAX_CHI)]
        beta = model.atoms_named("CB")[backbone.residues]
        for (_, alpha, _), base in zip(backbone.atoms.tolist(), beta.tolist()):
            if base >= 0:
                _collect_torsions(alpha, base, 0, neighbours, tied, model.atomic_numbers, axes, turned)
        return cls(
            np.array(axes, dtype=int).reshape(-1, 2),
            tuple((np.array(torsion, dtype=int), np.array(atom, dtype=int)) for torsion, atom in turned),
        )


def _collect_torsions(
    near: int,
    far: int,
    depth: int,
    neighbours: dict[int, list[int]],
    tied: set[int],
    atomic_numbers: np.ndarray,
    axes: list[tuple[int, int]],
    turned: list[tuple[list[int], list[int]]],
) -> None:
    """Add the torsion about near-far, if the bond is rotatable, and those behind it."""
    beyond = _atoms_beyond_bond(near, far, neighbours)
    if beyond is None or depth == _MAX_CHI:
        return
    heavy = [atom for atom in beyond if atomic_numbers[atom] > 1]
    if heavy and not tied.intersection([*beyond, far]):
        torsions, atoms = turned[depth]
        torsions.extend([len(axes)] * len(beyond))
        atoms.extend(beyond)
        axes.append((near, far))
    for atom in sorted(neighbours[far]):
        if atom != near and atomic_numbers[atom] > 1:
            _collect_torsions(far, atom, depth + 1, neighbours, tied, atomic_numbers, axes, turned)


def _atoms_beyond_bond(near: int, far: int, neighbours: dict[int, list[int]]) -> list[int] | None:
    """Atoms that hang on ``far`` when the bond near-far is cut; None if the bond lies in a ring."""
    seen, stack = {far}, [far]
    while stack:
        current = stack.pop()
        for atom in neighbours[current]:
            if atom == near and current != far:
                return None
            if atom != near and atom not in seen:
                seen.add(atom)
                stack.append(atom)
    return sorted(seen - {far})
