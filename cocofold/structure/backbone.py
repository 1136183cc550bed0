"""Which residues move by themselves, how they are linked, and what rides along with them."""

from __future__ import annotations

from dataclasses import dataclass

import gemmi
import numpy as np
from scipy.spatial import cKDTree

from cocofold.structure.bonds import covalent_bonds, is_metal
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
    carrier: np.ndarray
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
        anchors = _anchors(model, residues, others) if len(others) else {}
        passengers = np.array([row for row in others if row not in anchors], dtype=int)
        linked = np.zeros(len(residues) + len(passengers), dtype=bool)
        linked[: len(residues) - 1] = close & (chain[1:] == chain[:-1])
        frame_of_residue = np.empty(len(model.residues), dtype=int)
        frame_of_residue[residues] = np.arange(len(residues))
        frame_of_residue[passengers] = len(residues) + np.arange(len(passengers))
        for row, anchor in anchors.items():
            frame_of_residue[row] = frame_of_residue[anchor]
        if len(passengers):
            centres = centroids(model, passengers)
            chain = np.append(chain, chain[cKDTree(model.positions[atoms[:, 1]]).query(centres)[1]])
        return cls(residues, atoms, passengers, linked, frame_of_residue[model.residue_of_atom], chain)


def _anchors(model: Model, residues: np.ndarray, others: np.ndarray) -> dict[int, int]:
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


def centroids(model: Model, residues: np.ndarray) -> np.ndarray:
    """Mean position of the atoms of each residue, (n, 3) Å; ``residues`` are rows in ``Model.residues``."""
    count = np.bincount(model.residue_of_atom, minlength=len(model.residues))
    total = np.zeros((len(model.residues), 3))
    np.add.at(total, model.residue_of_atom, model.positions)
    return total[residues] / count[residues, None]


def frames(backbone_positions: np.ndarray) -> np.ndarray:
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
    x = carbon - alpha
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = nitrogen - alpha
    y -= (y * x).sum(1, keepdims=True) * x
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    return np.stack([x, y, np.cross(x, y)], axis=-1)
