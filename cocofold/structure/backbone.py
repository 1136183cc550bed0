"""Which residues move by themselves, how they are linked, and what rides along with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from cocofold.structure.model import Model

LONGEST_PEPTIDE_BOND_ANGSTROM = 2.3


@dataclass(frozen=True)
class Backbone:
    """Rigid frames that carry all atoms: residues with N, CA and C, which move by themselves, and passengers.

    Attributes
    ----------
    residues : (n,) int
        Rows in ``Model.residues`` of those with a backbone, in file order. Frame i is residue ``residues[i]``.
    atoms : (n, 3) int
        Rows of N, CA and C.
    passengers : (m,) int
        Rows in ``Model.residues`` of the others (ligands, ions, nucleotides, sugars, water), which ride along with
        what is around them, each in one piece. Frame n + i is residue ``passengers[i]``.
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
        passengers = np.setdiff1d(np.unique(model.residue_of_atom), residues)
        linked = np.zeros(len(residues) + len(passengers), dtype=bool)
        linked[: len(residues) - 1] = close & (chain[1:] == chain[:-1])
        frame_of_residue = np.empty(len(model.residues), dtype=int)
        frame_of_residue[residues] = np.arange(len(residues))
        frame_of_residue[passengers] = len(residues) + np.arange(len(passengers))
        if len(passengers):
            centres = centroids(model, passengers)
            chain = np.append(chain, chain[cKDTree(model.positions[atoms[:, 1]]).query(centres)[1]])
        return cls(residues, atoms, passengers, linked, frame_of_residue[model.residue_of_atom], chain)


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
