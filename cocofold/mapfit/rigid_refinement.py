"""Candidates moved uphill: the correlation with the map at the template's points, by gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import roma
import torch
from scipy.spatial.transform import Rotation

from cocofold.mapfit.density_map import MapGrid
from cocofold.mapfit.target_map import Template

_POINTS_AT_ONCE = 200_000
_RATE_IN_RESOLUTIONS = 0.06
_FINAL_RATE_FRACTION = 0.03


def refine_poses(grid: MapGrid, template: Template, motions: RigidPoses, steps: int) -> RigidPoses:
    """Move each candidate to the nearest maximum of its correlation, by Adam with a rate that falls as a cosine.

    Rotations are varied by a vector in units of the template's radius, so that a step in each of the six parameters
    moves the model about as far.

    Returns
    -------
    RigidPoses
        In the order given, with the correlations reached.
    """
    at_once = max(1, _POINTS_AT_ONCE // len(template.points))
    parts = [
        _refine_batch(grid, template, motions[start : start + at_once], steps)
        for start in range(0, len(motions), at_once)
    ]
    return RigidPoses.concatenated(parts)


def correlations_at_poses(grid: MapGrid, template: Template, motions: RigidPoses) -> np.ndarray:
    """Pearson's correlation of map and template at the template's points, (n,)."""
    rotations, centres = _tensors(motions, grid)
    with torch.no_grad():
        parts = [
            _pose_correlations(grid, template, turn[None], centre[None]) for turn, centre in zip(rotations, centres)
        ]
    return torch.cat(parts).double().cpu().numpy()


def _refine_batch(grid: MapGrid, template: Template, motions: RigidPoses, steps: int) -> RigidPoses:
    rotations, centres = _tensors(motions, grid)
    moves = torch.zeros(len(motions), 6, device=centres.device, requires_grad=True)
    rate = _RATE_IN_RESOLUTIONS * template.resolution_angstrom
    optimiser = torch.optim.Adam([moves], lr=rate, betas=(0.8, 0.95))
    best = torch.full((len(motions),), -math.inf, device=centres.device)
    best_moves = torch.zeros_like(moves)
    for step in range(steps + 1):
        turns, places = _apply_moves(rotations, centres, moves, template.radius_angstrom)
        correlation = _pose_correlations(grid, template, turns, places)
        with torch.no_grad():
            better = correlation > best
            best = torch.where(better, correlation, best)
            best_moves = torch.where(better[:, None], moves, best_moves)
        if step == steps:
            break
        for group in optimiser.param_groups:
            group["lr"] = rate * (
                _FINAL_RATE_FRACTION + (1 - _FINAL_RATE_FRACTION) * 0.5 * (1 + math.cos(math.pi * step / steps))
            )
        optimiser.zero_grad()
        (-correlation.sum()).backward()
        optimiser.step()
    with torch.no_grad():
        turns, places = _apply_moves(rotations, centres, best_moves, template.radius_angstrom)
    return RigidPoses(_orthonormal(turns), places.double().cpu().numpy(), best.double().cpu().numpy())


def _tensors(motions: RigidPoses, grid: MapGrid) -> tuple[torch.Tensor, torch.Tensor]:
    device = grid.values.device
    return (
        torch.as_tensor(motions.rotations, dtype=torch.float32, device=device),
        torch.as_tensor(motions.centres, dtype=torch.float32, device=device),
    )


def _apply_moves(
    rotations: torch.Tensor, centres: torch.Tensor, moves: torch.Tensor, radius: float
) -> tuple[torch.Tensor, torch.Tensor]:
    turn, shift = moves.split(3, dim=1)
    return torch.matmul(roma.rotvec_to_rotmat(turn / radius), rotations), centres + shift


def _pose_correlations(
    grid: MapGrid, template: Template, rotations: torch.Tensor, centres: torch.Tensor
) -> torch.Tensor:
    points = torch.matmul(template.points, rotations.mT) + centres[:, None]
    value = grid.at(points)
    value = value - value.mean(1, keepdim=True)
    return (value * template.values).mean(1) / value.square().mean(1).clamp(min=1e-20).sqrt()


def _orthonormal(rotations: torch.Tensor) -> np.ndarray:
    """The nearest rotations, (n, 3, 3) float64, so that single precision leaves no trace."""
    return roma.special_procrustes(rotations.double().cpu()).numpy()


# Of no symmetry: copies that lie equally far along it are rare.
_ASYMMETRIC_DIRECTION = np.array([0.73, 0.53, 0.43])


@dataclass(frozen=True)
class RigidPoses:
    """Rigid motions ``x ↦ R x + c`` of a model whose centroid is at zero, with their scores.

    Attributes
    ----------
    rotations : (n, 3, 3) float64
    centres : (n, 3) float64
        Å, where the centroid goes.
    scores : (n,) float64
    """

    rotations: np.ndarray
    centres: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: np.ndarray | slice) -> RigidPoses:
        return RigidPoses(self.rotations[rows], self.centres[rows], self.scores[rows])

    @classmethod
    def concatenated(cls, parts: list[RigidPoses]) -> RigidPoses:
        """All of them in the order given."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__annotations__))

    @classmethod
    def joined(cls, parts: list[RigidPoses]) -> RigidPoses:
        """All of them, best first."""
        whole = cls.concatenated(parts)
        return whole[np.argsort(-whole.scores, kind="stable")]

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Points under each of the motions, (n, n_points, 3)."""
        return np.einsum("mij,pj->mpi", self.rotations, points) + self.centres[:, None]

    def folded(self, group: np.ndarray, centre: np.ndarray) -> RigidPoses:
        """Each replaced by that of its symmetric copies which lies farthest along one direction, so that copies meet.

        Parameters
        ----------
        group : (c, 3, 3) float
            Rotations of a point group.
        centre : (3,) float
            Å, about which they turn.
        """
        arms = np.einsum("gij,mj->mgi", group, self.centres - centre)
        chosen = group[(arms @ _ASYMMETRIC_DIRECTION).argmax(1)]
        centres = np.einsum("mij,mj->mi", chosen, self.centres - centre) + centre
        return RigidPoses(chosen @ self.rotations, centres, self.scores)

    def distinct(self, most: int, angle_deg: float, distance_angstrom: float) -> RigidPoses:
        """The best, each more than an angle or a distance from all better ones; at most so many."""
        order = np.argsort(-self.scores, kind="stable")
        kept: list[int] = []
        for row in order:
            if kept:
                near = np.linalg.norm(self.centres[kept] - self.centres[row], axis=1) < distance_angstrom
                alike = angles_between(self.rotations[kept], self.rotations[row : row + 1])[:, 0] < angle_deg
                if (near & alike).any():
                    continue
            kept.append(row)
            if len(kept) == most:
                break
        return self[np.array(kept, dtype=int)]


_PHI = math.sqrt(2)
# The real root of psi^4 = psi + 4.
_PSI = 1.533751168755204288118041413


def even_rotations(step_rad: float) -> np.ndarray:
    """A super-Fibonacci spiral (Alexa, CVPR 2022) as dense as a cubic grid of this step.

    Parameters
    ----------
    step_rad : float
        SO(3) has the volume 8 pi^2 where a rotation's angle is the distance, so that ``8 pi^2 / step^3`` are needed.

    Returns
    -------
    (n, 3, 3) float64
    """
    count = max(1, math.ceil(8 * math.pi**2 / step_rad**3))
    along = np.arange(count) + 0.5
    inner, outer = np.sqrt(along / count), np.sqrt(1 - along / count)
    alpha, beta = 2 * math.pi * along / _PHI, 2 * math.pi * along / _PSI
    quaternions = np.stack(
        [inner * np.sin(alpha), inner * np.cos(alpha), outer * np.sin(beta), outer * np.cos(beta)], axis=-1
    )
    return Rotation.from_quat(quaternions).as_matrix()


def angles_between(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Angles (degrees) of the rotations that lead from each of ``left`` to each of ``right``.

    Parameters
    ----------
    left : (n, 3, 3) float
    right : (m, 3, 3) float

    Returns
    -------
    (n, m) float
    """
    trace = np.einsum("aij,bij->ab", left, right)
    return np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))
