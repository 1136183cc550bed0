"""The map that models are fitted to: its grids, where its density is, and what is left when some of it is explained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from cocofold.mapfit.density_map import (
    VOXELS_PER_RESOLUTION,
    DensityMap,
    MapGrid,
    MapTransform,
    even_fast_length,
    low_pass_filter,
)
from cocofold.structure.model import Model

_EXPLAINED_FRACTION = 0.02
_BOX_DENSITY_FRACTION = 0.25
# Of atoms other than hydrogen in a protein of 1.35 g/cm^3.
VOLUME_PER_ATOM_A3 = 16.9


@dataclass(frozen=True)
class RigidMolecule:
    """All that placement knows of a molecule: its atoms other than hydrogen.

    Attributes
    ----------
    positions : (n, 3) float64
        Å.
    atomic_numbers : (n,) int
    alphas : (m, 3) float64
        Positions of the CA atoms.
    """

    positions: np.ndarray
    atomic_numbers: np.ndarray
    alphas: np.ndarray

    @classmethod
    def of(cls, model: Model, residues: np.ndarray | None = None) -> RigidMolecule:
        """Of a model, or of some of its residues, (n_residues,) bool."""
        wanted = np.ones(len(model.residues), dtype=bool) if residues is None else residues
        heavy = wanted[model.residue_of_atom] & (model.atomic_numbers > 1)
        with_backbone, rows = model.backbone()
        alphas = model.positions[rows[wanted[with_backbone], 1]]
        return cls(model.positions[heavy], model.atomic_numbers[heavy], alphas)

    @classmethod
    def joined(cls, parts: list[RigidMolecule]) -> RigidMolecule | None:
        """All of them; None of none."""
        if not parts:
            return None
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__annotations__))

    def moved(self, rotation: np.ndarray, centre: np.ndarray) -> RigidMolecule:
        """Turned about the centroid, which goes to a position."""
        positions = (self.positions - self.centroid) @ rotation.T + centre
        return RigidMolecule(positions, self.atomic_numbers, (self.alphas - self.centroid) @ rotation.T + centre)

    @property
    def centroid(self) -> np.ndarray:
        """Mean position, (3,) Å."""
        return self.positions.mean(0)

    @property
    def radius_of_gyration(self) -> float:
        """Å."""
        return float(np.sqrt(((self.positions - self.centroid) ** 2).sum(1).mean()))

    @property
    def volume_a3(self) -> float:
        """Of the molecule, by the number of its atoms."""
        return VOLUME_PER_ATOM_A3 * len(self.positions)


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
        self, resolution_angstrom: float, explained: RigidMolecule | None = None, voxels: float = VOXELS_PER_RESOLUTION
    ) -> MapGrid:
        """The map at its own or a coarser resolution, less what placed atoms explain.

        Coarser than its own the map is blurred as templates are, so that no wave stands out at the edge.
        """
        coarser = resolution_angstrom > 1.001 * self.resolution_angstrom
        blur = BLUR_PER_RESOLUTION * resolution_angstrom
        grid = self._spectrum.grid(resolution_angstrom, blur if coarser else 0.0, voxels)
        if explained is None:
            return grid
        drawn = compute_model_density(explained, grid)
        inside = drawn > _EXPLAINED_FRACTION * drawn.max()
        model, seen = drawn[inside], grid.values[inside]
        centred = model - model.mean()
        scale = (centred * seen).sum() / centred.square().sum()
        return grid.less(scale.clamp(min=0) * drawn)

    def dense_bounds(self, grid: MapGrid, volume_a3: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Corners (x, y, z in Å) of the box around density of at least a quarter of the molecule's.

        The molecule's density is the mean over the densest voxels that make up half a volume.
        """
        n = max(1, int(0.5 * volume_a3 / float(grid.voxel_angstrom.prod())))
        level = grid.values.flatten().topk(min(n, grid.values.numel())).values.mean()
        dense = grid.values > _BOX_DENSITY_FRACTION * level
        corners = []
        for axes in ((0, 1), (0, 2), (1, 2)):  # leaves x, y, z
            rows = torch.nonzero(dense.any(axes[1]).any(axes[0])).flatten()
            corners.append((rows[0], rows[-1]))
        low, high = (torch.stack(side) * grid.voxel_angstrom for side in zip(*corners))
        return low, high


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


# Of a Gaussian whose transform has fallen to 1/e at the resolution: 1 / (sqrt(2) pi).
BLUR_PER_RESOLUTION = 0.225
_EXPLAINED_FRACTION = 0.02
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
    inside = torch.nonzero(volume > _EXPLAINED_FRACTION * volume.max())
    density = volume[inside.unbind(1)]
    points = inside.flip(1) * spacing + torch.as_tensor(low, dtype=torch.float32, device=device)
    radius = float((points**2).sum(1).mean().sqrt())
    return Template(points, _standardised(density), density, radius, resolution_angstrom)


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


_FSC_OF_HALF_MAPS = 0.143
# Where half maps correlate by 0.143 the signal's power in the whole map is a third of the noise's.
_SIGNAL_TO_NOISE = 1 / 3
_SMOOTHING_ANGSTROM = 20.0
_MOLECULE_FRACTION_OF_PEAK = 0.2
_EDGE_PIXELS = 6.0
_FINEST_IN_PIXELS = 2.06
_COARSEST_ANGSTROM = 40.0
_NO_NOISE_FRACTION = 1e-6


def soft_molecule_mask(density: DensityMap) -> np.ndarray:
    """Soft mask of the molecule: 1 where the map, smoothed to 20 Å, is above a fifth of its peak."""
    smoothed = ndimage.gaussian_filter(
        density.values, 0.225 * _SMOOTHING_ANGSTROM / density.pixel_size_angstrom, mode="wrap"
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
    one, other = (np.fft.rfftn((half.values - np.median(half.values)) * region) for half in (half1, half2))
    shells = _FourierShells(half1)
    cross = shells.sum((one * other.conj()).real)
    correlation = cross / np.sqrt(shells.sum(np.abs(one) ** 2) * shells.sum(np.abs(other) ** 2) + 1e-30)
    return shells.resolution_where(correlation < _FSC_OF_HALF_MAPS)


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
    shells = _FourierShells(density)
    inside, outside = (
        shells.sum(np.abs(np.fft.rfftn(flat * mask)) ** 2) / max(float((mask**2).sum()), 1.0)
        for mask in (region, 1 - region)
    )
    fine = shells.resolution < _SMOOTHING_ANGSTROM
    if (outside[fine] < _NO_NOISE_FRACTION * inside[fine].max()).any():
        return None
    return shells.resolution_where(inside < (1 + _SIGNAL_TO_NOISE) * outside)


class _FourierShells:
    """Shells of equal width in Fourier space, as many as half the shortest side has pixels."""

    def __init__(self, density: DensityMap) -> None:
        nz, ny, nx = density.values.shape
        self._pixel_size = density.pixel_size_angstrom
        step = 1 / (min(nz, ny, nx) * self._pixel_size)
        self._count = min(nz, ny, nx) // 2
        axes = [np.fft.fftfreq(nz), np.fft.fftfreq(ny), np.fft.rfftfreq(nx)]
        z, y, x = (axis / self._pixel_size / step for axis in axes)
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
        finest = _FINEST_IN_PIXELS * self._pixel_size
        return max(finest, float(self.resolution[both[0]])) if len(both) else finest
