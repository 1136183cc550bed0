"""A smooth field of rigid motions, carried by nodes spread over the residues."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import roma
import torch
from scipy.spatial import cKDTree

from cocofold.sources.base import AtomSource, Stage
from cocofold.structure.model import Model
from cocofold.structure.topology import Backbone
from cocofold.structure.weighted_sums import WeightedSums

_NEAREST_NODES = 16
_NODES_PER_FIELD_RADIUS = 1.5
_NEAREST_NODE_MIN_WEIGHT = 1e-6
# Of a pass through a field, its gradient and what restrains the atoms
BYTES_PER_ATOM = 20_000


@dataclass(frozen=True)
class FieldNodes:
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

    def to(self, device: torch.device | str) -> FieldNodes:
        """The same nodes on another device."""
        return FieldNodes(self.centres.to(device), self.neighbours.to(device), self.weights.to(device))

    @cached_property
    def means(self) -> WeightedSums:
        """From what nodes have to its weighted mean for each residue."""
        return WeightedSums(self.neighbours, self.weights, len(self.centres))


def spread_nodes(positions: np.ndarray, radius_angstrom: float, n_moving: int) -> FieldNodes:
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
    chosen = _rows_at_spacing(positions[:n_moving], radius_angstrom / _NODES_PER_FIELD_RADIUS)
    shared = min(_NEAREST_NODES, len(chosen))
    tree = cKDTree(positions[chosen])
    distance, neighbours = (a.reshape(len(positions), -1) for a in tree.query(positions, k=shared))
    # A share falls smoothly to zero at the last neighbour, so that no residue feels a node come or go.
    taper = 1.0
    if shared < len(chosen):
        taper = np.clip(1 - (distance / distance[:, -1:]) ** 2, 0, None) ** 2
    weights = np.exp(-0.5 * (distance**2 - distance[:, :1] ** 2) / radius_angstrom**2) * taper
    weights[:, 0] += _NEAREST_NODE_MIN_WEIGHT
    weights /= weights.sum(1, keepdims=True)
    return FieldNodes(
        torch.as_tensor(positions[chosen], dtype=torch.float32),
        torch.as_tensor(neighbours),
        torch.as_tensor(weights, dtype=torch.float32),
    )


def body_nodes(positions: np.ndarray, body: np.ndarray) -> FieldNodes:
    """One node for each rigid body, at its centre; ``body`` is the body of each residue, (n_residues,) int."""
    count = int(body.max()) + 1
    centres = np.stack([positions[body == number].mean(0) for number in range(count)])
    return FieldNodes(
        torch.as_tensor(centres, dtype=torch.float32),
        torch.as_tensor(body)[:, None],
        torch.ones(len(body), 1),
    )


def _rows_at_spacing(positions: np.ndarray, spacing: float) -> np.ndarray:
    """Rows such that every position has a chosen one within ``spacing`` and no two chosen are closer."""
    tree = cKDTree(positions)
    free = np.ones(len(positions), dtype=bool)
    chosen = []
    for row in range(len(positions)):
        if free[row]:
            chosen.append(row)
            free[tree.query_ball_point(positions[row], spacing)] = False
    return np.array(chosen)


def move_frames(
    nodes: FieldNodes, turns: torch.Tensor, shifts: torch.Tensor, rotations: torch.Tensor, origins: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move residue frames by the field.

    Each node turns space about its centre and shifts it; a residue's origin goes to the weighted mean of where its
    nodes would take it, and its axes turn by the weighted mean rotation vector. Equal motions of all nodes move
    the residues as one rigid body.

    Parameters
    ----------
    nodes : FieldNodes
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


# Radius of the field (Å) and rate of its shifts (Å a step), by the finest resolution that is compared (Å).
_FIELD_BY_RESOLUTION = (
    (20.0, 20.0, 0.30),
    (17.0, 12.0, 0.30),
    (12.5, 8.0, 0.25),
    (8.3, 5.0, 0.20),
    (6.0, 3.5, 0.12),
    (0.0, 2.0, 0.08),
)
_TURN_PER_SHIFT = 0.1
_INNER_KEY_PREFIX = "inner."


class FieldOnTopSource:
    """Atoms of a source under a field of rigid motions, both learned together (``cocofold.sources.base.AtomSource``).

    A residue turns about its CA atom and shifts. What the field reached in earlier stages is kept as one motion of each
    residue; the radius of a stage follows its resolution. In a stage that does not ask the images the field rests.

    Parameters
    ----------
    inner : AtomSource
    model : Model
        Of the atoms; all of its residues have a backbone.
    device
    """

    def __init__(self, inner: AtomSource, model: Model, device: torch.device | str = "cpu") -> None:
        self._inner = inner
        self._device = torch.device(device)
        backbone = Backbone.of(model)
        self._alpha = torch.as_tensor(backbone.atoms[:, 1], device=self._device)
        self._carrier = torch.as_tensor(backbone.frame_of_atom, device=self._device)
        self._stages = inner.stages()
        count = len(backbone)
        self._reached = {
            "rotations": torch.eye(3, device=self._device).repeat(count, 1, 1),
            "shifts": torch.zeros(count, 3, device=self._device),
            "origins": torch.zeros(count, 3, device=self._device),
        }
        self._nodes: FieldNodes | None = None
        self._turns = torch.zeros(0, 3)
        self._shifts = torch.zeros(0, 3)

    def stages(self) -> list[Stage]:
        """Stages of the inner source."""
        return self._stages

    def begin(self, stage: int) -> list[dict]:
        """Go on with what the last stage reached, and spread the nodes of this one."""
        with torch.no_grad():
            base = self._inner.positions()[self._alpha]
            rotations, origins = self._frames(base)
            self._reached = {
                "rotations": roma.special_procrustes(rotations),
                "shifts": origins - base,
                "origins": origins,
            }
        return [*self._inner.begin(stage), *self._lay(stage)]

    def _lay(self, stage: int) -> list[dict]:
        """Nodes of a stage, at rest."""
        self._nodes, groups = None, []
        if self._stages[stage].batches:
            _, radius, rate = next(
                row for row in _FIELD_BY_RESOLUTION if row[0] <= self._stages[stage].resolution_angstrom
            )
            origins = self._reached["origins"].cpu().double().numpy()
            self._nodes = spread_nodes(origins, radius, len(origins)).to(self._device)
            count = len(self._nodes.centres)
            self._turns = torch.zeros(count, 3, device=self._device, requires_grad=True)
            self._shifts = torch.zeros(count, 3, device=self._device, requires_grad=True)
            groups = [
                {"params": [self._shifts], "lr": rate},
                {"params": [self._turns], "lr": rate * _TURN_PER_SHIFT},
            ]
        return groups

    def _frames(self, base: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotation of each residue, and where its CA atom goes from ``base``, (n_residues, 3)."""
        rotations, origins = self._reached["rotations"], base + self._reached["shifts"]
        if self._nodes is None:
            return rotations, origins
        return move_frames(self._nodes, self._turns, self._shifts, rotations, origins)

    def positions(self) -> torch.Tensor:
        """Positions of all atoms, (n_atoms, 3) Å, differentiable."""
        inner = self._inner.positions()
        base = inner[self._alpha]
        rotations, origins = self._frames(base)
        base, rotations, origins = (part.index_select(0, self._carrier) for part in (base, rotations, origins))
        return torch.matmul(rotations, (inner - base)[..., None])[..., 0] + origins

    def step_memory_bytes(self) -> int:
        """The inner source's and the field's."""
        return self._inner.step_memory_bytes() + BYTES_PER_ATOM * len(self._carrier)

    def uses_all_cores(self) -> bool:
        """If the inner source is."""
        return self._inner.uses_all_cores()

    def confidence(self) -> torch.Tensor | None:
        """The inner source's."""
        return self._inner.confidence()

    def prior(self, positions: torch.Tensor) -> torch.Tensor:
        """The inner source's, of the positions that are shown."""
        return self._inner.prior(positions)

    def revert_stage(self) -> None:
        """Go back to where the stage began."""
        self._inner.revert_stage()
        with torch.no_grad():
            self._turns.zero_()
            self._shifts.zero_()

    def state(self) -> dict[str, torch.Tensor]:
        """All that ``restore`` needs to go on from here within the stage."""
        inner = {_INNER_KEY_PREFIX + name: values for name, values in self._inner.state().items()}
        moving = {"field.turns": self._turns.detach(), "field.shifts": self._shifts.detach()}
        return {**inner, **self._reached, **moving}

    def restore(self, stage: int, state: dict[str, torch.Tensor]) -> list[dict]:
        """Go back to a state within a stage; groups for an optimiser, as from ``begin``."""
        inner = {
            name[len(_INNER_KEY_PREFIX) :]: values
            for name, values in state.items()
            if name.startswith(_INNER_KEY_PREFIX)
        }
        self._reached = {name: state[name].to(self._device) for name in self._reached}
        groups = [*self._inner.restore(stage, inner), *self._lay(stage)]
        if self._nodes is not None:
            with torch.no_grad():
                self._turns.copy_(state["field.turns"])
                self._shifts.copy_(state["field.shifts"])
        return groups
