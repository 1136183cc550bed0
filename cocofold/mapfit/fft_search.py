"""Search for a model in a map: every rotation of an even set with every translation, by FFT, for both hands at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from cocofold.mapfit.density_map import MapGrid, even_fast_length
from cocofold.mapfit.rigid_refinement import RigidPoses
from cocofold.mapfit.target_map import Template, spread_trilinear

_VOXELS_AT_ONCE = 300_000
_PEAK_BLOCK_VOXELS = 4
_PEAKS_PER_ROTATION = 6
_PEAKS_KEPT = 2000
_POINTS = 3000
# Of the map's variance, so that flat solvent does not give large correlations by chance.
_VARIANCE_FLOOR = 0.1


def search_exhaustively(
    grid: MapGrid,
    template: Template,
    rotations: np.ndarray,
    within: tuple[torch.Tensor, torch.Tensor],
    both_hands: bool,
    tell: Callable[[int], None] = lambda done: None,
) -> list[RigidPoses]:
    """Best placements of a template by correlation, local and whole.

    The local correlation (Roseman, Acta Cryst. D56, 1332, 2000) is Pearson's, over the template's points alone:
    ``sum T V / sqrt(<V^2> - <V>^2)``, each of the three sums for all translations at once by FFT. What lies beside the
    model does not count, so that partial models are found. For models of another conformation the product of the whole
    densities tells more; the best by either are returned.

    The transform of the map inverted through a point is the conjugate of the map's, so that the other hand costs three
    transforms more and shares the rotated model's.

    Parameters
    ----------
    grid : MapGrid
    template : Template
    rotations : (n, 3, 3) float
    within : two of (3,) float
        Corners (x, y, z in Å) of the box for the model's centroid.
    both_hands : bool
    tell
        Told the number of rotations that are done.

    Returns
    -------
    list of Motions
        As the map is, and with ``both_hands`` in the frame of the map inverted through position 0. Best first by each
        of the two correlations, in turns.
    """
    template = template.thinned(_POINTS)
    voxel, device = grid.voxel_angstrom, grid.values.device
    reach = float(template.points.norm(dim=1).max())
    part = grid.cut(within[0] - reach, within[1] + reach)
    kept = _voxels_within(part, within)
    counts = [even_fast_length(n + int(reach / float(side)) + 1) for n, side in zip(part.values.shape, voxel.flip(0))]
    scan = _CorrelationScan(part, template, counts)
    hands = [_BestPeaks(kept, len(rotations), device) for _ in range(2 if both_hands else 1)]
    turns = torch.as_tensor(rotations, dtype=torch.float32, device=device)
    at_once = max(1, _VOXELS_AT_ONCE // int(np.prod(counts)))
    for start in range(0, len(turns), at_once):
        drawn = scan.draw(turns[start : start + at_once])
        for inverted, peaks in enumerate(hands):
            peaks.add(*scan.scores(drawn, bool(inverted)), start)
        tell(min(start + at_once, len(turns)))
    found = []
    for peaks, sign in zip(hands, (1, -1)):
        row, place, score = peaks.best()
        centre = place * voxel.cpu().numpy().astype(float) + part.origin_angstrom.cpu().numpy()
        found.append(RigidPoses(rotations[row], sign * centre, score))
    return found


def _voxels_within(grid: MapGrid, within: tuple[torch.Tensor, torch.Tensor]) -> tuple[slice, slice, slice]:
    """Voxels (z, y, x) between two corners, one at least along each axis."""
    first = ((within[0] - grid.origin_angstrom) / grid.voxel_angstrom).round().long().clamp(min=0)
    first = torch.minimum(first, grid.counts - 1)
    last = ((within[1] - grid.origin_angstrom) / grid.voxel_angstrom).round().long()
    last = torch.maximum(torch.minimum(last, grid.counts - 1), first)
    x, y, z = (slice(int(start), int(end) + 1) for start, end in zip(first, last))
    return z, y, x


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

        With ``inverted`` the score at s is that of the inverted map at -s: the transform of its correlation has the
        conjugate of the map's, and turning s round takes the conjugate of all.
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
