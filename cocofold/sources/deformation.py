"""Atoms of a given model, moved by rigid motions from whole to chains to ever smaller neighbourhoods."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import roma
import torch

from cocofold.sources.base import Stage
from cocofold.sources.motion_field import BYTES_PER_ATOM, body_nodes, move_frames, spread_nodes
from cocofold.structure.model import Model
from cocofold.structure.topology import Backbone, SideChainTorsions, residue_centroids, residue_frames
from cocofold.structure.weighted_sums import WeightedSums

WHOLE, CHAINS = -1.0, -2.0
_TURN_PER_SHIFT = 0.1
_TORSION_RATE = 0.05
_TORSION_SLACK = 0.3
_TORSION_WEIGHT = 0.05


@dataclass(frozen=True)
class _FieldLevel:
    """A stage of the field: its radius (Å; WHOLE and CHAINS are bodies), and the rate of its shifts (Å a step)."""

    radius_angstrom: float
    rate: float
    stage: Stage
    torsions: bool = False


def _coarse_to_fine_levels(n_chains: int, effort: float) -> list[_FieldLevel]:
    """Coarse to fine; resolution follows the radius, so that a residue cannot lock into a neighbour's density."""
    table = [
        (WHOLE, 0.20, 20.0, 40),
        (CHAINS, 0.30, 17.0, 160),
        (20.0, 0.30, 20.0, 80),
        (12.0, 0.30, 17.0, 180),
        (8.0, 0.25, 17.0, 240),
        (5.0, 0.20, 12.5, 300),
        (3.5, 0.12, 8.3, 250),
        (2.5, 0.10, 6.25, 250),
        (1.5, 0.05, 0.0, 250),
        (0.8, 0.03, 0.0, 200),
    ]
    levels = []
    for radius, rate, resolution, steps in table:
        if radius == CHAINS and n_chains == 1:
            continue
        name = {WHOLE: "whole", CHAINS: "chains"}.get(radius, f"{radius:g} Å")
        fine = 0 < radius < 4
        stage = Stage(
            name, max(1, round(effort * steps)), resolution, trains_gaussians=fine, revert_unless_better=radius == WHOLE
        )
        levels.append(_FieldLevel(radius, rate, stage, torsions=0 < radius < 1))
    return levels


class DeformationSource:
    """A model under a field of rigid motions (implements ``cocofold.sources.base.AtomSource``).

    Every residue is a frame that carries its atoms; those with a backbone move, others ride along. Each stage starts
    from where the last one ended, with fresh motions of nodes that are spread ever more densely: first the whole
    model, then its chains, then neighbourhoods of 20 Å down to single residues, at last side chains about their
    torsions.

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
        self._chain = backbone.chain
        self._levels = _coarse_to_fine_levels(int(backbone.chain.max()) + 1, effort)
        self._n_moving = len(backbone)
        turned = np.tile(np.eye(3), (len(backbone.detached_residues), 1, 1))
        axes = np.concatenate([residue_frames(model.positions[backbone.atoms]), turned])
        centroids = residue_centroids(model, backbone.detached_residues)
        origins = np.concatenate([model.positions[backbone.atoms[:, 1]], centroids])
        local = np.einsum("nji,nj->ni", axes[backbone.frame_of_atom], model.positions - origins[backbone.frame_of_atom])
        self._carrier = self._tensor(backbone.frame_of_atom)
        self._rotations = self._tensor(axes, torch.float32)
        self._origins = self._tensor(origins, torch.float32)
        self._local = self._tensor(local, torch.float32)
        weights = torch.cat([self._local, torch.ones_like(self._local[:, :1])], dim=1)
        rows = self._carrier[:, None] * 4 + torch.arange(4, device=device)
        self._carry = WeightedSums(rows, weights, 4 * len(origins))
        torsions = SideChainTorsions.of(model, backbone)
        self._turned = []
        for of_atom, atoms in torsions.turned_atoms:
            used, which = np.unique(of_atom, return_inverse=True)
            self._turned.append(tuple(map(self._tensor, (used, *torsions.axes[used].T.copy(), which, atoms))))
        self._level = self._levels[0]
        self._nodes = body_nodes(origins, np.zeros(len(origins), dtype=int))
        self._turns = torch.zeros(0, 3)
        self._shifts = torch.zeros(0, 3)
        self._torsions = self._tensor(np.zeros(len(torsions)), torch.float32)

    def _tensor(self, values: np.ndarray, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.as_tensor(values, dtype=dtype, device=self._device)

    def stages(self) -> list[Stage]:
        """Stages of the whole run, in order."""
        return [level.stage for level in self._levels]

    def begin(self, stage: int) -> list[dict]:
        """Take up what the last stage reached and spread the nodes of this one."""
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
        positions = self._origins.cpu().double().numpy()
        if self._level.radius_angstrom == WHOLE:
            nodes = body_nodes(positions, np.zeros(len(positions), dtype=int))
        elif self._level.radius_angstrom == CHAINS:
            nodes = body_nodes(positions, self._chain)
        else:
            nodes = spread_nodes(positions, self._level.radius_angstrom, self._n_moving)
        self._nodes = nodes.to(self._device)

    def _parameters(self, turns: torch.Tensor, shifts: torch.Tensor, torsions: torch.Tensor) -> list[dict]:
        self._turns = turns.to(self._device).requires_grad_()
        self._shifts = shifts.to(self._device).requires_grad_()
        groups = [
            {"params": [self._shifts], "lr": self._level.rate},
            {"params": [self._turns], "lr": self._level.rate * _TURN_PER_SHIFT},
        ]
        self._torsions = torsions.to(self._device).clone()
        if self._level.torsions and len(self._torsions):
            groups.append({"params": [self._torsions.requires_grad_()], "lr": _TORSION_RATE})
        return groups

    def _frames(self) -> tuple[torch.Tensor, torch.Tensor]:
        return move_frames(self._nodes, self._turns, self._shifts, self._rotations, self._origins)

    def positions(self) -> torch.Tensor:
        """Positions of all atoms, (n_atoms, 3) Å, differentiable."""
        rotations, origins = (self._rotations, self._origins) if not len(self._turns) else self._frames()
        if not self._torsions.requires_grad and not bool(self._torsions.any()):
            # An atom is at the sum of its frame's axes, as far as it lies along each, and its origin.
            return self._carry(torch.cat([rotations.transpose(1, 2), origins[:, None]], dim=1).flatten(0, 1))
        local = self._turn_side_chains(self._local)
        carried = torch.matmul(rotations.index_select(0, self._carrier), local[..., None])[..., 0]
        return carried + origins.index_select(0, self._carrier)

    def _turn_side_chains(self, local: torch.Tensor) -> torch.Tensor:
        """Turn atoms about the torsions, from the backbone outwards, in the frames of their residues."""
        for torsions, near, far, which, atoms in self._turned:
            if len(torsions):
                end = local.index_select(0, far)
                axis = torch.nn.functional.normalize(end - local.index_select(0, near), dim=-1)
                turn = roma.rotvec_to_rotmat(axis * self._torsions.index_select(0, torsions)[:, None])
                end = end.index_select(0, which)
                arm = local.index_select(0, atoms) - end
                turned = torch.matmul(turn.index_select(0, which), arm[..., None])[..., 0]
                local = local.index_copy(0, atoms, end + turned)
        return local

    def step_memory_bytes(self) -> int:
        """See ``AtomSource``."""
        return BYTES_PER_ATOM * len(self._carrier)

    def uses_all_cores(self) -> bool:
        """Its arrays are small."""
        return False

    def confidence(self) -> None:
        """A moved model has none."""
        return None

    def prior(self, positions: torch.Tensor) -> torch.Tensor:
        """Energy that keeps torsions in the rotamer of the start unless the images ask for another."""
        if not self._torsions.requires_grad:
            return positions.new_zeros(())
        change = 2 * (1 - torch.cos(self._torsions)) / _TORSION_SLACK**2
        return _TORSION_WEIGHT * torch.log1p(change).mean()

    def revert_stage(self) -> None:
        """Go back to where the stage began."""
        self._parameters(torch.zeros_like(self._turns), torch.zeros_like(self._shifts), self._torsions.detach())

    def state(self) -> dict[str, torch.Tensor]:
        """All that ``restore`` needs to go on from here within the stage."""
        return {
            "rotations": self._rotations,
            "origins": self._origins,
            "turns": self._turns.detach(),
            "shifts": self._shifts.detach(),
            "torsions": self._torsions.detach(),
        }

    def restore(self, stage: int, state: dict[str, torch.Tensor]) -> list[dict]:
        """Go back to a state within a stage; groups for an optimiser, as from ``begin``."""
        self._rotations = state["rotations"].to(self._device)
        self._origins = state["origins"].to(self._device)
        self._spread_stage_nodes(stage)
        return self._parameters(state["turns"].clone(), state["shifts"].clone(), state["torsions"])
