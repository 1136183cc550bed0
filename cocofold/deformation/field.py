"""A smooth field of rigid motions, carried by nodes spread over the residues."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import roma
import torch
from scipy.spatial import cKDTree

from cocofold.sparse import WeightedSums

_NEAREST_NODES = 16
_NODES_PER_RADIUS = 1.5
_LEAST_SHARE = 1e-6
# Of a pass through a field, its gradient and what restrains the atoms
BYTES_PER_ATOM = 20_000


@dataclass(frozen=True)
class Nodes:
    """Nodes of a field and how residues share their motions.

    Attributes
    ----------
    centres : (n_nodes, 3) float
        Å; the point about which a node turns.
    neighbours : (n_residues, n_shared) int
        Nodes that move each residue.
    weights : (n_residues, n_shared) float
        Their shares, which add up to one.
    """

    centres: torch.Tensor
    neighbours: torch.Tensor
    weights: torch.Tensor

    def to(self, device: torch.device | str) -> Nodes:
        """The same nodes on another device."""
        return Nodes(self.centres.to(device), self.neighbours.to(device), self.weights.to(device))

    @cached_property
    def means(self) -> WeightedSums:
        """From what nodes have to its weighted mean for each residue."""
        return WeightedSums(self.neighbours, self.weights, len(self.centres))


def spread_nodes(positions: np.ndarray, radius_angstrom: float, n_moving: int) -> Nodes:
    """Nodes at some of the residues, about 2/3 radius apart, weighted by a Gaussian of that radius.

    A residue sees its 16 nearest nodes at most, so the cost is linear in residues. One that is far from all nodes
    follows the nearest.

    Parameters
    ----------
    positions : (n_residues, 3) float
    radius_angstrom : float
    n_moving : int
        Nodes lie on the first so many residues; the others ride along.
    """
    chosen = _thin(positions[:n_moving], radius_angstrom / _NODES_PER_RADIUS)
    shared = min(_NEAREST_NODES, len(chosen))
    tree = cKDTree(positions[chosen])
    distance, neighbours = (a.reshape(len(positions), -1) for a in tree.query(positions, k=shared))
    # A share falls smoothly to zero at the last neighbour, so that no residue feels a node come or go.
    taper = 1.0
    if shared < len(chosen):
        taper = np.clip(1 - (distance / distance[:, -1:]) ** 2, 0, None) ** 2
    weights = np.exp(-0.5 * (distance**2 - distance[:, :1] ** 2) / radius_angstrom**2) * taper
    weights[:, 0] += _LEAST_SHARE
    weights /= weights.sum(1, keepdims=True)
    return Nodes(
        torch.as_tensor(positions[chosen], dtype=torch.float32),
        torch.as_tensor(neighbours),
        torch.as_tensor(weights, dtype=torch.float32),
    )


def body_nodes(positions: np.ndarray, body: np.ndarray) -> Nodes:
    """One node for each rigid body, at its centre; ``body`` is the body of each residue, (n_residues,) int."""
    count = int(body.max()) + 1
    centres = np.stack([positions[body == number].mean(0) for number in range(count)])
    return Nodes(
        torch.as_tensor(centres, dtype=torch.float32),
        torch.as_tensor(body)[:, None],
        torch.ones(len(body), 1),
    )


def _thin(positions: np.ndarray, spacing: float) -> np.ndarray:
    """Rows such that every position has a chosen one within ``spacing`` and no two chosen are closer."""
    tree = cKDTree(positions)
    free = np.ones(len(positions), dtype=bool)
    chosen = []
    for row in range(len(positions)):
        if free[row]:
            chosen.append(row)
            free[tree.query_ball_point(positions[row], spacing)] = False
    return np.array(chosen)


def move(
    nodes: Nodes, turns: torch.Tensor, shifts: torch.Tensor, rotations: torch.Tensor, origins: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move residue frames by the field.

    Each node turns space about its centre and shifts it; a residue's origin goes to the weighted mean of where its
    nodes would take it, and its axes turn by the weighted mean rotation vector. Equal motions of all nodes move
    the residues as one rigid body.

    Parameters
    ----------
    nodes : Nodes
    turns, shifts : (n_nodes, 3) float
        Rotation vectors (radian) and translations (Å).
    rotations : (n_residues, 3, 3) float
    origins : (n_residues, 3) float

    Returns
    -------
    rotations, origins
        Of the same shapes.
    """
    # Of all that nodes do to residues the weighted mean is taken in one product.
    around, turned = roma.rotvec_to_rotmat(torch.cat([turns, nodes.means(turns)])).split([len(turns), len(origins)])
    # A node takes x to M (x - centre) + centre + shift, which is x and something linear in (x, 1).
    matrices = around - torch.eye(3, dtype=turns.dtype, device=turns.device)
    offsets = shifts - torch.matmul(matrices, nodes.centres[..., None])[..., 0]
    matrices, offsets = nodes.means(torch.cat([matrices.flatten(1), offsets], dim=1)).split([9, 3], dim=1)
    displaced = torch.matmul(matrices.unflatten(1, (3, 3)), origins[..., None])[..., 0] + offsets
    return torch.matmul(turned, rotations), origins + displaced
