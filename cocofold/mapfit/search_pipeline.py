"""From a search to placements at the map's resolution: many candidates, moved uphill from coarse to fine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree

from cocofold.mapfit.fft_search import search
from cocofold.mapfit.rigid_refinement import Motions, angles_between, even_rotations, refine
from cocofold.mapfit.target_map import Atoms, Target, make_template
from cocofold.system.progress import Tell

Judge = Callable[[Target, float, Motions], Motions]

_RESOLUTION_PER_RADIUS = 0.6
_RADIUS_OF_A_STEP = 2.5
_LARGEST_STEP_RAD = math.radians(20)
_LARGEST_FACTOR = 1.5
_WORK = 1.5e9
_VOXELS_OF_SEARCH = 2.5
_JUDGED = 1000
_POOL = 250
_FEWER = (80, 40)
_AT_LAST = 10
_STEPS, _LAST_STEPS = 20, 40
_POINTS, _LAST_POINTS = 2000, 15_000
_SAME_DEG, _SAME_ANGSTROM = 6.0, 2.0
_LOCAL_DEG, _LOCAL_ANGSTROM = 40.0, 12.0


@dataclass(frozen=True)
class Plan:
    """How finely to search.

    Attributes
    ----------
    resolution_angstrom : float
        Of the search.
    step_rad : float
        Between rotations.
    """

    resolution_angstrom: float
    step_rad: float

    @classmethod
    def of(cls, atoms: Atoms, target: Target, extent: np.ndarray | None = None) -> Plan:
        """0.6 radii of gyration where the map allows it, and a step that moves the model by half of that at its rim.

        In a map much larger than the model the search is coarser, so that it takes no longer than it may.
        """
        radius = max(atoms.radius_of_gyration, 3.0)
        resolution = max(target.resolution_angstrom, _RESOLUTION_PER_RADIUS * radius)
        while True:
            step = min(resolution / (_RADIUS_OF_A_STEP * radius), _LARGEST_STEP_RAD)
            if extent is None or step == _LARGEST_STEP_RAD:
                break
            voxels = np.prod(extent + 2 * radius) / (resolution / _VOXELS_OF_SEARCH) ** 3
            if voxels * 8 * math.pi**2 / step**3 < _WORK:
                break
            resolution *= 1.1
        return cls(resolution, step)


def find(
    atoms: Atoms,
    targets: list[Target],
    explained: Atoms | None = None,
    tell: Tell = lambda what, done: None,
    judge: Judge | None = None,
) -> list[Motions]:
    """Placements of a molecule in a map, anywhere.

    Parameters
    ----------
    atoms : Atoms
    targets : list of Target
        The map, and its mirror image along z where both hands are to be searched.
    explained : Atoms, optional
        Placed already; their density is taken away.
    tell
        Told what is done, and how much of it, from 0 to 1.
    judge : callable, optional
        Given a target, a resolution (Å) and placements, gives these new scores to be followed by, and may make alike
        ones the same.

    Returns
    -------
    list of Motions
        For each target up to ten placements of the centred atoms, best first, with their correlations at the map's
        resolution.
    """
    target = targets[0]
    plan = Plan.of(atoms, target)
    grid = target.grid(plan.resolution_angstrom, explained)
    low, high = target.where_dense(grid, atoms.volume_a3)
    plan = Plan.of(atoms, target, (high - low).cpu().numpy())
    rotations = even_rotations(plan.step_rad)
    hands = _searched(atoms, targets, plan, rotations, (low, high), explained, tell)
    if judge is not None:
        hands = [
            judge(one, plan.resolution_angstrom, motions.distinct(_JUDGED, *_alike(plan)))
            for one, motions in zip(targets, hands)
        ]
    return [climb(atoms, one, motions, plan, explained, tell, judge) for one, motions in zip(targets, hands)]


def find_near(atoms: Atoms, target: Target, start: Motions, explained: Atoms | None = None) -> Motions:
    """Placements within 40° and 12 Å (along each axis) of one, best first; the one among them."""
    plan = Plan.of(atoms, target)
    turns = even_rotations(plan.step_rad)
    near = turns[angles_between(turns, np.eye(3)[None])[:, 0] < _LOCAL_DEG] @ start.rotations[0]
    centre = torch.as_tensor(start.centres[0], dtype=torch.float32, device=target.device)
    within = (centre - _LOCAL_ANGSTROM, centre + _LOCAL_ANGSTROM)
    found = _searched(atoms, [target], plan, near, within, explained, lambda what, done: None)[0]
    best_first = Motions.joined([Motions(start.rotations, start.centres, np.array([1.0])), found])
    return climb(atoms, target, best_first, plan, explained, lambda what, done: None)


def polish(atoms: Atoms, target: Target, motions: Motions, explained: Atoms | None = None) -> Motions:
    """Placements moved uphill at the map's resolution."""
    template = make_template(_centred(atoms), atoms.atomic_numbers, target.resolution_angstrom, target.device)
    grid = target.grid(target.resolution_angstrom, explained)
    return refine(grid, template.thinned(_LAST_POINTS), motions, _LAST_STEPS)


def _alike(plan: Plan) -> tuple[float, float]:
    """Angle (degrees) and distance (Å) below which candidates of a search are the same."""
    return 0.8 * math.degrees(plan.step_rad), plan.resolution_angstrom / 3


def climb(
    atoms: Atoms,
    target: Target,
    motions: Motions,
    plan: Plan,
    explained: Atoms | None,
    tell: Tell,
    judge: Judge | None = None,
) -> Motions:
    """Candidates moved uphill from the search's resolution to the map's, fewer each time."""
    first, last = plan.resolution_angstrom, target.resolution_angstrom
    levels = max(1, math.ceil(math.log(first / last) / math.log(_LARGEST_FACTOR)))
    found = motions.distinct(_POOL, *_alike(plan))
    for level in range(levels + 1):
        at_last = level == levels
        resolution = first * (last / first) ** (level / levels)
        template = make_template(_centred(atoms), atoms.atomic_numbers, resolution, target.device)
        template = template.thinned(_LAST_POINTS if at_last else _POINTS)
        found = refine(target.grid(resolution, explained), template, found, _LAST_STEPS if at_last else _STEPS)
        if judge is not None:
            found = judge(target, resolution, found)
        fewer = _FEWER[min(level, len(_FEWER) - 1)] if level < levels - 1 else _AT_LAST
        found = found.distinct(fewer, _SAME_DEG, _SAME_ANGSTROM)
        tell("refining", (level + 1) / (levels + 1))
    return found


def _searched(
    atoms: Atoms,
    targets: list[Target],
    plan: Plan,
    rotations: np.ndarray,
    within: tuple[torch.Tensor, torch.Tensor],
    explained: Atoms | None,
    tell: Tell,
) -> list[Motions]:
    target, resolution = targets[0], plan.resolution_angstrom
    grid = target.grid(resolution, explained, _VOXELS_OF_SEARCH)
    low, high = target.where_dense(grid, atoms.volume_a3)
    grid = grid.cut(low - resolution / 2, high + resolution / 2)
    template = make_template(_centred(atoms), atoms.atomic_numbers, resolution, target.device)
    found = search(
        grid, template, rotations, within, len(targets) == 2, lambda done: tell("searching", done / len(rotations))
    )
    if len(found) == 2:
        # Inverted through 0 and turned by 180° about z is mirrored along z at 0; the mirror lies at the box's centre.
        half_turn = np.array([-1.0, -1.0, 1.0])
        centre = targets[1].density.centre_angstrom
        inverted = found[1]
        found[1] = Motions(
            half_turn[:, None] * inverted.rotations,
            half_turn * inverted.centres + np.array([0.0, 0.0, 2 * centre[2]]),
            inverted.scores,
        )
    return found


def _centred(atoms: Atoms) -> np.ndarray:
    return atoms.positions - atoms.centroid


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
