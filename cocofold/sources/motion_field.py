"""A smooth field of rigid motions, carried by nodes spread over the residues, and a source that adds it to another.

``SideChainTorsions``, at the end, finds the torsions that may turn.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import roma
import torch
from scipy.spatial import cKDTree

from cocofold.sources.base import AtomSource, ParameterGroup, WrappedSource
from cocofold.structure.model import Model
from cocofold.structure.restraints import WeightedSums
from cocofold.structure.topology import Backbone, covalent_bonds

# Number of nodes that move a residue: it bounds the cost of a field per residue. With fewer the Gaussian of a node is
# cut off where it still counts.
_NEAREST_NODES = 16
# Nodes lie two thirds of a radius apart, so that several of them move each residue and the field is smooth; closer
# nodes are more parameters for the same field.
_NODES_PER_FIELD_RADIUS = 1.5
# Weight added to the nearest node: a residue to which taper and Gaussian leave no node then follows that one.
_NEAREST_NODE_MIN_WEIGHT = 1e-6
# Memory of a pass through a field, its gradient and the geometry restraints, for the plan of a run's memory.
BYTES_PER_ATOM = 20_000
# Rate of turns (radian) for that of shifts (Å): alike for atoms 10 Å from a node's centre.
_TURN_PER_SHIFT = 0.1


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
    def weighted_mean(self) -> WeightedSums:
        """Weighted mean, for each residue, of what its nodes have."""
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
        Nodes lie on so many first residues; the others move rigidly with the nodes near them.
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
    vectors = torch.cat([turns, nodes.weighted_mean(turns)])
    around, turned = roma.rotvec_to_rotmat(vectors).split([len(turns), len(origins)])
    # A node takes x to M (x - centre) + centre + shift, which is x and something linear in (x, 1): the weighted mean of
    # that over a residue's nodes is one product.
    matrices = around - torch.eye(3, dtype=turns.dtype, device=turns.device)
    offsets = shifts - torch.matmul(matrices, nodes.centres[..., None])[..., 0]
    matrices, offsets = nodes.weighted_mean(torch.cat([matrices.flatten(1), offsets], dim=1)).split([9, 3], dim=1)
    displaced = torch.matmul(matrices.unflatten(1, (3, 3)), origins[..., None])[..., 0] + offsets
    return torch.matmul(turned, rotations), origins + displaced


def field_parameter_groups(turns: torch.Tensor, shifts: torch.Tensor, rate: float) -> list[ParameterGroup]:
    """Motions of nodes for an optimiser; ``rate`` is that of the shifts, Å a step."""
    return [{"params": [shifts], "lr": rate}, {"params": [turns], "lr": rate * _TURN_PER_SHIFT}]


class _FieldRow(NamedTuple):
    min_resolution_angstrom: float
    radius_angstrom: float
    rate: float


# Field on top of another source, by the finest resolution of its stages: the first row whose resolution is not finer
# counts. Radii (Å) and rates (Å a step) are those of the deformation source's stages; the last row, for all rings, is
# coarser than theirs, for the inner source moves single residues itself.
_FIELD_BY_RESOLUTION = (
    _FieldRow(20.0, 20.0, 0.30),
    _FieldRow(17.0, 12.0, 0.30),
    _FieldRow(12.5, 8.0, 0.25),
    _FieldRow(8.3, 5.0, 0.20),
    _FieldRow(6.0, 3.5, 0.12),
    _FieldRow(0.0, 2.0, 0.08),
)
_INNER_KEY_PREFIX = "inner."


class FieldOnTopSource(WrappedSource):
    """Atoms of an inner source under a field of rigid motions; the parameters of both are learned together.

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
        super().__init__(inner)
        self._device = torch.device(device)
        backbone = Backbone.of(model)
        self._ca_atoms = torch.as_tensor(backbone.atoms[:, 1], device=self._device)
        self._carrier = torch.as_tensor(backbone.frame_of_atom, device=self._device)
        count = len(backbone)
        self._stage_start = {
            "rotations": torch.eye(3, device=self._device).repeat(count, 1, 1),
            "shifts": torch.zeros(count, 3, device=self._device),
            "origins": torch.zeros(count, 3, device=self._device),
        }
        self._nodes: FieldNodes | None = None
        self._turns = torch.zeros(0, 3)
        self._shifts = torch.zeros(0, 3)

    def begin_stage(self, stage: int) -> list[ParameterGroup]:
        """Keep what the last stage reached, and spread the nodes of this one."""
        with torch.no_grad():
            base = self._inner.positions()[self._ca_atoms]
            rotations, origins = self._frames(base)
            self._stage_start = {
                "rotations": roma.special_procrustes(rotations),
                "shifts": origins - base,
                "origins": origins,
            }
        return [*self._inner.begin_stage(stage), *self._spread_stage_nodes(stage)]

    def _spread_stage_nodes(self, stage: int) -> list[ParameterGroup]:
        """Spread the nodes of a stage, at rest; returns their motions for an optimiser."""
        asked = self.stages()[stage]
        self._nodes = None
        if not asked.batches:
            return []
        row = next(row for row in _FIELD_BY_RESOLUTION if row.min_resolution_angstrom <= asked.resolution_angstrom)
        origins = self._stage_start["origins"].cpu().double().numpy()
        self._nodes = spread_nodes(origins, row.radius_angstrom, len(origins)).to(self._device)
        count = len(self._nodes.centres)
        self._turns = torch.zeros(count, 3, device=self._device, requires_grad=True)
        self._shifts = torch.zeros(count, 3, device=self._device, requires_grad=True)
        return field_parameter_groups(self._turns, self._shifts, row.rate)

    def _frames(self, base: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotation of each residue, and where its CA atom goes from ``base``, (n_residues, 3)."""
        rotations, origins = self._stage_start["rotations"], base + self._stage_start["shifts"]
        if self._nodes is None:
            return rotations, origins
        return move_frames(self._nodes, self._turns, self._shifts, rotations, origins)

    def positions(self) -> torch.Tensor:
        """Positions of all atoms, (n_atoms, 3) Å, differentiable."""
        inner = self._inner.positions()
        base = inner[self._ca_atoms]
        rotations, origins = self._frames(base)
        base, rotations, origins = (part.index_select(0, self._carrier) for part in (base, rotations, origins))
        return torch.matmul(rotations, (inner - base)[..., None])[..., 0] + origins

    def step_memory_bytes(self) -> int:
        """The inner source's and the field's."""
        return self._inner.step_memory_bytes() + BYTES_PER_ATOM * len(self._carrier)

    def revert_stage(self) -> None:
        """See ``AtomSource``."""
        self._inner.revert_stage()
        with torch.no_grad():
            self._turns.zero_()
            self._shifts.zero_()

    def state(self) -> dict[str, torch.Tensor]:
        """See ``AtomSource``."""
        inner = {_INNER_KEY_PREFIX + name: values for name, values in self._inner.state().items()}
        start = {name: values.clone() for name, values in self._stage_start.items()}
        moving = {"field.turns": self._turns.detach().clone(), "field.shifts": self._shifts.detach().clone()}
        return {**inner, **start, **moving}

    def restore(self, stage: int, state: dict[str, torch.Tensor]) -> list[ParameterGroup]:
        """See ``AtomSource``."""
        inner = {
            name[len(_INNER_KEY_PREFIX) :]: values
            for name, values in state.items()
            if name.startswith(_INNER_KEY_PREFIX)
        }
        self._stage_start = {name: state[name].to(self._device) for name in self._stage_start}
        groups = [*self._inner.restore(stage, inner), *self._spread_stage_nodes(stage)]
        if self._nodes is not None:
            with torch.no_grad():
                self._turns.copy_(state["field.turns"])
                self._shifts.copy_(state["field.shifts"])
        return groups

    def describe(self) -> str:
        """See ``AtomSource``."""
        return f"{self._inner.describe()} A field of rigid motions moved these atoms further."


_MAX_CHI = 4  # torsions along the longest side chains, those of lysine and arginine


@dataclass(frozen=True)
class SideChainTorsions:
    """Side-chain torsions chi 1 ... chi 4, ordered so that a torsion comes after those nearer to the backbone.

    Of nucleotides, whose sugars are rigid: chi of the base; gamma, beta and alpha, which turn the phosphate.

    Attributes
    ----------
    axes : (n_torsions, 2) int
        Atoms of each rotatable bond, the one nearer to the backbone first.
    turned_atoms : tuple of 4 pairs
        For each depth the torsion and the atom, both (n_turned,) int, of every atom that a torsion of that depth turns.
    """

    axes: np.ndarray
    turned_atoms: tuple[tuple[np.ndarray, np.ndarray], ...]

    def __len__(self) -> int:
        return len(self.axes)

    @classmethod
    def of(cls, model: Model, backbone: Backbone) -> SideChainTorsions:
        """Torsions of every side chain that is bonded to its own backbone alone, and of every nucleotide.

        Rings, prolines, cystines and side chains bonded to another residue have none beyond what leaves these
        bonds in place, and planar groups at the end of a chain of four torsions do not turn. The bonds between
        nucleotides are left to the restraints.
        """
        pairs = covalent_bonds(model)
        owner = model.residue_of_atom
        across = pairs[owner[pairs[:, 0]] != owner[pairs[:, 1]]]
        is_link = (np.sort(model.atom_names[across], axis=1) == ("O3'", "P")).all(1)
        tied = set(np.unique(across[~is_link]))
        neighbours: dict[int, list[int]] = {}
        for first, second in pairs[owner[pairs[:, 0]] == owner[pairs[:, 1]]]:
            neighbours.setdefault(int(first), []).append(int(second))
            neighbours.setdefault(int(second), []).append(int(first))
        finder = _TorsionFinder(neighbours, tied, model.atomic_numbers)
        beta = model.atoms_named("CB")[backbone.residues]
        for (_, centre, end), base, is_nucleotide in zip(backbone.atoms.tolist(), beta, backbone.is_nucleotide):
            if is_nucleotide:
                finder.add_from_sugar(centre, end)
            elif base >= 0:
                finder.add_from(centre, int(base))
        return cls(
            np.array(finder.axes, dtype=int).reshape(-1, 2),
            tuple((np.array(torsion, dtype=int), np.array(atom, dtype=int)) for torsion, atom in finder.turned_atoms),
        )


@dataclass
class _TorsionFinder:
    """Follows side chains from the backbone outwards and gathers their torsions.

    Attributes
    ----------
    neighbours : dict of int to list of int
        Atoms bonded to each atom within its residue.
    tied : set of int
        Atoms with a bond to another residue, which no torsion may turn.
    atomic_numbers : (n_atoms,) int
    axes, turned_atoms
        Of ``SideChainTorsions``.
    """

    neighbours: dict[int, list[int]]
    tied: set[int]
    atomic_numbers: np.ndarray
    axes: list[tuple[int, int]] = field(default_factory=list)
    turned_atoms: list[tuple[list[int], list[int]]] = field(default_factory=lambda: [([], []) for _ in range(_MAX_CHI)])

    def add_from(self, near: int, far: int, depth: int = 0) -> None:
        """Add the torsion about near-far, if the bond is rotatable, and those behind it."""
        beyond = _atoms_beyond_bond(near, far, self.neighbours)
        if beyond is None or depth == _MAX_CHI:
            return
        heavy = [atom for atom in beyond if self.atomic_numbers[atom] > 1]
        if heavy and not self.tied.intersection([*beyond, far]):
            torsions, atoms = self.turned_atoms[depth]
            torsions.extend([len(self.axes)] * len(beyond))
            atoms.extend(beyond)
            self.axes.append((near, far))
        for atom in sorted(self.neighbours[far]):
            if atom != near and self.atomic_numbers[atom] > 1:
                self.add_from(far, atom, depth + 1)

    def add_from_sugar(self, *ring: int) -> None:
        """Add the torsions behind atoms of a sugar's ring."""
        for near in ring:
            for atom in sorted(self.neighbours.get(near, ())):
                if self.atomic_numbers[atom] > 1:
                    self.add_from(near, atom)


def _atoms_beyond_bond(near: int, far: int, neighbours: dict[int, list[int]]) -> list[int] | None:
    """Atoms on the side of ``far`` when the bond near-far is cut; None if the bond lies in a ring."""
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
