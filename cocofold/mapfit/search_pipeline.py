"""From a search to placements at the map's resolution: many candidates, moved uphill from coarse to fine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree

from cocofold.mapfit.fft_search import search_exhaustively
from cocofold.mapfit.rigid_refinement import RigidPoses, angles_between, even_rotations, refine_poses
from cocofold.mapfit.target_map import RigidMolecule, TargetMap, make_template
from cocofold.system.progress import ProgressCallback

Rescore = Callable[[TargetMap, float, RigidPoses], RigidPoses]

_RESOLUTION_PER_RADIUS = 0.6
_STEPS_PER_RESOLUTION = 2.5
_LARGEST_STEP_RAD = math.radians(20)
_MAX_RESOLUTION_RATIO = 1.5
_MAX_SCORES = 1.5e9
_SEARCH_VOXELS_PER_RESOLUTION = 2.5
_RESCORED_CANDIDATES = 1000
_REFINED_CANDIDATES = 250
_CANDIDATES_BY_LEVEL = (80, 40)
_FINAL_CANDIDATES = 10
_STEPS, _LAST_STEPS = 20, 40
_POINTS, _LAST_POINTS = 2000, 15_000
_DUPLICATE_DEG, _DUPLICATE_ANGSTROM = 6.0, 2.0
_LOCAL_DEG, _LOCAL_ANGSTROM = 40.0, 12.0


@dataclass(frozen=True)
class SearchPlan:
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
    def of(cls, atoms: RigidMolecule, target: TargetMap, extent: np.ndarray | None = None) -> SearchPlan:
        """0.6 radii of gyration where the map allows it, and a step that moves the model by half of that at its rim.

        In a map much larger than the model the search is coarser, so that it takes no longer than it may.
        """
        radius = max(atoms.radius_of_gyration, 3.0)
        resolution = max(target.resolution_angstrom, _RESOLUTION_PER_RADIUS * radius)
        while True:
            step = min(resolution / (_STEPS_PER_RESOLUTION * radius), _LARGEST_STEP_RAD)
            if extent is None or step == _LARGEST_STEP_RAD:
                break
            voxels = np.prod(extent + 2 * radius) / (resolution / _SEARCH_VOXELS_PER_RESOLUTION) ** 3
            if voxels * 8 * math.pi**2 / step**3 < _MAX_SCORES:
                break
            resolution *= 1.1
        return cls(resolution, step)


def find_placements(
    atoms: RigidMolecule,
    targets: list[TargetMap],
    explained: RigidMolecule | None = None,
    tell: ProgressCallback = lambda what, done: None,
    judge: Rescore | None = None,
) -> list[RigidPoses]:
    """Placements of a molecule in a map, anywhere.

    Parameters
    ----------
    atoms : RigidMolecule
    targets : list of TargetMap
        The map, and its mirror image along z where both hands are to be searched.
    explained : RigidMolecule, optional
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
    plan = SearchPlan.of(atoms, target)
    grid = target.grid(plan.resolution_angstrom, explained)
    low, high = target.dense_bounds(grid, atoms.volume_a3)
    plan = SearchPlan.of(atoms, target, (high - low).cpu().numpy())
    rotations = even_rotations(plan.step_rad)
    hands = _search_candidates(atoms, targets, plan, rotations, (low, high), explained, tell)
    if judge is not None:
        hands = [
            judge(one, plan.resolution_angstrom, motions.distinct(_RESCORED_CANDIDATES, *_duplicate_tolerances(plan)))
            for one, motions in zip(targets, hands)
        ]
    return [
        refine_coarse_to_fine(atoms, one, motions, plan, explained, tell, judge) for one, motions in zip(targets, hands)
    ]


def find_placements_near(
    atoms: RigidMolecule, target: TargetMap, start: RigidPoses, explained: RigidMolecule | None = None
) -> RigidPoses:
    """Placements within 40° and 12 Å (along each axis) of one, best first; the one among them."""
    plan = SearchPlan.of(atoms, target)
    turns = even_rotations(plan.step_rad)
    near = turns[angles_between(turns, np.eye(3)[None])[:, 0] < _LOCAL_DEG] @ start.rotations[0]
    centre = torch.as_tensor(start.centres[0], dtype=torch.float32, device=target.device)
    within = (centre - _LOCAL_ANGSTROM, centre + _LOCAL_ANGSTROM)
    found = _search_candidates(atoms, [target], plan, near, within, explained, lambda what, done: None)[0]
    best_first = RigidPoses.joined([RigidPoses(start.rotations, start.centres, np.array([1.0])), found])
    return refine_coarse_to_fine(atoms, target, best_first, plan, explained, lambda what, done: None)


def refine_at_full_resolution(
    atoms: RigidMolecule, target: TargetMap, motions: RigidPoses, explained: RigidMolecule | None = None
) -> RigidPoses:
    """Placements moved uphill at the map's resolution."""
    template = make_template(_centred(atoms), atoms.atomic_numbers, target.resolution_angstrom, target.device)
    grid = target.grid(target.resolution_angstrom, explained)
    return refine_poses(grid, template.thinned(_LAST_POINTS), motions, _LAST_STEPS)


def _duplicate_tolerances(plan: SearchPlan) -> tuple[float, float]:
    """Angle (degrees) and distance (Å) below which candidates of a search are the same."""
    return 0.8 * math.degrees(plan.step_rad), plan.resolution_angstrom / 3


def refine_coarse_to_fine(
    atoms: RigidMolecule,
    target: TargetMap,
    motions: RigidPoses,
    plan: SearchPlan,
    explained: RigidMolecule | None,
    tell: ProgressCallback,
    judge: Rescore | None = None,
) -> RigidPoses:
    """Candidates moved uphill from the search's resolution to the map's, fewer each time."""
    first, last = plan.resolution_angstrom, target.resolution_angstrom
    levels = max(1, math.ceil(math.log(first / last) / math.log(_MAX_RESOLUTION_RATIO)))
    found = motions.distinct(_REFINED_CANDIDATES, *_duplicate_tolerances(plan))
    for level in range(levels + 1):
        at_last = level == levels
        resolution = first * (last / first) ** (level / levels)
        template = make_template(_centred(atoms), atoms.atomic_numbers, resolution, target.device)
        template = template.thinned(_LAST_POINTS if at_last else _POINTS)
        found = refine_poses(target.grid(resolution, explained), template, found, _LAST_STEPS if at_last else _STEPS)
        if judge is not None:
            found = judge(target, resolution, found)
        fewer = (
            _CANDIDATES_BY_LEVEL[min(level, len(_CANDIDATES_BY_LEVEL) - 1)] if level < levels - 1 else _FINAL_CANDIDATES
        )
        found = found.distinct(fewer, _DUPLICATE_DEG, _DUPLICATE_ANGSTROM)
        tell("refining", (level + 1) / (levels + 1))
    return found


def _search_candidates(
    atoms: RigidMolecule,
    targets: list[TargetMap],
    plan: SearchPlan,
    rotations: np.ndarray,
    within: tuple[torch.Tensor, torch.Tensor],
    explained: RigidMolecule | None,
    tell: ProgressCallback,
) -> list[RigidPoses]:
    target, resolution = targets[0], plan.resolution_angstrom
    grid = target.grid(resolution, explained, _SEARCH_VOXELS_PER_RESOLUTION)
    low, high = target.dense_bounds(grid, atoms.volume_a3)
    grid = grid.cut(low - resolution / 2, high + resolution / 2)
    template = make_template(_centred(atoms), atoms.atomic_numbers, resolution, target.device)
    found = search_exhaustively(
        grid, template, rotations, within, len(targets) == 2, lambda done: tell("searching", done / len(rotations))
    )
    if len(found) == 2:
        # Inverted through 0 and turned by 180° about z is mirrored along z at 0; the mirror lies at the box's centre.
        half_turn = np.array([-1.0, -1.0, 1.0])
        centre = targets[1].density.centre_angstrom
        inverted = found[1]
        found[1] = RigidPoses(
            half_turn[:, None] * inverted.rotations,
            half_turn * inverted.centres + np.array([0.0, 0.0, 2 * centre[2]]),
            inverted.scores,
        )
    return found


def _centred(atoms: RigidMolecule) -> np.ndarray:
    return atoms.positions - atoms.centroid


_MIN_DIFFERENT_RMSD_ANGSTROM = 5.0
_MAX_COINCIDING_RMSD_ANGSTROM = 1.5
_MIN_SAME_DENSITY_CORRELATION = 0.75
TRUSTED_STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class PlacementSignificance:
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
    n_equivalent: int

    @property
    def trusted(self) -> bool:
        """Whether the best stands out."""
        return self.margin >= TRUSTED_STANDARD_ERRORS


def assess_significance(atoms: RigidMolecule, target: TargetMap, motions: RigidPoses) -> PlacementSignificance:
    """Compare the first of the placements, which is the best, with the others.

    Another placement is different if its atoms lie more than 5 Å (root mean square), or half the resolution, from
    the best's, unless it puts atoms on atoms (a symmetric model), or the map is the same there (a symmetric map).
    """
    moved = motions.apply(atoms.alphas - atoms.centroid)
    least = max(_MIN_DIFFERENT_RMSD_ANGSTROM, target.resolution_angstrom / 2)
    seen: np.ndarray | None = None
    n_equivalent, runner_up = 0, None
    for row in range(1, len(motions)):
        if _rms(moved[row] - moved[0]) < least or _atoms_coincide(moved[row], moved[0]):
            continue
        if seen is None:
            seen = _density_at(atoms, target, motions)
        if np.corrcoef(seen[0], seen[row])[0, 1] > _MIN_SAME_DENSITY_CORRELATION:
            n_equivalent += 1
            continue
        runner_up = row
        break
    margin = math.inf
    if runner_up is not None:
        margin = difference_in_standard_errors(atoms, target, motions.scores[0], motions.scores[runner_up])
    return PlacementSignificance(runner_up, margin, n_equivalent)


def difference_in_standard_errors(atoms: RigidMolecule, target: TargetMap, best: float, other: float) -> float:
    """Difference of two correlations, with one independent sample for each cube of the resolution's side."""
    samples = max(4.0, atoms.volume_a3 / target.resolution_angstrom**3)
    limit = 1 - 1e-6
    difference = math.atanh(np.clip(best, -limit, limit)) - math.atanh(np.clip(other, -limit, limit))
    return difference * math.sqrt(samples - 3)


def _atoms_coincide(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether CA atoms lie on CA atoms; by chance the nearest one is nearly 3 Å away."""
    distances = np.concatenate([cKDTree(one).query(other)[0], cKDTree(other).query(one)[0]])
    return math.sqrt((distances**2).mean()) < _MAX_COINCIDING_RMSD_ANGSTROM


def _rms(shifts: np.ndarray) -> float:
    return math.sqrt((shifts**2).sum(1).mean())


def _density_at(atoms: RigidMolecule, target: TargetMap, motions: RigidPoses) -> np.ndarray:
    """Density at the model's sample points under each motion, (n, n_points)."""
    template = make_template(
        atoms.positions - atoms.centroid, atoms.atomic_numbers, target.resolution_angstrom, target.device
    ).thinned(5000)
    grid = target.grid(target.resolution_angstrom)
    points = torch.as_tensor(motions.apply(template.points.cpu().numpy()), dtype=torch.float32, device=target.device)
    return grid.at(points).cpu().numpy()
