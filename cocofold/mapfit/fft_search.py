"""Search for a model in a map: every rotation of an even set with every translation, by FFT, for both hands at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from cocofold.mapfit.density_map import MapGrid, even_fast_length
from cocofold.mapfit.rigid_refinement import (
    RigidMolecule,
    RigidPoses,
    Template,
    make_molecule_template,
    spread_trilinear,
)
from cocofold.mapfit.target_map import TargetMap
from cocofold.system.progress import ProgressCallback

# The search runs at this many radii of gyration: coarse enough to take seconds, and fine enough that a molecule is more
# than a blob. Larger values are faster and lose placements, smaller ones only take longer.
_RESOLUTION_PER_RADIUS = 0.6
# A step of the rotations moves atoms at the radius of gyration by the resolution over this.
_STEPS_PER_RESOLUTION = 2.5
# Coarsest steps, also for small or coarse models; refinement must still reach a placement from the nearest rotation.
_LARGEST_STEP_RAD = math.radians(20)
# Radius of gyration below which a molecule is searched as if it had this one (Å), so that no plan is without end.
_MIN_RADIUS_ANGSTROM = 3.0
# Scores (rotations times voxels) of a search at most; above, the resolution grows by this factor until it fits.
_MAX_SCORES = 1.5e9
_COARSENING = 1.1
# Candidates nearer to each other than both of these shares of its step and its resolution are one.
_DUPLICATE_PER_STEP, _DUPLICATE_PER_RESOLUTION = 0.8, 1 / 3
# Voxels of the searched grid along a resolution. Fewer than the three of refinement, as peaks are refined afterwards.
_SEARCH_VOXELS_PER_RESOLUTION = 2.5


@dataclass(frozen=True)
class SearchPlan:
    """How finely to search.

    Attributes
    ----------
    resolution_angstrom : float
        At which map and molecule are compared.
    step_rad : float
        Between neighbouring rotations.
    """

    resolution_angstrom: float
    step_rad: float

    @classmethod
    def of(cls, atoms: RigidMolecule, target: TargetMap, extent: np.ndarray | None = None) -> SearchPlan:
        """0.6 radii of gyration where the map allows it, and steps that move atoms at one radius by 0.4 of that.

        In a map whose density has an ``extent``, (3,) Å, much larger than the molecule the search is coarser, so that
        it takes no longer than it may.
        """
        radius = max(atoms.radius_of_gyration, _MIN_RADIUS_ANGSTROM)
        resolution = max(target.resolution_angstrom, _RESOLUTION_PER_RADIUS * radius)
        while True:
            step = min(resolution / (_STEPS_PER_RESOLUTION * radius), _LARGEST_STEP_RAD)
            if extent is None or step == _LARGEST_STEP_RAD:
                break
            voxels = np.prod(extent + 2 * radius) / (resolution / _SEARCH_VOXELS_PER_RESOLUTION) ** 3
            if voxels * 8 * math.pi**2 / step**3 < _MAX_SCORES:
                break
            resolution *= _COARSENING
        return cls(resolution, step)

    @property
    def duplicate_tolerances(self) -> tuple[float, float]:
        """Angle (degrees) and distance (Å) below which candidates are the same."""
        return _DUPLICATE_PER_STEP * math.degrees(self.step_rad), self.resolution_angstrom * _DUPLICATE_PER_RESOLUTION


# How compactly atoms are packed is counted within this distance, some four residues; 95 to 98 % of the atoms of folded
# proteins have at least this share of the median, and few of a tail's.
_PACKING_ANGSTROM, _COMPACT_FRACTION = 15.0, 0.5


def compact_part(atoms: RigidMolecule) -> RigidMolecule:
    """A molecule without atoms that have less than half as many others within 15 Å as the median: tails, arms."""
    tree = cKDTree(atoms.positions)
    near, near_ca = (
        tree.query_ball_point(places, _PACKING_ANGSTROM, return_length=True)
        for places in (atoms.positions, atoms.ca_positions)
    )
    fewest = _COMPACT_FRACTION * np.median(near)
    kept = near >= fewest
    return RigidMolecule(atoms.positions[kept], atoms.atomic_numbers[kept], atoms.ca_positions[near_ca >= fewest])


def search_candidates(
    atoms: RigidMolecule,
    targets: list[TargetMap],
    plan: SearchPlan,
    rotations: np.ndarray,
    corners: tuple[torch.Tensor, torch.Tensor],
    subtracted: RigidMolecule | None,
    progress: ProgressCallback,
) -> list[RigidPoses]:
    """Candidates of a search by rotations (n, 3, 3) and corners (Å) as in ``search_exhaustively``, for each target."""
    target, resolution = targets[0], plan.resolution_angstrom
    grid = target.grid(resolution, subtracted, _SEARCH_VOXELS_PER_RESOLUTION)
    low, high = target.dense_bounds(grid, atoms.volume_a3)
    grid = grid.cut(low - resolution / 2, high + resolution / 2)
    template = make_molecule_template(atoms, resolution, target.device)
    found = search_exhaustively(
        grid, template, rotations, corners, len(targets) == 2, lambda done: progress("searching", done / len(rotations))
    )
    # Without a second target there is no second hand.
    return [found[0], *(_mirrored_from_inverted(found[1], mirror) for mirror in targets[1:])]


def _mirrored_from_inverted(inverted: RigidPoses, mirror: TargetMap) -> RigidPoses:
    """Placements in a map inverted through position 0 as placements in its mirror image along z.

    Inverted through 0 and turned by 180° about z is mirrored along z at 0; the mirror lies at the box's centre.
    """
    half_turn = np.array([-1.0, -1.0, 1.0])
    beyond = np.array([0.0, 0.0, 2 * mirror.density.centre_angstrom[2]])
    return RigidPoses(half_turn[:, None] * inverted.rotations, half_turn * inverted.centres + beyond, inverted.scores)


# Voxels of all rotations of a batch, for memory and the cache alone.
_VOXELS_AT_ONCE = 300_000
# Of each block of voxels one peak is kept, of each rotation so many peaks, and of all rotations so many by each score.
# Neighbouring voxels lead to the same placement; more peaks only take longer to refine.
_PEAK_BLOCK_VOXELS = 4
_PEAKS_PER_ROTATION = 6
_PEAKS_KEPT = 2000
# Sample points of the template, which are spread over the grid for every rotation.
_POINTS = 3000
# Share of the map's variance that is added to the local one, so that flat solvent does not correlate by chance.
_VARIANCE_FLOOR = 0.1


def search_exhaustively(
    grid: MapGrid,
    template: Template,
    rotations: np.ndarray,
    corners: tuple[torch.Tensor, torch.Tensor],
    both_hands: bool,
    progress: Callable[[int], None] = lambda done: None,
) -> list[RigidPoses]:
    """Best placements of a template by correlation, local and whole.

    The local correlation (Roseman, Acta Cryst. D56, 1332, 2000) is Pearson's, over the template's points alone:
    ``sum T V / sqrt(<V^2> - <V>^2)``, each of the three sums for all translations at once by FFT. What lies beside the
    model does not count, so that partial models are found. For models of another conformation the product of the whole
    densities tells more; the best by either are returned.

    The transform of the map inverted through a point is the conjugate of the map's, so that the other hand costs three
    more transforms and shares the rotated model's.

    Parameters
    ----------
    grid : MapGrid
    template : Template
    rotations : (n, 3, 3) float
    corners : two of (3,) float
        Corners (x, y, z in Å) of the box for the model's centroid.
    both_hands : bool
    progress
        Called with the number of rotations that are done.

    Returns
    -------
    list of RigidPoses
        In the map, and with ``both_hands`` in the frame of the map inverted through position 0. The best by the one
        correlation and by the other alternate; as the two cannot be compared, scores are the ranks, negative: 0, 0, -1,
        -1, and so on.
    """
    template = template.thinned(_POINTS)
    voxel, device = grid.voxel_angstrom, grid.values.device
    reach = float(template.points.norm(dim=1).max())
    part = grid.cut(corners[0] - reach, corners[1] + reach)
    kept = _voxels_within(part, corners)
    counts = [even_fast_length(n + int(reach / float(side)) + 1) for n, side in zip(part.values.shape, voxel.flip(0))]
    scan = _CorrelationScan(part, template, counts)
    hands = [_BestPeaks(kept, len(rotations), device) for _ in range(2 if both_hands else 1)]
    turns = torch.as_tensor(rotations, dtype=torch.float32, device=device)
    at_once = max(1, _VOXELS_AT_ONCE // int(np.prod(counts)))
    for start in range(0, len(turns), at_once):
        drawn = scan.draw(turns[start : start + at_once])
        for inverted, peaks in enumerate(hands):
            local, whole = scan.scores(drawn, bool(inverted))
            peaks.add(local, whole, first_row=start)
        progress(min(start + at_once, len(turns)))
    found = []
    for peaks, sign in zip(hands, (1, -1)):
        row, place, score = peaks.best()
        centre = place * voxel.cpu().numpy().astype(float) + part.origin_angstrom.cpu().numpy()
        found.append(RigidPoses(rotations[row], sign * centre, score))
    return found


def _voxels_within(grid: MapGrid, corners: tuple[torch.Tensor, torch.Tensor]) -> tuple[slice, slice, slice]:
    """Voxels (z, y, x) between two corners, one at least along each axis."""
    first = ((corners[0] - grid.origin_angstrom) / grid.voxel_angstrom).round().long().clamp(min=0)
    first = torch.minimum(first, grid.voxel_counts - 1)
    last = ((corners[1] - grid.origin_angstrom) / grid.voxel_angstrom).round().long()
    last = torch.maximum(torch.minimum(last, grid.voxel_counts - 1), first)
    x, y, z = (slice(int(start), int(end) + 1) for start, end in zip(first, last))
    return z, y, x


# The two constants of super-Fibonacci spirals.
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


class _CorrelationScan:
    """The map's transforms, and the scores of rotated models at all translations."""

    def __init__(self, grid: MapGrid, template: Template, counts: list[int]) -> None:
        padded = grid.values.new_zeros(counts)
        nz, ny, nx = grid.values.shape
        padded[:nz, :ny, :nx] = grid.values
        self._plain, self._squared = torch.fft.rfftn(padded), torch.fft.rfftn(padded**2)
        self._floor = _VARIANCE_FLOOR * float(grid.values.square().mean())
        self._counts = counts
        self._voxel = grid.voxel_angstrom
        self._points = template.points
        self._masses = torch.stack([template.values, torch.ones_like(template.values)])[None] / len(template.values)
        self._mean_in_deviations = float(template.density.mean() / template.density.std())

    def draw(self, turns: torch.Tensor) -> torch.Tensor:
        """Transforms of the rotated template and of its points, (n, 2, ...)."""
        places = torch.matmul(self._points, turns.mT) / self._voxel
        return torch.fft.rfftn(spread_trilinear(places, self._masses, self._counts), dim=(-3, -2, -1))

    def scores(self, drawn: torch.Tensor, inverted: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Local and whole correlation, (n, nz, ny, nx); the whole one up to a factor.

        With ``inverted`` the score at s is that of the inverted map at -s: the transform of its correlation contains
        the conjugate of the map's, and replacing s by -s conjugates all of it.
        """
        model, weight = (drawn if inverted else drawn.conj()).unbind(1)
        products = torch.stack([model * self._plain, weight * self._plain, weight * self._squared])
        above, mean, square = torch.fft.irfftn(products, s=self._counts, dim=(-3, -2, -1))
        local = above / ((square - mean**2).clamp(min=0) + self._floor).sqrt()
        return local, above + self._mean_in_deviations * mean


class _BestPeaks:
    """The highest scores of each rotation in blocks of voxels, where the centroid may lie."""

    def __init__(self, kept: tuple[slice, slice, slice], n_rotations: int, device: torch.device) -> None:
        self._kept = kept
        self._shape = [part.stop - part.start for part in kept]
        self._block = [min(_PEAK_BLOCK_VOXELS, n) for n in self._shape]
        n_blocks = math.prod(math.ceil(n / block) for n, block in zip(self._shape, self._block))
        # Written in place: small tensors kept between large ones that come and go would hold the memory of these.
        size = (2, n_rotations, min(_PEAKS_PER_ROTATION, n_blocks))
        self._scores = torch.empty(size, device=device)
        self._voxels = torch.empty(size, dtype=torch.long, device=device)

    def add(self, local: torch.Tensor, whole: torch.Tensor, first_row: int) -> None:
        """Keep the best by each score of a batch of rotations."""
        for kind, score in enumerate((local, whole)):
            inside = score[(slice(None), *self._kept)]
            highest, where = torch.nn.functional.max_pool3d(
                inside[:, None], self._block, self._block, return_indices=True, ceil_mode=True
            )
            best = highest.flatten(1).topk(self._scores.shape[2], dim=1)
            rows = slice(first_row, first_row + len(score))
            self._scores[kind, rows] = best.values
            self._voxels[kind, rows] = where.flatten(1).gather(1, best.indices)

    def best(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of rotations, voxels (x, y, z), and scores that fall with the rank by either of the two."""
        parts = [self._best_by(kind) for kind in range(2)]
        rank = np.concatenate([np.arange(len(row)) for row, _ in parts])
        order = np.argsort(rank, kind="stable")
        row, voxel = (np.concatenate(columns)[order] for columns in zip(*parts))
        place = np.stack(np.unravel_index(voxel, self._shape)) + np.array([[part.start] for part in self._kept])
        return row, place[::-1].T, -rank[order].astype(float)

    def _best_by(self, kind: int) -> tuple[np.ndarray, np.ndarray]:
        scores, voxels = self._scores[kind].flatten(), self._voxels[kind].flatten()
        order = scores.topk(min(_PEAKS_KEPT, len(scores))).indices
        return (order // self._scores.shape[2]).cpu().numpy(), voxels[order].cpu().numpy()
