"""From a search to placements at the map's resolution, and how they stand: against each other and the map's density."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from cocofold.mapfit.fft_search import SearchPlan, compact_part, even_rotations, search_candidates
from cocofold.mapfit.rigid_refinement import (
    MAX_CLASH_FRACTION,
    RigidMolecule,
    RigidPoses,
    angles_between,
    clash_fraction,
    make_molecule_template,
    refine_poses,
)
from cocofold.mapfit.target_map import TargetMap, compute_model_density, correlation_of
from cocofold.structure.geometry import copy_positions
from cocofold.system.progress import ProgressCallback

# Given a map, a resolution (Å) and placements, returns these with the scores to be followed by; alike ones may become
# the same.
Rescore = Callable[[TargetMap, float, RigidPoses], RigidPoses]

# Candidates that a symmetric map's assemblies score anew, that are refined first, that go on after the first and after
# each further level, and that are left at the end. More only take longer; fewer may lose the right one, whose rank at
# low resolution is not the first.
_RESCORED_CANDIDATES = 1000
_REFINED_CANDIDATES = 250
_CANDIDATES_BY_LEVEL = (80, 40)
_FINAL_CANDIDATES = 10
# From one level of refinement to the next the resolution improves at most by this factor: a step larger than a
# candidate's error would leave it on the slope of another maximum.
_MAX_RESOLUTION_RATIO = 1.5
# Steps of gradient ascent and sample points of the molecule at each level, and at the last one, whose scores are told.
_STEPS, _LAST_STEPS = 20, 40
_POINTS, _LAST_POINTS = 2000, 15_000
# Refined placements nearer to each other than both are one.
_DUPLICATE_DEG, _DUPLICATE_ANGSTROM = 6.0, 2.0
# A rotation about no axis of the others, so that those of a second search lie elsewhere; any such one would do.
_BETWEEN_ROTATIONS = Rotation.from_rotvec([0.4, 0.7, -0.3]).as_matrix()
# How far from its place in the whole model a body is sought: a domain's motion between conformations, as a rule.
_LOCAL_DEG, _LOCAL_ANGSTROM = 40.0, 12.0


def find_placements(
    atoms: RigidMolecule,
    targets: list[TargetMap],
    subtracted: RigidMolecule | None = None,
    progress: ProgressCallback = lambda what, done: None,
    rescore: Rescore | None = None,
) -> list[RigidPoses]:
    """Placements of a molecule in a map, anywhere.

    Parameters
    ----------
    atoms : RigidMolecule
    targets : list of TargetMap
        The map, and its mirror image along z where both hands are to be searched.
    subtracted : RigidMolecule, optional
        Atoms that are placed already; their density is subtracted from the map.
    progress
        Called with what is being done, and what share of it is done, from 0 to 1.
    rescore : callable, optional
        See ``Rescore``.

    Returns
    -------
    list of RigidPoses
        For each target up to ten placements of the centred atoms, best first, with their correlations at the map's
        resolution.
    """
    target = targets[0]
    plan = SearchPlan.of(atoms, target)
    grid = target.grid(plan.resolution_angstrom, subtracted)
    low, high = target.dense_bounds(grid, atoms.volume_a3)
    plan = SearchPlan.of(atoms, target, (high - low).cpu().numpy())
    rotations = even_rotations(plan.step_rad)
    hands = search_candidates(atoms, targets, plan, rotations, (low, high), subtracted, progress)
    if rescore is not None:
        hands = [
            rescore(one, plan.resolution_angstrom, poses.distinct(_RESCORED_CANDIDATES, *plan.duplicate_tolerances))
            for one, poses in zip(targets, hands)
        ]
    return [
        refine_coarse_to_fine(atoms, one, poses, plan, subtracted, progress, rescore)
        for one, poses in zip(targets, hands)
    ]


def search_again(
    atoms: RigidMolecule, targets: list[TargetMap], found: list[RigidPoses], progress: ProgressCallback
) -> list[RigidPoses]:
    """Placements that were found, and those to which another search leads, best first.

    Only the molecule's compact part is sought, from other rotations: tails make a molecule larger than what the map
    shows of it, and the search coarser than that allows.

    Parameters
    ----------
    atoms : RigidMolecule
    targets : list of TargetMap
    found : list of RigidPoses
        For each target.
    progress
        Called with what is being done, and what share of it is done, from 0 to 1.
    """
    part = compact_part(atoms)
    arm = atoms.centroid - part.centroid
    merged = []
    turned = part.moved(_BETWEEN_ROTATIONS, part.centroid)
    for target, known, poses in zip(targets, found, find_placements(turned, targets, progress=progress)):
        rotations = poses.rotations @ _BETWEEN_ROTATIONS
        settled = refine_at_full_resolution(
            atoms, target, RigidPoses.unscored(rotations, poses.centres + rotations @ arm)
        )
        best_first = RigidPoses.merged_best_first([known, settled])
        merged.append(best_first.distinct(_FINAL_CANDIDATES, _DUPLICATE_DEG, _DUPLICATE_ANGSTROM))
    return merged


def find_placements_near(
    atoms: RigidMolecule, target: TargetMap, start: RigidPoses, subtracted: RigidMolecule | None = None
) -> RigidPoses:
    """Placements within 40° and 12 Å (along each axis) of one, best first; the start itself is among them."""
    plan = SearchPlan.of(atoms, target)
    rotations = even_rotations(plan.step_rad)
    near = rotations[angles_between(rotations, np.eye(3)[None])[:, 0] < _LOCAL_DEG] @ start.rotations[0]
    centre = torch.as_tensor(start.centres[0], dtype=torch.float32, device=target.device)
    corners = (centre - _LOCAL_ANGSTROM, centre + _LOCAL_ANGSTROM)
    found = search_candidates(atoms, [target], plan, near, corners, subtracted, lambda what, done: None)[0]
    # No correlation is above 1, and searches score by ranks below 0: the start is refined first.
    best_first = RigidPoses.merged_best_first([RigidPoses(start.rotations, start.centres, np.array([1.0])), found])
    return refine_coarse_to_fine(atoms, target, best_first, plan, subtracted, lambda what, done: None)


def refine_at_full_resolution(
    atoms: RigidMolecule, target: TargetMap, poses: RigidPoses, subtracted: RigidMolecule | None = None
) -> RigidPoses:
    """Placements moved uphill at the map's resolution, in the order given, with the correlations reached."""
    template = make_molecule_template(atoms, target.resolution_angstrom, target.device)
    grid = target.grid(target.resolution_angstrom, subtracted)
    return refine_poses(grid, template.thinned(_LAST_POINTS), poses, _LAST_STEPS)


def refine_coarse_to_fine(
    atoms: RigidMolecule,
    target: TargetMap,
    poses: RigidPoses,
    plan: SearchPlan,
    subtracted: RigidMolecule | None,
    progress: ProgressCallback,
    rescore: Rescore | None = None,
) -> RigidPoses:
    """Candidates moved uphill from the search's resolution to the map's, fewer each time."""
    first, last = plan.resolution_angstrom, target.resolution_angstrom
    levels = max(1, math.ceil(math.log(first / last) / math.log(_MAX_RESOLUTION_RATIO)))
    found = poses.distinct(_REFINED_CANDIDATES, *plan.duplicate_tolerances)
    for level in range(levels + 1):
        at_last = level == levels
        resolution = first * (last / first) ** (level / levels)
        template = make_molecule_template(atoms, resolution, target.device)
        template = template.thinned(_LAST_POINTS if at_last else _POINTS)
        found = refine_poses(target.grid(resolution, subtracted), template, found, _LAST_STEPS if at_last else _STEPS)
        if rescore is not None:
            found = rescore(target, resolution, found)
        fewer = (
            _CANDIDATES_BY_LEVEL[min(level, len(_CANDIDATES_BY_LEVEL) - 1)] if level < levels - 1 else _FINAL_CANDIDATES
        )
        found = found.distinct(fewer, _DUPLICATE_DEG, _DUPLICATE_ANGSTROM)
        progress("refining", (level + 1) / (levels + 1))
    return found


# CA atoms of a placement that is another one lie farther than this (root mean square) from the best's: less is the
# error of placing, or half the resolution where that is more.
_MIN_DIFFERENT_RMSD_ANGSTROM = 5.0
# Below this distance CA atoms lie on CA atoms: by chance the nearest one is nearly 3 Å away.
_MAX_COINCIDING_RMSD_ANGSTROM = 1.5
# Correlation of the map's densities at two placements above which they are the same part of a map that repeats itself.
_MIN_SAME_DENSITY_CORRELATION = 0.75
# Sample points at which these densities are compared.
_COMPARED_POINTS = 5000
# Standard errors by which a placement, or a hand, must be better to be trusted: 95 % of a normal distribution.
TRUSTED_STANDARD_ERRORS = 2.0
# Independent samples at least, as the standard error of Fisher's z is 1 / sqrt(n - 3).
_MIN_SAMPLES = 4.0
# Largest correlation that is compared, for atanh(1) is infinite.
_MAX_CORRELATION = 1 - 1e-6


@dataclass(frozen=True)
class PlacementSignificance:
    """The best placement against the others.

    Attributes
    ----------
    runner_up : int or None
        Row of the best placement that is really different.
    margin_standard_errors : float
        ``(atanh r1 - atanh r2) sqrt(n - 3)`` with n independent samples (Fisher's z), or infinity without a runner-up.
    n_equivalent : int
        Number of other placements where the map repeats itself.
    """

    runner_up: int | None
    margin_standard_errors: float
    n_equivalent: int

    @property
    def trusted(self) -> bool:
        """Whether the best stands out."""
        return self.margin_standard_errors >= TRUSTED_STANDARD_ERRORS


@dataclass(frozen=True)
class RankedPlacements:
    """Placements of a molecule, the chosen one first, and how it compares with the others."""

    poses: RigidPoses
    significance: PlacementSignificance

    @classmethod
    def of(cls, atoms: RigidMolecule, target: TargetMap, poses: RigidPoses) -> RankedPlacements:
        """Compare the first of the placements with the others."""
        return cls(poses, assess_significance(atoms, target, poses))

    @property
    def correlation(self) -> float:
        """Correlation of the chosen placement."""
        return float(self.poses.scores[0])

    @property
    def runner_up(self) -> float | None:
        """Correlation of the best placement that is really different; None if none was found."""
        row = self.significance.runner_up
        return None if row is None else float(self.poses.scores[row])


def assess_significance(atoms: RigidMolecule, target: TargetMap, poses: RigidPoses) -> PlacementSignificance:
    """Compare the first of the placements, which is the chosen one, with the others, best first.

    Another placement is different if its atoms lie more than 5 Å (root mean square), or half the resolution, from
    the first one's, unless it puts atoms on atoms (a symmetric model), or the map is the same there (a symmetric map).
    The chosen one need not be the best: a body goes where no other body is.
    """
    moved = poses.apply(atoms.ca_positions - atoms.centroid)
    least = max(_MIN_DIFFERENT_RMSD_ANGSTROM, target.resolution_angstrom / 2)
    seen: np.ndarray | None = None
    n_equivalent, runner_up = 0, None
    for row in range(1, len(poses)):
        if _rms(moved[row] - moved[0]) < least or _atoms_coincide(moved[row], moved[0]):
            continue
        if seen is None:
            seen = _density_at(atoms, target, poses)
        if np.corrcoef(seen[0], seen[row])[0, 1] > _MIN_SAME_DENSITY_CORRELATION:
            n_equivalent += 1
            continue
        runner_up = row
        break
    margin = math.inf
    if runner_up is not None:
        margin = difference_in_standard_errors(
            atoms, target.resolution_angstrom, poses.scores[0], poses.scores[runner_up]
        )
    return PlacementSignificance(runner_up, margin, n_equivalent)


def difference_in_standard_errors(atoms: RigidMolecule, resolution_angstrom: float, best: float, other: float) -> float:
    """Difference of two correlations, with one independent sample for each cube of the resolution's side."""
    samples = max(_MIN_SAMPLES, atoms.volume_a3 / resolution_angstrom**3)
    best_z, other_z = (math.atanh(np.clip(one, -_MAX_CORRELATION, _MAX_CORRELATION)) for one in (best, other))
    return (best_z - other_z) * math.sqrt(samples - 3)


def _atoms_coincide(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether CA atoms, (n, 3) Å, lie on CA atoms."""
    distances = np.concatenate([cKDTree(one).query(other)[0], cKDTree(other).query(one)[0]])
    return math.sqrt((distances**2).mean()) < _MAX_COINCIDING_RMSD_ANGSTROM


def _rms(shifts: np.ndarray) -> float:
    return math.sqrt((shifts**2).sum(1).mean())


def _density_at(atoms: RigidMolecule, target: TargetMap, poses: RigidPoses) -> np.ndarray:
    """Density at the molecule's sample points under each of n poses, (n, n_points)."""
    template = make_molecule_template(atoms, target.resolution_angstrom, target.device).thinned(_COMPARED_POINTS)
    grid = target.grid(target.resolution_angstrom)
    points = torch.as_tensor(poses.apply(template.points.cpu().numpy()), dtype=torch.float32, device=target.device)
    return grid.interpolate(points).cpu().numpy()


# Finer detail than this is not asked for density outside the model: there is noise enough at 8 Å.
_COVERAGE_RESOLUTION_ANGSTROM = 8.0
# Density counts above this share of its median at the atoms, in pieces of at least this volume (some 15 residues):
# smaller values count noise and the soft edge of the molecule.
_COVERED_LEVEL_FRACTION = 0.4
_MIN_BLOB_A3 = 2000.0
# Beyond half the resolution, how far density reaches from the atoms to which it belongs.
_REACH_ANGSTROM = 3.0


def uncovered_share(target: TargetMap, placed: RigidMolecule) -> float:
    """Share of the map's density, at 8 Å or coarser, that lies far from all atoms.

    Density counts where it is more than 0.4 of its median at the atoms, in pieces of at least 2,000 Å^3 (some 15
    residues), so that noise does not. Far is more than 3 Å and half the resolution.
    """
    grid = target.grid(max(_COVERAGE_RESOLUTION_ANGSTROM, target.resolution_angstrom))
    values, voxel = grid.values.cpu().numpy(), grid.voxel_angstrom.cpu().numpy().astype(float)
    at = np.rint(placed.positions / voxel).astype(int)
    at = at[((at >= 0) & (at < values.shape[::-1])).all(1)]
    if len(at) == 0:
        return 1.0
    level = float(np.median(values[at[:, 2], at[:, 1], at[:, 0]]))
    if level <= 0:
        return 1.0
    pieces, count = ndimage.label(values > _COVERED_LEVEL_FRACTION * level)
    if count == 0:
        return 1.0
    sizes = np.bincount(pieces.ravel()) * voxel.prod()
    sizes[0] = 0
    dense = np.argwhere((sizes >= _MIN_BLOB_A3)[pieces])
    if len(dense) == 0:
        return 1.0
    reach = _REACH_ANGSTROM + grid.resolution_angstrom / 2
    distance, _ = cKDTree(placed.positions).query(dense[:, ::-1] * voxel, distance_upper_bound=reach)
    weight = values[tuple(dense.T)]
    return float(weight[~np.isfinite(distance)].sum() / weight.sum())


def symmetric_copies_of(atoms: RigidMolecule, rotations: np.ndarray, centre: np.ndarray) -> list[RigidMolecule]:
    """A placed molecule and its copies about a centre (Å)."""
    positions = copy_positions(atoms.positions, rotations, centre).reshape(len(rotations), -1, 3)
    ca_positions = copy_positions(atoms.ca_positions, rotations, centre).reshape(len(rotations), -1, 3)
    return [RigidMolecule(one, atoms.atomic_numbers, other) for one, other in zip(positions, ca_positions)]


def rescore_by_assembly(atoms: RigidMolecule, rotations: np.ndarray) -> Rescore:
    """Scores for placements of a subunit: the whole map's correlation with all of its copies.

    At the points of one subunit a symmetric map says too little, as it is full of density on all sides; the copies
    together must explain all of it. Of a placement and its copies one is taken.
    """

    def rescore(target: TargetMap, resolution_angstrom: float, poses: RigidPoses) -> RigidPoses:
        centre = target.density.centre_angstrom
        grid = target.grid(resolution_angstrom)
        folded = poses.moved_to_asymmetric_unit(rotations, centre)
        scores = [
            correlation_of(
                compute_model_density(_assembly_at(atoms, folded[row : row + 1], rotations, centre), grid), grid.values
            )
            for row in range(len(folded))
        ]
        return RigidPoses(folded.rotations, folded.centres, np.array(scores))

    return rescore


def rank_without_clashes_first(
    atoms: RigidMolecule, target: TargetMap, poses: RigidPoses, rotations: np.ndarray
) -> RigidPoses:
    """Placements in the order given, those first whose copies do not run into each other."""
    centre = target.density.centre_angstrom
    clear = np.array(
        [
            clash_fraction(copies[0], copies[1:]) <= MAX_CLASH_FRACTION
            for copies in (
                symmetric_copies_of(_subunit_at(atoms, poses[row : row + 1]), rotations, centre)
                for row in range(len(poses))
            )
        ]
    )
    return RigidPoses.concatenated([poses[clear], poses[~clear]])


def _assembly_at(atoms: RigidMolecule, pose: RigidPoses, rotations: np.ndarray, centre: np.ndarray) -> RigidMolecule:
    placed = _subunit_at(atoms, pose)
    numbers = np.tile(atoms.atomic_numbers, len(rotations))
    return RigidMolecule(
        copy_positions(placed.positions, rotations, centre),
        numbers,
        copy_positions(placed.ca_positions, rotations, centre),
    )


def _subunit_at(atoms: RigidMolecule, poses: RigidPoses) -> RigidMolecule:
    return atoms.moved(poses.rotations[0], poses.centres[0])
