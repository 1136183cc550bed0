"""Which residues move by themselves, how they are linked, and what rides along with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from cocofold.structure.model import Model

LONGEST_PEPTIDE_BOND_ANGSTROM = 2.3


@dataclass(frozen=True)
class Backbone:
    """Residues with N, CA and C, each a rigid frame; every other atom rides along with one of them.

    Attributes
    ----------
    residues : (n,) int
        Rows in ``Model.residues``, in file order.
    atoms : (n, 3) int
        Rows of N, CA and C.
    linked : (n,) bool
        Whether a peptide bond joins a frame to the next one: both in one chain, C and N closer than 2.3 Å in the
        model as given. False at a break in the chain and at its end.
    carrier : (n_atoms,) int
        The frame with which an atom moves: its own residue's, or for residues without a backbone (ligands, ions,
        nucleotides, glycans) the frame whose CA is nearest to the residue, so that each stays in one piece.
    chain : (n,) int
        Number of the chain of each frame, from 0.
    """

    residues: np.ndarray
    atoms: np.ndarray
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
        linked = np.append(close & (chain[1:] == chain[:-1]), False)
        frame_of_residue = np.full(len(model.residues), -1)
        frame_of_residue[residues] = np.arange(len(residues))
        passengers = np.flatnonzero(frame_of_residue < 0)
        if len(passengers):
            tree = cKDTree(model.positions[atoms[:, 1]])
            for row in passengers:
                distance, nearest = tree.query(model.positions[model.residue_of_atom == row])
                frame_of_residue[row] = nearest[distance.argmin()]
        return cls(residues, atoms, linked, frame_of_residue[model.residue_of_atom], chain)


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
