"""Rigid motions of residues, the torsion head, and the atoms that backbone frames and torsions give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import roma
import torch
from torch import nn

from cocofold.alphafold.residue_constants import (
    CHI1_GROUP,
    GROUPS_PER_RESIDUE,
    RESIDUE_TABLES,
    TORSIONS_PER_RESIDUE,
)
from cocofold.alphafold.weight_layout import HIDDEN_WIDTH, RESIDUAL_BLOCKS, SINGLE_WIDTH


@dataclass(frozen=True)
class Rigid:
    """Rigid motions x ↦ R x + t, one or many.

    Attributes
    ----------
    rotation : (..., 3, 3) float
    translation : (..., 3) float
    """

    rotation: torch.Tensor
    translation: torch.Tensor

    @classmethod
    def identity(cls, like: torch.Tensor) -> Rigid:
        """An identity for each row of ``like``, with its type and device."""
        n = len(like)
        eye = torch.eye(3, dtype=like.dtype, device=like.device)
        return cls(eye.expand(n, 3, 3), torch.zeros(n, 3, dtype=like.dtype, device=like.device))

    @classmethod
    def from_update(cls, update: torch.Tensor) -> Rigid:
        """Motion of a quaternion (1, b, c, d), which is normalised here, and a translation (Jumper et al., alg. 23).

        Parameters
        ----------
        update : (..., 6) float
            b, c, d and the translation.
        """
        vector, translation = update.split(3, dim=-1)
        # roma has the scalar last.
        quaternion = torch.cat([vector, torch.ones_like(vector[..., :1])], dim=-1)
        return cls(roma.unitquat_to_rotmat(torch.nn.functional.normalize(quaternion, dim=-1)), translation)

    def compose(self, inner: Rigid) -> Rigid:
        """The motion that applies ``inner`` first and then this one."""
        return Rigid(torch.matmul(self.rotation, inner.rotation), self.apply(inner.translation))

    def apply(self, points: torch.Tensor) -> torch.Tensor:
        """Moved points, (..., 3)."""
        return torch.matmul(self.rotation, points[..., None])[..., 0] + self.translation

    def matrix(self) -> torch.Tensor:
        """Rotation and translation side by side, (..., 3, 4)."""
        return torch.cat([self.rotation, self.translation[..., None]], dim=-1)

    def scaled(self, factor: float) -> Rigid:
        """The same motion with lengths in another unit."""
        return Rigid(self.rotation, self.translation * factor)

    def with_detached_rotation(self) -> Rigid:
        """The same motion, with no gradient through its rotation."""
        return Rigid(self.rotation.detach(), self.translation)


# Of a sine and cosine before they are normalised, as ``l2_normalize`` in AlphaFold's folding.py: no division by zero.
_LEAST_SQUARED_NORM = 1e-12


class _ResidualBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(HIDDEN_WIDTH, HIDDEN_WIDTH)
        self.second = nn.Linear(HIDDEN_WIDTH, HIDDEN_WIDTH)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.second(self.first(hidden.relu()).relu())


class TorsionHead(nn.Module):
    """Torsion angles from the activations (Jumper et al., alg. 20, lines 11 to 14)."""

    def __init__(self) -> None:
        super().__init__()
        self.from_act = nn.Linear(SINGLE_WIDTH, HIDDEN_WIDTH)
        self.from_single = nn.Linear(SINGLE_WIDTH, HIDDEN_WIDTH)
        self.blocks = nn.ModuleList(_ResidualBlock() for _ in range(RESIDUAL_BLOCKS))
        self.angles = nn.Linear(HIDDEN_WIDTH, TORSIONS_PER_RESIDUE * 2)

    def forward(self, act: torch.Tensor, single: torch.Tensor) -> torch.Tensor:
        """Sine and cosine of ω, φ, ψ, χ1 to χ4.

        Parameters
        ----------
        act, single : (n, 384) float
            Activations, and the normalised single representation from which they were computed.

        Returns
        -------
        (n, 7, 2) float
        """
        hidden = self.from_act(act.relu()) + self.from_single(single.relu())
        for block in self.blocks:
            hidden = block(hidden)
        angles = self.angles(hidden.relu()).unflatten(1, (TORSIONS_PER_RESIDUE, 2))
        return angles / (angles**2).sum(2, keepdim=True).clamp(min=_LEAST_SQUARED_NORM).sqrt()


class HeavyAtoms(NamedTuple):
    """Atoms of residues.

    Attributes
    ----------
    positions : (n, 14, 3) float
        Å; zero where a residue has no such atom.
    exist : (n, 14) bool
    group_frames : (n, 8, 3, 4) float
        Frame of each rigid group, Å.
    """

    positions: torch.Tensor
    exist: torch.Tensor
    group_frames: torch.Tensor


def build_atoms(aatype: torch.Tensor, backbone: Rigid, torsions: torch.Tensor) -> HeavyAtoms:
    """Atoms of ideal rigid groups, placed by backbone frames and torsions (Jumper et al., alg. 24).

    Parameters
    ----------
    aatype : (n,) int
        AlphaFold's numbers of amino acids.
    backbone : Rigid
        Frames of the n backbones, Å.
    torsions : (n, 7, 2) float
        Sine and cosine of ω, φ, ψ, χ1 to χ4.
    """
    groups = _rigid_groups(aatype, backbone, torsions)
    of_atom = _look_up(RESIDUE_TABLES.group, aatype)[..., None].expand(-1, -1, 3)
    rotation = groups.rotation.gather(1, of_atom[..., None].expand(-1, -1, 3, 3))
    translation = groups.translation.gather(1, of_atom)
    local = _look_up(RESIDUE_TABLES.position, aatype).to(torsions.dtype)
    exist = _look_up(RESIDUE_TABLES.exists, aatype)
    return HeavyAtoms(Rigid(rotation, translation).apply(local) * exist[..., None], exist, groups.matrix())


def _look_up(table: np.ndarray, aatype: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(table, device=aatype.device)[aatype]


def _rigid_groups(aatype: torch.Tensor, backbone: Rigid, torsions: torch.Tensor) -> Rigid:
    """Global frames of the rigid groups, n x 8."""
    frame = _look_up(RESIDUE_TABLES.frame, aatype).to(torsions.dtype)
    # The backbone group has no torsion.
    no_turn = torch.tensor([0.0, 1.0], dtype=torsions.dtype, device=torsions.device).expand(len(torsions), 1, 2)
    sine, cosine = torch.cat([no_turn, torsions], dim=1)[:, :, None].unbind(3)
    x, y, z, origin = frame.unbind(3)
    turned = torch.stack([x, cosine * y + sine * z, cosine * z - sine * y], dim=3)
    groups = [Rigid(*parts) for parts in zip(turned.unbind(1), origin.unbind(1))]
    for group in range(CHI1_GROUP + 1, GROUPS_PER_RESIDUE):
        groups[group] = groups[group - 1].compose(groups[group])
    local = Rigid(
        torch.stack([group.rotation for group in groups], dim=1),
        torch.stack([group.translation for group in groups], dim=1),
    )
    return Rigid(backbone.rotation[:, None], backbone.translation[:, None]).compose(local)
