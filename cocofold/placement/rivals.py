"""Whether a placement stands out from the next one that is really different."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree

from cocofold.placement.motions import Motions
from cocofold.placement.target import Atoms, Target
from cocofold.placement.template import make_template

_DIFFERENT_ANGSTROM = 5.0
_SUPERPOSED_ANGSTROM = 1.5
_SAME_DENSITY = 0.75
TRUSTED = 2.0


@dataclass(frozen=True)
class Standing:
    """The best placement against the others.

    Attributes
    ----------
    runner_up : int or None
        Row of the best placement that is really different.
    margin : float
        ``(atanh r1 - atanh r2) sqrt(n)`` with n independent samples: a difference in standard errors (Fisher's z), or
        infinity without a runner-up.
    equivalents : int
        Other placements where the map repeats itself.
    """

    runner_up: int | None
    margin: float
    equivalents: int

    @property
    def trusted(self) -> bool:
        """Whether the best stands out."""
        return self.margin >= TRUSTED


def stand(atoms: Atoms, target: Target, motions: Motions) -> Standing:
    """Compare the first of the placements, which is the best, with the others.

    Another placement is different if its atoms lie more than 5 Å (root mean square), or half the resolution, from
    the best's, unless it puts atoms on atoms (a symmetric model), or the map is the same there (a symmetric map).
    """
    moved = motions.apply(atoms.alphas - atoms.centroid)
    least = max(_DIFFERENT_ANGSTROM, target.resolution_angstrom / 2)
    seen: np.ndarray | None = None
    equivalents, runner_up = 0, None
    for row in range(1, len(motions)):
        if _rms(moved[row] - moved[0]) < least or _superposed(moved[row], moved[0]):
            continue
        if seen is None:
            seen = _density_at(atoms, target, motions)
        if np.corrcoef(seen[0], seen[row])[0, 1] > _SAME_DENSITY:
            equivalents += 1
            continue
        runner_up = row
        break
    margin = math.inf
    if runner_up is not None:
        margin = in_standard_errors(atoms, target, motions.scores[0], motions.scores[runner_up])
    return Standing(runner_up, margin, equivalents)


def in_standard_errors(atoms: Atoms, target: Target, best: float, other: float) -> float:
    """Difference of two correlations, with one independent sample for each cube of the resolution's side."""
    samples = max(4.0, atoms.volume_a3 / target.resolution_angstrom**3)
    limit = 1 - 1e-6
    difference = math.atanh(np.clip(best, -limit, limit)) - math.atanh(np.clip(other, -limit, limit))
    return difference * math.sqrt(samples - 3)


def _superposed(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether CA atoms lie on CA atoms; by chance the nearest one is nearly 3 Å away."""
    distances = np.concatenate([cKDTree(one).query(other)[0], cKDTree(other).query(one)[0]])
    return math.sqrt((distances**2).mean()) < _SUPERPOSED_ANGSTROM


def _rms(shifts: np.ndarray) -> float:
    return math.sqrt((shifts**2).sum(1).mean())


def _density_at(atoms: Atoms, target: Target, motions: Motions) -> np.ndarray:
    """Density at the model's sample points under each motion, (n, n_points)."""
    template = make_template(
        atoms.positions - atoms.centroid, atoms.atomic_numbers, target.resolution_angstrom, target.device
    ).thinned(5000)
    grid = target.grid(target.resolution_angstrom)
    points = torch.as_tensor(motions.apply(template.points.cpu().numpy()), dtype=torch.float32, device=target.device)
    return grid.at(points).cpu().numpy()
