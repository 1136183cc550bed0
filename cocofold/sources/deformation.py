"""Atoms of a given model, moved by rigid motions: the whole, chains, ever smaller neighbourhoods; then by torsions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import roma
import torch
from scipy.spatial import cKDTree

from cocofold.sources.base import AtomSource, ParameterGroup, Stage
from cocofold.sources.motion_field import (
    BYTES_PER_ATOM,
    FieldNodes,
    SideChainTorsions,
    body_nodes,
    field_parameter_groups,
    move_frames,
    spread_nodes,
)
from cocofold.structure.model import Model
from cocofold.structure.restraints import WeightedSums
from cocofold.structure.topology import Backbone, residue_centroids, residue_frames

# Learning rate of torsions, radian a step; larger ones let side chains overshoot their rotamer in the first steps.
_TORSION_RATE = 0.05
# Change of a torsion, radian, up to which its restraint is a parabola; beyond it the energy grows as a logarithm, so
# that a side chain may go to another rotamer. With a larger slack the start's rotamer is held more loosely.
_TORSION_SLACK = 0.3
# Weight of the torsions' restraint against the geometry restraints.
_TORSION_WEIGHT = 0.05


@dataclass(frozen=True)
class _FieldLevel:
    """A stage of the field and what moves in it.

    Attributes
    ----------
    radius_angstrom : float or None
        Of the field; None where rigid bodies move.
    rate : float
        Learning rate of the shifts, Å a step.
    stage : Stage
    by_chain : bool
        Whether each chain is a body (``rigid_bodies``), not the whole model; counts where there is no radius.
    trains_torsions : bool
        Whether side chains turn about their torsions.
    """

    radius_angstrom: float | None
    rate: float
    stage: Stage
    by_chain: bool = False
    trains_torsions: bool = False


class _LevelRow(NamedTuple):
    name: str
    radius_angstrom: float | None
    rate: float
    resolution_angstrom: float
    steps: int
    by_chain: bool = False
    trains_gaussians: bool = False
    trains_torsions: bool = False
    revert_unless_better: bool = False
    most_rounds: int = 1


# The stages from coarse to fine. The finest resolution compared (Å; 0: all that is asked for) follows the radius, so
# that a residue cannot lock into a neighbour's density; rates (Å a step) fall with the radius, for smaller
# neighbourhoods have less far to go. Amplitudes and widths follow the images only below 4 Å: freed earlier they fade
# out a misplaced domain in place of moving it. With fewer steps a stage ends before its motions have settled; more of
# them cost time. The model as a whole is moved first, and put back if the images are not explained better by that.
# Chains are moved in rounds until they have settled. At 17 Å a globular chain does not show how it is turned, and all
# rings together tell its place best: neighbourhoods that have nothing left to mend only follow the noise.
_LEVEL_TABLE = (
    _LevelRow("whole", None, 0.20, 20.0, 40, revert_unless_better=True),
    _LevelRow("chains", None, 0.30, 17.0, 60, by_chain=True, most_rounds=5),
    _LevelRow("chains", None, 0.20, 10.0, 60, by_chain=True, most_rounds=5),
    _LevelRow("chains", None, 0.05, 0.0, 60, by_chain=True),
    _LevelRow("20 Å", 20.0, 0.30, 20.0, 80),
    _LevelRow("12 Å", 12.0, 0.30, 17.0, 180),
    _LevelRow("8 Å", 8.0, 0.25, 17.0, 240),
    _LevelRow("5 Å", 5.0, 0.20, 12.5, 300),
    _LevelRow("3.5 Å", 3.5, 0.12, 8.3, 250, trains_gaussians=True),
    _LevelRow("2.5 Å", 2.5, 0.10, 6.25, 250, trains_gaussians=True),
    _LevelRow("1.5 Å", 1.5, 0.05, 0.0, 250, trains_gaussians=True),
    _LevelRow("0.8 Å", 0.8, 0.03, 0.0, 200, trains_gaussians=True, trains_torsions=True),
)


def _coarse_to_fine_levels(n_bodies: int, effort: float) -> list[_FieldLevel]:
    """Levels of the table, with steps times ``effort``; chains are moved as bodies only where there are several."""
    return [
        _FieldLevel(
            row.radius_angstrom,
            row.rate,
            Stage(
                row.name,
                max(1, round(effort * row.steps)),
                row.resolution_angstrom,
                trains_gaussians=row.trains_gaussians,
                revert_unless_better=row.revert_unless_better,
                allows_overlaps=row.by_chain,
                until_settled=number > 0,
            ),
            row.by_chain,
            row.trains_torsions,
        )
        for row in _LEVEL_TABLE
        if n_bodies > 1 or not row.by_chain
        for number in range(row.most_rounds)
    ]


# Heavy atoms below which a chain moves with the one that it touches most: at the resolutions at which chains are moved
# as bodies a peptide of 25 residues or a strand of ten nucleotides shows no place of its own, and is drawn into density
# of what the model lacks. More leave less to move apart.
_FEWEST_ATOMS_OF_BODY = 200
_CONTACT_ANGSTROM = 8.0


def rigid_bodies(chain: np.ndarray, origins: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Chains that are moved as one body: each its own, but for small ones, which go with what they touch most.

    Parameters
    ----------
    chain : (n,) int
        Number of the chain of each frame, from 0.
    origins : (n, 3) float
        Å.
    sizes : (n,) int
        Number of heavy atoms that each frame carries.

    Returns
    -------
    (n,) int
        Number of the body of each frame, from 0.
    """
    body = chain.copy()
    pairs = cKDTree(origins).query_pairs(_CONTACT_ANGSTROM, output_type="ndarray")
    alone: set[int] = set()
    while True:
        atoms = {number: int(sizes[body == number].sum()) for number in np.unique(body).tolist()}
        small = [number for number in atoms if atoms[number] < _FEWEST_ATOMS_OF_BODY and number not in alone]
        if not small:
            return np.unique(body, return_inverse=True)[1]
        least = min(small, key=atoms.__getitem__)
        one, other = body[pairs].T
        touched = np.r_[other[(one == least) & (other != least)], one[(other == least) & (one != least)]]
        if len(touched):
            body[body == least] = np.bincount(touched).argmax()
        else:
            alone.add(least)


class _TurnedAtoms(NamedTuple):
    """Atoms that torsions turn, of torsions at one distance from the backbone.

    Attributes
    ----------
    torsions : (n_used,) int
        Torsions that turn them.
    near, far : (n_used,) int
        Atoms on the axis of each torsion, from the backbone outwards.
    which : (n,) int
        Row in ``torsions`` of each turned atom's torsion.
    atoms : (n,) int
        Atoms that are turned.
    """

    torsions: torch.Tensor
    near: torch.Tensor
    far: torch.Tensor
    which: torch.Tensor
    atoms: torch.Tensor


class DeformationSource(AtomSource):
    """A model under a field of rigid motions.

    Every residue is a frame that carries its atoms. Frames with a backbone move by the field; the others move rigidly
    with the nodes near them. Each stage starts from where the last one ended, with fresh motions of nodes that are
    spread ever more densely: first the whole model, then its chains, then neighbourhoods of 20 Å down to single
    residues, at last side chains about their torsions.

    Parameters
    ----------
    model : Model
    device
        Where tensors live.
    effort : float
        Factor on the number of steps of all stages.
    """

    def __init__(self, model: Model, device: torch.device | str = "cpu", effort: float = 1.0) -> None:
        self._device = torch.device(device)
        backbone = Backbone.of(model)
        self._n_moving = len(backbone)
        turned = np.tile(np.eye(3), (len(backbone.detached_residues), 1, 1))
        axes = np.concatenate([residue_frames(model.positions[backbone.atoms]), turned])
        centroids = residue_centroids(model, backbone.detached_residues)
        origins = np.concatenate([model.positions[backbone.atoms[:, 1]], centroids])
        sizes = np.bincount(backbone.frame_of_atom, model.atomic_numbers > 1, len(origins)).astype(int)
        self._body = rigid_bodies(backbone.chain, origins, sizes)
        self._levels = _coarse_to_fine_levels(int(self._body.max()) + 1, effort)
        local = np.einsum("nji,nj->ni", axes[backbone.frame_of_atom], model.positions - origins[backbone.frame_of_atom])
        self._carrier = self._tensor(backbone.frame_of_atom)
        self._rotations = self._tensor(axes, torch.float32)
        self._origins = self._tensor(origins, torch.float32)
        self._local = self._tensor(local, torch.float32)
        self._frames_to_atoms = self._frame_sums()
        torsions = SideChainTorsions.of(model, backbone)
        self._turned = self._turned_atoms(torsions)
        self._level = self._levels[0]
        self._nodes = body_nodes(origins, np.zeros(len(origins), dtype=int))
        self._turns = torch.zeros(0, 3)
        self._shifts = torch.zeros(0, 3)
        self._torsions = self._tensor(np.zeros(len(torsions)), torch.float32)
        self._is_turned = False  # whether any torsion is other than the start's, or may become so

    def _frame_sums(self) -> WeightedSums:
        """Sums that give an atom as its frame's axes, as far as the atom lies along each, and origin."""
        weights = torch.cat([self._local, torch.ones_like(self._local[:, :1])], dim=1)
        rows = self._carrier[:, None] * 4 + torch.arange(4, device=self._device)
        return WeightedSums(rows, weights, 4 * len(self._origins))

    def _turned_atoms(self, torsions: SideChainTorsions) -> list[_TurnedAtoms]:
        found = []
        for of_atom, atoms in torsions.turned_atoms:
            used, which = np.unique(of_atom, return_inverse=True)
            near, far = torsions.axes[used].T.copy()
            found.append(_TurnedAtoms(*map(self._tensor, (used, near, far, which, atoms))))
        return found

    def _tensor(self, values: np.ndarray, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.as_tensor(values, dtype=dtype, device=self._device)

    def stages(self) -> list[Stage]:
        """Stages of the whole run, in order."""
        return [level.stage for level in self._levels]

    def begin_stage(self, stage: int) -> list[ParameterGroup]:
        """Keep what the last stage reached and spread the nodes of this one."""
        if len(self._turns):
            with torch.no_grad():
                rotations, self._origins = self._frames()
                self._rotations = roma.special_procrustes(rotations)
                self._torsions = self._torsions.detach()
        self._spread_stage_nodes(stage)
        count = len(self._nodes.centres)
        return self._parameters(torch.zeros(count, 3), torch.zeros(count, 3), self._torsions)

    def _spread_stage_nodes(self, stage: int) -> None:
        self._level = self._levels[stage]
        self._nodes = self._nodes_of(self._level).to(self._device)

    def _nodes_of(self, level: _FieldLevel) -> FieldNodes:
        positions = self._origins.cpu().double().numpy()
        if level.radius_angstrom is not None:
            return spread_nodes(positions, level.radius_angstrom, self._n_moving)
        return body_nodes(positions, self._body if level.by_chain else np.zeros(len(positions), dtype=int))

    def _parameters(self, turns: torch.Tensor, shifts: torch.Tensor, torsions: torch.Tensor) -> list[ParameterGroup]:
        self._turns = turns.to(self._device).requires_grad_()
        self._shifts = shifts.to(self._device).requires_grad_()
        groups = field_parameter_groups(self._turns, self._shifts, self._level.rate)
        # Found out here, once a stage: at each step a GPU would have to be waited for
        self._is_turned = bool(torsions.any())
        self._torsions = torsions.to(self._device).clone()
        if self._level.trains_torsions and len(self._torsions):
            self._is_turned = True
            groups.append({"params": [self._torsions.requires_grad_()], "lr": _TORSION_RATE})
        return groups

    def _frames(self) -> tuple[torch.Tensor, torch.Tensor]:
        return move_frames(self._nodes, self._turns, self._shifts, self._rotations, self._origins)

    def positions(self) -> torch.Tensor:
        """Positions of all atoms, (n_atoms, 3) Å, differentiable."""
        rotations, origins = (self._rotations, self._origins) if not len(self._turns) else self._frames()
        if not self._is_turned:
            # An atom is at the sum of its frame's axes, as far as it lies along each, and its origin.
            return self._frames_to_atoms(torch.cat([rotations.transpose(1, 2), origins[:, None]], dim=1).flatten(0, 1))
        local = self._turn_side_chains(self._local)
        carried = torch.matmul(rotations.index_select(0, self._carrier), local[..., None])[..., 0]
        return carried + origins.index_select(0, self._carrier)

    def _turn_side_chains(self, local: torch.Tensor) -> torch.Tensor:
        """Turn atoms about the torsions, from the backbone outwards, in the frames of their residues."""
        for level in self._turned:
            if len(level.torsions):
                end = local.index_select(0, level.far)
                axis = torch.nn.functional.normalize(end - local.index_select(0, level.near), dim=-1)
                turn = roma.rotvec_to_rotmat(axis * self._torsions.index_select(0, level.torsions)[:, None])
                end = end.index_select(0, level.which)
                arm = local.index_select(0, level.atoms) - end
                turned = torch.matmul(turn.index_select(0, level.which), arm[..., None])[..., 0]
                local = local.index_copy(0, level.atoms, end + turned)
        return local

    def step_memory_bytes(self) -> int:
        """See ``AtomSource``."""
        return BYTES_PER_ATOM * len(self._carrier)

    def prior(self, positions: torch.Tensor) -> torch.Tensor:
        """Energy that keeps torsions in the rotamer of the start unless the images ask for another."""
        if not self._torsions.requires_grad:
            return positions.new_zeros(())
        change = 2 * (1 - torch.cos(self._torsions)) / _TORSION_SLACK**2
        return _TORSION_WEIGHT * torch.log1p(change).mean()

    def revert_stage(self) -> None:
        """Go back to where the stage began: motions and torsions start at zero in every stage that moves them."""
        torsions = torch.zeros_like(self._torsions) if self._level.trains_torsions else self._torsions
        self._parameters(torch.zeros_like(self._turns), torch.zeros_like(self._shifts), torsions.detach())

    def state(self) -> dict[str, torch.Tensor]:
        """See ``AtomSource``."""
        return {
            "rotations": self._rotations.clone(),
            "origins": self._origins.clone(),
            "turns": self._turns.detach().clone(),
            "shifts": self._shifts.detach().clone(),
            "torsions": self._torsions.detach().clone(),
        }

    def restore(self, stage: int, state: dict[str, torch.Tensor]) -> list[ParameterGroup]:
        """See ``AtomSource``."""
        self._rotations = state["rotations"].to(self._device)
        self._origins = state["origins"].to(self._device)
        self._spread_stage_nodes(stage)
        return self._parameters(state["turns"].clone(), state["shifts"].clone(), state["torsions"])

    def describe(self) -> str:
        """See ``AtomSource``."""
        return (
            "Residues moved as rigid bodies under a field of rotations and translations whose range was shortened "
            "stage by stage; side chains turned about their torsions at the last stage."
        )
