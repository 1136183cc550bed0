"""The map that models are fitted to: its grids, what is left when placed atoms are subtracted, symmetry, resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from cocofold.mapfit.density_map import (
    VOXELS_PER_RESOLUTION,
    DensityMap,
    MapGrid,
    MapTransform,
    low_pass_filter,
)
from cocofold.mapfit.rigid_refinement import BLUR_PER_RESOLUTION, RigidMolecule, spread_trilinear
from cocofold.structure.geometry import point_group_rotations
from cocofold.system.errors import InputError

# The density of placed atoms is scaled to the map where it is above this share of its maximum.
_EXPLAINED_FRACTION = 0.02
# The box that is searched holds all density above this share of the molecule's; smaller values search more solvent.
_BOX_DENSITY_FRACTION = 0.25
# The molecule's density is the mean over the densest voxels that make up this share of its volume.
_DENSE_VOLUME_FRACTION = 0.5
# A resolution within this factor of the map's own is the map's own.
_SAME_RESOLUTION = 1.001


class TargetMap:
    """A map at a resolution.

    Parameters
    ----------
    density : DensityMap
    resolution_angstrom : float
    device
    """

    def __init__(self, density: DensityMap, resolution_angstrom: float, device: torch.device) -> None:
        self.density = density
        self.resolution_angstrom = resolution_angstrom
        self.device = device
        # The solvent, which is most of the box, is taken as zero.
        flat = density.values - np.median(density.values)
        self._spectrum = MapTransform(flat, density.pixel_size_angstrom, device)

    def grid(
        self, resolution_angstrom: float, subtracted: RigidMolecule | None = None, voxels: float = VOXELS_PER_RESOLUTION
    ) -> MapGrid:
        """The map at its own or a coarser resolution, less the density of placed atoms.

        Coarser than its own the map is blurred as templates are, so that no wave stands out at the edge.
        """
        coarser = resolution_angstrom > _SAME_RESOLUTION * self.resolution_angstrom
        blur = BLUR_PER_RESOLUTION * resolution_angstrom
        grid = self._spectrum.grid(resolution_angstrom, blur if coarser else 0.0, voxels)
        if subtracted is None:
            return grid
        drawn = compute_model_density(subtracted, grid)
        inside = drawn > _EXPLAINED_FRACTION * drawn.max()
        model, seen = drawn[inside], grid.values[inside]
        centred = model - model.mean()
        scale = (centred * seen).sum() / centred.square().sum()
        return grid.minus(scale.clamp(min=0) * drawn)

    def dense_bounds(self, grid: MapGrid, volume_a3: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Corners (x, y, z in Å) of the box around density of at least a quarter of the molecule's.

        The molecule's density is the mean over the densest voxels that make up half a volume.
        """
        n = max(1, int(_DENSE_VOLUME_FRACTION * volume_a3 / float(grid.voxel_angstrom.prod())))
        level = grid.values.flatten().topk(min(n, grid.values.numel())).values.mean()
        dense = grid.values > _BOX_DENSITY_FRACTION * level
        corners = []
        for axes in ((0, 1), (0, 2), (1, 2)):  # leaves x, y, z
            rows = torch.nonzero(dense.any(axes[1]).any(axes[0])).flatten()
            corners.append((rows[0], rows[-1]))
        low, high = (torch.stack(side) * grid.voxel_angstrom for side in zip(*corners))
        return low, high


def refuse_unsuitable_sizes(molecule: RigidMolecule, density: DensityMap, resolution: float) -> None:
    """Refuse a model without atoms or larger than the map, and a resolution (Å) that the voxels do not hold."""
    if len(molecule.positions) == 0:
        raise InputError("the model has no atoms other than hydrogen; give one with its atoms")
    # The longest extent in any direction, nearly: twice the largest distance from the centroid is at least as long.
    axes = np.linalg.svd(molecule.positions - molecule.centroid, full_matrices=False)[2]
    length = float(np.ptp((molecule.positions - molecule.centroid) @ axes[0]))
    extent = density.extent_angstrom
    diagonal = float(np.linalg.norm(extent))
    if length > diagonal or float(molecule.volume_a3) > float(np.prod(extent)):
        raise InputError(
            f"the model is larger than the map: {length:.0f} Å long, in a box of "
            f"{' x '.join(f'{side:.0f}' for side in extent)} Å; check the map's pixel size "
            f"({density.pixel_size_angstrom:g} Å), or give the part of the model that is in the map"
        )
    if resolution < 2 * density.pixel_size_angstrom:
        raise InputError(
            f"resolution {resolution:g} Å: voxels of {density.pixel_size_angstrom:g} Å hold nothing finer than "
            f"{2 * density.pixel_size_angstrom:g} Å; give a coarser resolution"
        )


def compute_model_density(atoms: RigidMolecule, grid: MapGrid) -> torch.Tensor:
    """Density of atoms as a template has it, on a whole grid; (nz, ny, nx)."""
    counts = list(grid.values.shape)
    places = torch.as_tensor(atoms.positions, dtype=torch.float32, device=grid.values.device) / grid.voxel_angstrom
    mass = torch.as_tensor(atoms.atomic_numbers, dtype=torch.float32, device=grid.values.device)
    extent = [n * float(side) for n, side in zip(counts, grid.voxel_angstrom.flip(0))]
    resolution = grid.resolution_angstrom
    passed = low_pass_filter(
        counts, extent, resolution, BLUR_PER_RESOLUTION * resolution, grid.values.device, sharpened=2
    )
    spread = spread_trilinear(places[None], mass[None, None], counts)[0, 0]
    return torch.fft.irfftn(torch.fft.rfftn(spread) * passed, s=counts) / grid.voxel_angstrom.prod()


# Least correlation of a map with its rotated self at which it has the symmetry: near 1 for a true one, less by noise
# and interpolation; larger values lose the symmetry of noisy maps, smaller ones take a pseudo-symmetry for one.
MIN_SELF_CORRELATION = 0.8
# Points within the molecule's sphere at which the map is compared with itself: as many as a few seconds allow for all
# candidate groups.
_SYMMETRY_POINTS = 15_000
# Detail finer than this is not compared, as it carries noise and slight differences of the subunits.
_SYMMETRY_RESOLUTION_ANGSTROM = 12.0
# The sphere reaches to the farthest voxel above this share of the mean over the densest five-hundredth of the box.
_SPHERE_LEVEL_FRACTION = 0.4
_DENSEST_VOXELS = 500
_MIN_DENSEST_VOXELS = 8  # for boxes of fewer than 4,000 voxels
# In the order in which of two groups of the same order the first is chosen; C1 is the answer if none holds.
_CANDIDATE_GROUPS = (
    *(f"{kind}{fold}" for fold in range(12, 1, -1) for kind in "DC"), "O", "T", "I1", "I2", "I3", "I4"
)  # fmt: skip


def detect_symmetry(target: TargetMap) -> tuple[str, dict[str, float]]:
    """The point group of highest order under which a map looks the same, and what speaks for each that was tried.

    A map is turned by the group's rotations about its box's centre; the least correlation with itself, at 12 Å or
    coarser, within the sphere that holds the molecule, must be 0.8.

    Returns
    -------
    group : str
        C1 if there is no other.
    scores : dict
        Least correlation by group.
    """
    grid = target.grid(max(_SYMMETRY_RESOLUTION_ANGSTROM, target.resolution_angstrom))
    centre = torch.as_tensor(target.density.centre_angstrom, dtype=torch.float32, device=grid.values.device)
    n_densest = max(_MIN_DENSEST_VOXELS, grid.values.numel() // _DENSEST_VOXELS)
    peak = grid.values.flatten().topk(n_densest).values.mean()
    dense = torch.nonzero(grid.values > _SPHERE_LEVEL_FRACTION * peak)
    radius = float((dense.flip(1) * grid.voxel_angstrom - centre).norm(dim=1).max())
    every = torch.nonzero(torch.ones_like(grid.values)).flip(1) * grid.voxel_angstrom - centre
    points = every[every.norm(dim=1) <= radius]
    points = points[:: max(1, len(points) // _SYMMETRY_POINTS)]
    seen = grid.interpolate((points + centre)[None])[0]
    scores = {}
    for group in _CANDIDATE_GROUPS:
        turns = torch.as_tensor(point_group_rotations(group)[1:], dtype=torch.float32, device=points.device)
        scores[group] = min(
            correlation_of(seen, grid.interpolate((points @ turn.T + centre)[None])[0]) for turn in turns
        )
    same = [group for group in _CANDIDATE_GROUPS if scores[group] >= MIN_SELF_CORRELATION]
    return max(same, key=lambda group: len(point_group_rotations(group)), default="C1"), scores


def correlation_of(one: torch.Tensor, other: torch.Tensor) -> float:
    """Pearson's correlation of all values of two tensors of the same shape."""
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


# Coarser shells hold a molecule's outline, which fits in many places; they are not compared.
_COARSEST_COMPARED_ANGSTROM = 20.0


@dataclass(frozen=True)
class ShellCorrelation:
    """How placed atoms agree with a map, shell by shell.

    Attributes
    ----------
    mean : float
        Mean Fourier shell correlation from 20 Å to the map's resolution.
    standard_error : float
        With as many independent samples in a shell as the molecule's share of the box has Fourier pixels.
    """

    mean: float
    standard_error: float

    def excess_over(self, other: ShellCorrelation) -> float:
        """Difference from another's mean in standard errors."""
        return (self.mean - other.mean) / math.hypot(self.standard_error, other.standard_error)


def correlate_shells(atoms: RigidMolecule, target: TargetMap) -> ShellCorrelation | None:
    """Fourier shell correlation of placed atoms with a map; None where the map has no shells finer than 20 Å."""
    grid = target.grid(target.resolution_angstrom)
    sides = tuple(float(side) for side in grid.voxel_angstrom.flip(0))
    shells = _FourierShells(tuple(grid.values.shape), sides)
    compared = (shells.resolution <= _COARSEST_COMPARED_ANGSTROM) & (shells.resolution >= target.resolution_angstrom)
    if not compared.any():
        return None
    one, other = (torch.fft.rfftn(part).cpu().numpy() for part in (compute_model_density(atoms, grid), grid.values))
    cross, power = shells.sum((one * other.conj()).real), shells.sum(np.abs(one) ** 2) * shells.sum(np.abs(other) ** 2)
    share = atoms.volume_a3 / (grid.values.numel() * math.prod(sides))
    samples = np.maximum(shells.sum(np.ones(one.shape)) / 2 * share, 1.0)[compared]
    correlation = (cross / np.sqrt(power + 1e-30))[compared]
    return ShellCorrelation(float(correlation.mean()), math.sqrt(float((1 / samples).sum())) / len(samples))


# Usual threshold for the resolution of two half maps (Rosenthal & Henderson 2003); a larger value tells a coarser one.
_FSC_OF_HALF_MAPS = 0.143
# Where half maps correlate by 0.143 the signal's power in the whole map is a third of the noise's.
_SIGNAL_TO_NOISE = 1 / 3
# The molecule is where the map, smoothed to this resolution, is above this share of its peak; the mask falls to 0
# within these pixels, as a sharp edge would correlate between half maps.
_SMOOTHING_ANGSTROM = 20.0
_MOLECULE_FRACTION_OF_PEAK = 0.2
_EDGE_PIXELS = 6.0
# Finest resolution that is told: two pixels and the 3 % that the shells next to Nyquist may be off.
_FINEST_IN_PIXELS = 2.06
# Shells coarser than this hold the molecule's outline, and are not asked where the resolution ends.
_COARSEST_ANGSTROM = 40.0
# Power outside the molecule below this share of that inside is no noise: the map was masked or filtered.
_NO_NOISE_FRACTION = 1e-6


def soft_molecule_mask(density: DensityMap) -> np.ndarray:
    """Soft mask of the molecule: 1 where the map, smoothed to 20 Å, is above a fifth of its peak."""
    smoothed = ndimage.gaussian_filter(
        density.values, BLUR_PER_RESOLUTION * _SMOOTHING_ANGSTROM / density.pixel_size_angstrom, mode="wrap"
    )
    smoothed -= np.median(smoothed)
    distance = ndimage.distance_transform_edt(smoothed < _MOLECULE_FRACTION_OF_PEAK * smoothed.max())
    return (0.5 + 0.5 * np.cos(np.pi * np.clip(distance / _EDGE_PIXELS, 0, 1))).astype(np.float32)


def resolution_from_half_maps(half1: DensityMap, half2: DensityMap, region: np.ndarray) -> float:
    """Where the Fourier shell correlation of half maps falls below 0.143 (Rosenthal & Henderson, 2003).

    Parameters
    ----------
    half1, half2 : DensityMap
    region : (nz, ny, nx) float
        Soft mask.

    Returns
    -------
    float
        Å; at least 2.06 pixels, the finest that the grid holds.
    """
    _, correlation = fourier_shell_correlation(half1, half2, region)
    shells = _FourierShells(half1.values.shape, (half1.pixel_size_angstrom,) * 3)
    return shells.resolution_where(correlation < _FSC_OF_HALF_MAPS)


def fourier_shell_correlation(
    half1: DensityMap, half2: DensityMap, region: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Resolutions (Å) of shells 1 ... N/2 - 1, and the correlation of two maps in each, within a soft mask."""
    one, other = (np.fft.rfftn((half.values - np.median(half.values)) * region) for half in (half1, half2))
    shells = _FourierShells(half1.values.shape, (half1.pixel_size_angstrom,) * 3)
    cross = shells.sum((one * other.conj()).real)
    correlation = cross / np.sqrt(shells.sum(np.abs(one) ** 2) * shells.sum(np.abs(other) ** 2) + 1e-30)
    return shells.resolution, correlation


def resolution_from_noise(density: DensityMap) -> float | None:
    """Where the molecule's spectrum falls to 1/3 above that of the noise around it; None if there is no noise to see.

    Power per voxel and shell, inside the soft region of the molecule and outside, says what is signal and what is
    noise, if the noise is as strong in both.

    Returns
    -------
    float or None
        Å; at least 2.06 pixels.
    """
    region = soft_molecule_mask(density)
    flat = density.values - np.median(density.values)
    shells = _FourierShells(density.values.shape, (density.pixel_size_angstrom,) * 3)
    inside, outside = (
        shells.sum(np.abs(np.fft.rfftn(flat * mask)) ** 2) / max(float((mask**2).sum()), 1.0)
        for mask in (region, 1 - region)
    )
    fine = shells.resolution < _SMOOTHING_ANGSTROM
    if not fine.any():  # voxels so coarse that the map holds nothing but the molecule's shape
        return None
    if (outside[fine] < _NO_NOISE_FRACTION * inside[fine].max()).any():
        return None
    return shells.resolution_where(inside < (1 + _SIGNAL_TO_NOISE) * outside)


class _FourierShells:
    """Shells of equal width in Fourier space, as many as half the shortest side has pixels."""

    def __init__(self, counts: tuple[int, ...], sides_angstrom: tuple[float, ...]) -> None:
        """Of a grid of so many voxels of these sides along z, y and x."""
        nz, ny, nx = counts
        step = 1 / min(n * side for n, side in zip(counts, sides_angstrom))
        self._voxel = max(sides_angstrom)
        self._count = min(nz, ny, nx) // 2
        axes = [np.fft.fftfreq(nz), np.fft.fftfreq(ny), np.fft.rfftfreq(nx)]
        z, y, x = (axis / side / step for axis, side in zip(axes, sides_angstrom))
        radius = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
        self._shell = np.minimum(np.rint(radius), self._count).astype(int).ravel()
        self._weight = np.broadcast_to(np.where(x > 0, 2.0, 1.0), radius.shape).ravel()
        self.resolution = 1 / (np.arange(1, self._count) * step)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sums over shells 1 ... N/2 - 1."""
        return np.bincount(self._shell, self._weight * values.ravel(), self._count + 1)[1 : self._count]

    def resolution_where(self, lost: np.ndarray) -> float:
        """Resolution of the first shell of two neighbours that are both lost."""
        lost = lost & (self.resolution < _COARSEST_ANGSTROM)
        both = np.flatnonzero(lost[:-1] & lost[1:])
        finest = _FINEST_IN_PIXELS * self._voxel
        return max(finest, float(self.resolution[both[0]])) if len(both) else finest
