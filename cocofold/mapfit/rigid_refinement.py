"""Rigid molecules: their sampled density, poses of them, and poses moved uphill by the gradient of the correlation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import roma
import torch
from scipy.spatial import cKDTree

from cocofold.mapfit.density_map import VOXELS_PER_RESOLUTION, MapGrid, even_fast_length, low_pass_filter
from cocofold.sources.base import Adam

# Volume of a protein of 1.35 g/cm^3 per atom other than hydrogen.
VOLUME_PER_ATOM_A3 = 16.9


@dataclass(frozen=True)
class RigidMolecule:
    """What placement knows of a molecule: its atoms other than hydrogen.

    Attributes
    ----------
    positions : (n, 3) float64
        Å.
    atomic_numbers : (n,) int
    ca_positions : (m, 3) float64
        Positions of the CA atoms.
    """

    positions: np.ndarray
    atomic_numbers: np.ndarray
    ca_positions: np.ndarray

    @classmethod
    def concatenated(cls, parts: list[RigidMolecule]) -> RigidMolecule | None:
        """All of them as one; None if there is none."""
        if not parts:
            return None
        return cls(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("positions", "atomic_numbers", "ca_positions")
            )
        )

    def moved(self, rotation: np.ndarray, centre: np.ndarray) -> RigidMolecule:
        """Rotated about the centroid, which goes to the position ``centre``, (3,) Å."""
        positions = (self.positions - self.centroid) @ rotation.T + centre
        return RigidMolecule(positions, self.atomic_numbers, (self.ca_positions - self.centroid) @ rotation.T + centre)

    @property
    def centroid(self) -> np.ndarray:
        """Mean position, (3,) Å."""
        return self.positions.mean(0)

    @property
    def radius_of_gyration(self) -> float:
        """Root mean square distance of the atoms from their mean position, Å."""
        return float(np.sqrt(((self.positions - self.centroid) ** 2).sum(1).mean()))

    @property
    def volume_a3(self) -> float:
        """Volume of the molecule, by the number of its atoms."""
        return VOLUME_PER_ATOM_A3 * len(self.positions)


# CA atoms of two bodies nearer to each other than this clash: even neighbours in a chain are 3.8 Å apart.
_CLASH_ANGSTROM = 3.0
# Share of a body's CA atoms that may clash where it is placed: a few at an interface that is not yet right. Smaller
# values refuse right places of models with loose ends, larger ones let bodies lie in each other.
MAX_CLASH_FRACTION = 0.03


def clash_fraction(body: RigidMolecule, others: list[RigidMolecule]) -> float:
    """Share of a body's CA atoms that lie within 3 Å of another body's."""
    if not others:
        return 0.0
    tree = cKDTree(np.concatenate([other.ca_positions for other in others]))
    return float((tree.query(body.ca_positions)[0] < _CLASH_ANGSTROM).mean())


# Width of a Gaussian whose transform has fallen to 1/e at the resolution, in resolutions: 1 / (sqrt(2) pi).
BLUR_PER_RESOLUTION = 0.225
# A molecule is sampled where its density is above this share of its maximum: larger values leave out loose ends,
# smaller ones sample the solvent around it.
_SAMPLED_FRACTION = 0.02
# Empty space around the atoms in which their density falls to nothing.
_MARGIN_IN_RESOLUTIONS = 1.5


@dataclass(frozen=True)
class Template:
    """Samples of a model's density, about its centroid.

    Attributes
    ----------
    points : (n, 3) float32
        Å from the centroid, where the density is at least a fiftieth of its maximum.
    values : (n,) float32
        Density there, of mean 0 and mean square 1.
    density : (n,) float32
        The same unscaled: atomic numbers per Å^3.
    radius_angstrom : float
        Root mean square distance of the points from the centroid.
    resolution_angstrom : float
    """

    points: torch.Tensor
    values: torch.Tensor
    density: torch.Tensor
    radius_angstrom: float
    resolution_angstrom: float

    def thinned(self, most: int) -> Template:
        """At most so many of the points, spread over all of them."""
        if len(self.points) <= most:
            return self
        chosen = torch.randperm(len(self.points), generator=torch.Generator().manual_seed(0))[:most]
        kept = chosen.sort().values.to(self.points.device)
        density = self.density[kept]
        return Template(
            self.points[kept], _standardised(density), density, self.radius_angstrom, self.resolution_angstrom
        )


def make_template(
    positions: np.ndarray, atomic_numbers: np.ndarray, resolution_angstrom: float, device: torch.device
) -> Template:
    """Atoms as Gaussians at a resolution, low-passed as maps are.

    Parameters
    ----------
    positions : (n_atoms, 3) float
        Å, about their centroid.
    atomic_numbers : (n_atoms,) float
    resolution_angstrom : float
    device
    """
    margin = _MARGIN_IN_RESOLUTIONS * resolution_angstrom
    low, high = positions.min(0) - margin, positions.max(0) + margin
    spacing = resolution_angstrom / VOXELS_PER_RESOLUTION
    counts = [even_fast_length(int(np.ceil(length / spacing))) for length in (high - low)[::-1]]
    places = torch.as_tensor((positions - low) / spacing, dtype=torch.float32, device=device)
    mass = torch.as_tensor(atomic_numbers, dtype=torch.float32, device=device)
    volume = spread_trilinear(places[None], mass[None, None], counts)[0, 0] / spacing**3
    blur = BLUR_PER_RESOLUTION * resolution_angstrom
    filtered = torch.fft.rfftn(volume) * low_pass_filter(
        counts, [n * spacing for n in counts], resolution_angstrom, blur, device
    )
    volume = torch.fft.irfftn(filtered, s=counts)
    inside = torch.nonzero(volume > _SAMPLED_FRACTION * volume.max())
    density = volume[inside.unbind(1)]
    points = inside.flip(1) * spacing + torch.as_tensor(low, dtype=torch.float32, device=device)
    radius = float((points**2).sum(1).mean().sqrt())
    return Template(points, _standardised(density), density, radius, resolution_angstrom)


def make_molecule_template(molecule: RigidMolecule, resolution_angstrom: float, device: torch.device) -> Template:
    """Template of a molecule about its centroid; see ``make_template``."""
    return make_template(molecule.positions - molecule.centroid, molecule.atomic_numbers, resolution_angstrom, device)


def spread_trilinear(places: torch.Tensor, masses: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Point masses shared between the eight voxels around each, on a periodic grid.

    Parameters
    ----------
    places : (batch, n, 3) float
        x, y, z in voxels.
    masses : (batch or 1, channels, n) float
    counts : (3,) int
        Voxels along z, y, x.

    Returns
    -------
    (batch, channels, *counts) float
    """
    batch, channels = len(places), masses.shape[1]
    size = counts[0] * counts[1] * counts[2]
    out = places.new_zeros(batch, channels, size)
    below = places.floor()
    fraction = (places - below).unbind(-1)
    corner = below.long().unbind(-1)
    sides = [
        ((corner[axis].remainder(n), 1 - fraction[axis]), ((corner[axis] + 1).remainder(n), fraction[axis]))
        for axis, n in enumerate(reversed(counts))
    ]
    for x, share_x in sides[0]:
        for y, share_y in sides[1]:
            share_xy = share_x * share_y
            for z, share_z in sides[2]:
                index = ((z * counts[1] + y) * counts[2] + x)[:, None].expand(-1, channels, -1)
                out.scatter_add_(2, index, masses * (share_xy * share_z)[:, None])
    return out.view(batch, channels, *counts)


def _standardised(density: torch.Tensor) -> torch.Tensor:
    centred = density - density.mean()
    return centred / centred.square().mean().sqrt().clamp(min=1e-12)


# A direction on no symmetry axis or plane: copies that lie equally far along it are rare.
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
    def unscored(cls, rotations: np.ndarray, centres: np.ndarray) -> RigidPoses:
        """Poses whose scores are not known yet, and 0."""
        return cls(rotations, centres, np.zeros(len(rotations)))

    @classmethod
    def concatenated(cls, parts: list[RigidPoses]) -> RigidPoses:
        """All of them in the order given."""
        return cls(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in ("rotations", "centres", "scores"))
        )

    @classmethod
    def merged_best_first(cls, parts: list[RigidPoses]) -> RigidPoses:
        """All of them, best first."""
        whole = cls.concatenated(parts)
        return whole[np.argsort(-whole.scores, kind="stable")]

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Points under each of the motions, (n, n_points, 3)."""
        return np.einsum("mij,pj->mpi", self.rotations, points) + self.centres[:, None]

    def moved_to_asymmetric_unit(self, group: np.ndarray, centre: np.ndarray) -> RigidPoses:
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


# Sample points of all candidates of a batch, for memory alone.
_POINTS_AT_ONCE = 200_000
# Adam moves each parameter by about its rate a step: from 0.06 resolutions, so that some twenty steps cross one,
# down to 3 % of that, so that the last ones settle.
_RATE_IN_RESOLUTIONS = 0.06
_FINAL_RATE_FRACTION = 0.03
# Shorter memory than Adam's usual (0.9, 0.999), as there are no more than tens of steps.
_ADAM_BETAS = (0.8, 0.95)


def refine_poses(grid: MapGrid, template: Template, poses: RigidPoses, steps: int) -> RigidPoses:
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
        _refine_batch(grid, template, poses[start : start + at_once], steps) for start in range(0, len(poses), at_once)
    ]
    return RigidPoses.concatenated(parts)


def correlations_at_poses(grid: MapGrid, template: Template, poses: RigidPoses) -> np.ndarray:
    """Pearson's correlation of map and template at the template's points, (n,)."""
    rotations, centres = _tensors(poses, grid)
    with torch.no_grad():
        parts = [
            _pose_correlations(grid, template, turn[None], centre[None]) for turn, centre in zip(rotations, centres)
        ]
    return torch.cat(parts).double().cpu().numpy()


def _refine_batch(grid: MapGrid, template: Template, poses: RigidPoses, steps: int) -> RigidPoses:
    rotations, centres = _tensors(poses, grid)
    moves = torch.zeros(len(poses), 6, device=centres.device, requires_grad=True)
    rate = _RATE_IN_RESOLUTIONS * template.resolution_angstrom
    optimiser = Adam([{"params": [moves], "lr": rate}], _ADAM_BETAS)
    best = torch.full((len(poses),), -math.inf, device=centres.device)
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
        optimiser.groups[0]["lr"] = rate * _rate_factor(step / steps)
        optimiser.zero_grad()
        (-correlation.sum()).backward()
        optimiser.step()
    with torch.no_grad():
        turns, places = _apply_moves(rotations, centres, best_moves, template.radius_angstrom)
    return RigidPoses(_orthonormal(turns), places.double().cpu().numpy(), best.double().cpu().numpy())


def _rate_factor(progress: float) -> float:
    """Factor on the learning rate, which falls as a cosine as ``progress`` goes from 0 to 1."""
    return _FINAL_RATE_FRACTION + (1 - _FINAL_RATE_FRACTION) * 0.5 * (1 + math.cos(math.pi * progress))


def _tensors(poses: RigidPoses, grid: MapGrid) -> tuple[torch.Tensor, torch.Tensor]:
    device = grid.values.device
    return (
        torch.as_tensor(poses.rotations, dtype=torch.float32, device=device),
        torch.as_tensor(poses.centres, dtype=torch.float32, device=device),
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
    value = grid.interpolate(points)
    value = value - value.mean(1, keepdim=True)
    return (value * template.values).mean(1) / value.square().mean(1).clamp(min=1e-20).sqrt()


def _orthonormal(rotations: torch.Tensor) -> np.ndarray:
    """The nearest rotations, (n, 3, 3) float64, so that single precision leaves no trace."""
    return roma.special_procrustes(rotations.double().cpu()).numpy()


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
