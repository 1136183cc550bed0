"""Maps as placement uses them: read from MRC files, checked, mirrored, written, and low-passed on coarser grids."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import mrcfile
import numpy as np
import torch
from scipy.fft import next_fast_len

from cocofold.particles.mrc import open_map, write_map
from cocofold.system.errors import InputError, require_within

# Fewer voxels along an axis are no map but a stack or a slip.
_MIN_BOX = 8
# Relative difference of two voxel sizes that is rounding of the header's single precision cell.
_VOXEL_TOLERANCE = 1e-3
# An origin nearer to zero than this is zero.
_FRAME_TOLERANCE_ANGSTROM = 1e-3
# Modes of MRC2014 that hold real numbers: int8, int16, float32, uint16 and float16.
_LARGEST_DENSITY = 1e15  # products of two such, summed over all voxels, still are float32
_REAL_MODES = (0, 1, 2, 6, 12)


@dataclass(frozen=True)
class DensityMap:
    """A map in the frame of its box: voxel (0, 0, 0) at 0 Å.

    Attributes
    ----------
    values : (nz, ny, nx) float32
    pixel_size_angstrom : float
        The same along all axes.
    header_origin_angstrom : (x, y, z)
        Where the header puts voxel (0, 0, 0). As RELION does, nothing here uses it.
    """

    values: np.ndarray
    pixel_size_angstrom: float
    header_origin_angstrom: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def extent_angstrom(self) -> np.ndarray:
        """Lengths of the box along x, y, z, (3,) Å."""
        return np.array(self.values.shape[::-1]) * self.pixel_size_angstrom

    @property
    def centre_angstrom(self) -> np.ndarray:
        """Rotation centre, voxel ``N // 2``, along x, y, z, (3,) Å."""
        return np.array([n // 2 for n in self.values.shape[::-1]]) * self.pixel_size_angstrom

    @property
    def has_origin(self) -> bool:
        """Whether the header puts voxel (0, 0, 0) anywhere else."""
        return max(map(abs, self.header_origin_angstrom)) > _FRAME_TOLERANCE_ANGSTROM

    def mirrored(self) -> DensityMap:
        """The mirror image along z, which leaves the rotation centre where it is."""
        n = len(self.values)
        return replace(self, values=self.values[(2 * (n // 2) - np.arange(n)) % n])

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write as MRC, in its box's frame (no origin); the file appears whole or not at all."""
        write_map(path, self.values, self.pixel_size_angstrom)


def read_map(
    path: str | os.PathLike[str],
    pixel_size_angstrom: float | None = None,
    what: str = "map",
    pixel_size_option: str | None = None,
) -> DensityMap:
    """Read a map: MRC or CCP4, plain or packed by gzip or bzip2, any box and order of axes.

    Parameters
    ----------
    path
    pixel_size_angstrom : float, optional
        Used in place of the header's.
    what : str
        What the user calls it, for messages.
    pixel_size_option : str, optional
        What the user calls ``pixel_size_angstrom``, if it can be given, for messages.

    Raises
    ------
    InputError
        If the file is missing, is no map, has no pixel size, or holds nothing.
    """
    path = Path(path)
    name = f"{what} {path}"
    if pixel_size_angstrom is not None:
        require_within(pixel_size_option or "pixel_size_angstrom", pixel_size_angstrom, 0.1, 100)
    with open_map(path, name) as file:
        header = file.header
        if header.mode not in _REAL_MODES:
            raise InputError(f"{name}: mode {header.mode} holds no real numbers; give a map, not a transform")
        # A stack of one volume is a map.
        data = file.data[0] if file.data.ndim == 4 and len(file.data) == 1 else file.data
        if data.ndim != 3 or min(data.shape) < _MIN_BOX:
            shape = " x ".join(map(str, data.shape[::-1]))
            raise InputError(f"{name}: holds {shape} pixels, no volume; give one of {_MIN_BOX} or more along each axis")
        order = _order_of_axes(header, name)
        values = np.ascontiguousarray(data.transpose(order), dtype=np.float32)
        pixel_size = pixel_size_angstrom or _pixel_size(file, name, pixel_size_option)
        origin = _origin(header, pixel_size)
    _check_content(values, name)
    return DensityMap(values, pixel_size, origin)


def same_grid(one: DensityMap, other: DensityMap) -> bool:
    """Whether both have the same voxels."""
    same_size = abs(one.pixel_size_angstrom / other.pixel_size_angstrom - 1) < _VOXEL_TOLERANCE
    return one.values.shape == other.values.shape and same_size


def _order_of_axes(header: np.recarray, name: str) -> tuple[int, int, int]:
    """The file's axes (section, row, column) in the order z, y, x."""
    stored = [int(header.maps), int(header.mapr), int(header.mapc)]
    if stored == [0, 0, 0]:
        return (0, 1, 2)
    if sorted(stored) != [1, 2, 3]:
        raise InputError(f"{name}: its header's order of axes is {stored[::-1]}; it must be 1, 2, 3 in any order")
    return (stored.index(3), stored.index(2), stored.index(1))


def _pixel_size(file: mrcfile.mrcfile.MrcFile, name: str, option: str | None) -> float:
    header = file.header
    cell = [float(header.cella[axis]) for axis in "xyz"]
    counts = [int(header.mx), int(header.my), int(header.mz)]
    remedy = "write it into the header" if option is None else f"give it with {option}"
    sizes = [length / count if count > 0 else 0.0 for length, count in zip(cell, counts)]
    if not all(np.isfinite(size) and size > 0 for size in sizes):
        raise InputError(f"{name}: its header has no pixel size ({sizes[0]:g} Å); {remedy}")
    if max(sizes) / min(sizes) > 1 + _VOXEL_TOLERANCE:
        found = ", ".join(f"{size:.4g}" for size in sizes)
        raise InputError(
            f"{name}: voxels of {found} Å along x, y, z; they must be cubes: resample the map, or if the "
            f"header is wrong, {remedy}"
        )
    angles = [float(header.cellb[angle]) for angle in ("alpha", "beta", "gamma")]
    if any(angle not in (0.0, 90.0) for angle in angles):
        raise InputError(
            f"{name}: cell angles {angles}; they must be 90 degrees: resample the map on a right-angled grid"
        )
    return float(np.mean(sizes))


def _origin(header: np.recarray, pixel_size: float) -> tuple[float, float, float]:
    """The header's origin, or where that is zero its start of columns, rows and sections."""
    origin = tuple(float(header.origin[axis]) for axis in "xyz")
    if any(origin) and all(np.isfinite(origin)):
        return origin[0], origin[1], origin[2]
    start = {
        int(header.mapc) or 1: header.nxstart,
        int(header.mapr) or 2: header.nystart,
        int(header.maps) or 3: header.nzstart,
    }
    x, y, z = (float(start[axis]) * pixel_size for axis in (1, 2, 3))
    return x, y, z


def _check_content(values: np.ndarray, name: str) -> None:
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise InputError(
            f"{name}: {bad} of {values.size} voxels are not finite numbers; write the map anew without them"
        )
    largest = float(np.abs(values).max(initial=0.0))
    if largest > _LARGEST_DENSITY:
        raise InputError(f"{name}: a voxel is {largest:.3g}, and {_LARGEST_DENSITY:.0e} is allowed; scale the map down")
    if np.ptp(values) == 0:
        found = (
            "is empty: all voxels are 0" if values.flat[0] == 0 else f"is constant: all voxels are {values.flat[0]:g}"
        )
        raise InputError(f"{name}: {found}; give the map of the particle")


# Voxels along a resolution: two are the Nyquist limit, and with fewer than three linear interpolation blurs too much.
VOXELS_PER_RESOLUTION = 3.0
# Half width of the low-pass filter's soft edge, as a fraction of the cutoff; a sharper one rings.
_FILTER_EDGE_FRACTION = 0.1


@dataclass(frozen=True)
class MapGrid:
    """Values on a grid of voxels that need not be cubes.

    Attributes
    ----------
    values : (nz, ny, nx) float32
        Sharpened to undo the smoothing of linear interpolation: ``interpolate`` gives the map itself, on average.
    voxel_angstrom : (3,) float32
        Along x, y, z.
    origin_angstrom : (3,) float32
        Position x, y, z of the first voxel.
    resolution_angstrom : float
    """

    values: torch.Tensor
    voxel_angstrom: torch.Tensor
    origin_angstrom: torch.Tensor
    resolution_angstrom: float

    @property
    def voxel_counts(self) -> torch.Tensor:
        """Voxels along x, y, z."""
        return torch.tensor(self.values.shape[::-1], device=self.values.device)

    def interpolate(self, points: torch.Tensor) -> torch.Tensor:
        """Values at positions by linear interpolation, 0 outside; differentiable.

        Parameters
        ----------
        points : (..., 3) float32
            x, y, z in Å.
        """
        place = 2 * (points - self.origin_angstrom) / (self.voxel_angstrom * (self.voxel_counts - 1)) - 1
        sampled = torch.nn.functional.grid_sample(
            self.values[None, None], place.reshape(1, 1, 1, -1, 3), align_corners=True
        )
        return sampled.view(points.shape[:-1])

    def cut(self, low: torch.Tensor, high: torch.Tensor) -> MapGrid:
        """The whole voxels between two corners (x, y, z in Å)."""
        counts = self.voxel_counts
        first = ((low - self.origin_angstrom) / self.voxel_angstrom).floor().long().clamp(min=0)
        first = torch.minimum(first, counts - 2)
        last = ((high - self.origin_angstrom) / self.voxel_angstrom).ceil().long()
        last = torch.maximum(torch.minimum(last, counts - 1), first + 1)
        x, y, z = (slice(int(start), int(end) + 1) for start, end in zip(first, last))
        origin = self.origin_angstrom + first * self.voxel_angstrom
        return MapGrid(self.values[z, y, x].contiguous(), self.voxel_angstrom, origin, self.resolution_angstrom)

    def minus(self, other: torch.Tensor) -> MapGrid:
        """The grid with other values, (nz, ny, nx), subtracted."""
        return replace(self, values=self.values - other)


class MapTransform:
    """The transform of a map, from which grids are made at any resolution.

    Parameters
    ----------
    values : (nz, ny, nx) float32
    pixel_size_angstrom : float
    device
    """

    def __init__(self, values: np.ndarray, pixel_size_angstrom: float, device: torch.device) -> None:
        self._transform = torch.fft.rfftn(torch.tensor(values, device=device))
        self._shape = values.shape
        self._pixel_size = pixel_size_angstrom

    def grid(
        self, resolution_angstrom: float, blur_angstrom: float = 0.0, voxels: float = VOXELS_PER_RESOLUTION
    ) -> MapGrid:
        """The map low-passed, on a grid of about ``resolution / voxels``.

        Parameters
        ----------
        resolution_angstrom : float
        blur_angstrom : float
            Width of a Gaussian that smooths it besides.
        voxels : float
        """
        extent = [n * self._pixel_size for n in self._shape]
        counts = [even_fast_length(math.ceil(length * voxels / resolution_angstrom)) for length in extent]
        part = _resample_transform(self._transform, self._shape, counts)
        part = part * low_pass_filter(counts, extent, resolution_angstrom, blur_angstrom, part.device)
        values = torch.fft.irfftn(part, s=counts) * (math.prod(counts) / math.prod(self._shape))
        voxel = torch.tensor([length / n for length, n in zip(extent, counts)][::-1], device=part.device)
        return MapGrid(values, voxel, torch.zeros_like(voxel), resolution_angstrom)


def even_fast_length(least: int) -> int:
    """An even number from ``least`` on that suits the FFT."""
    return 2 * next_fast_len(max(1, math.ceil(least / 2)), real=True)


def low_pass_filter(
    counts: list[int],
    extent: list[float],
    resolution_angstrom: float,
    blur_angstrom: float,
    device: torch.device,
    sharpened: int = 1,
) -> torch.Tensor:
    """Low-pass with a soft edge, Gaussian blur, and the inverse of linear interpolation, for an rfftn grid.

    Parameters
    ----------
    counts, extent
        Voxels and length (Å) along z, y, x.
    resolution_angstrom, blur_angstrom : float
    device
    sharpened : int
        How many linear interpolations are undone: one for spreading points over voxels or for sampling, two for both.
    """
    frequencies = [torch.fft.fftfreq(n, device=device) for n in counts[:-1]]
    frequencies.append(torch.fft.rfftfreq(counts[-1], device=device))
    sharpen = torch.ones((), device=device)
    squared = torch.zeros((), device=device)
    for axis, (frequency, n, length) in enumerate(zip(frequencies, counts, extent)):
        shape = [1, 1, 1]
        shape[axis] = -1
        sharpen = sharpen / (torch.sinc(frequency) ** (2 * sharpened)).view(shape)
        squared = squared + ((frequency * n / length) ** 2).view(shape)
    passed = ((1 + _FILTER_EDGE_FRACTION - squared.sqrt() * resolution_angstrom) / (2 * _FILTER_EDGE_FRACTION)).clamp(
        0, 1
    )
    soft = 0.5 - 0.5 * torch.cos(math.pi * passed)
    return soft * torch.exp(-2 * (math.pi * blur_angstrom) ** 2 * squared) * sharpen


def _resample_transform(transform: torch.Tensor, shape: tuple[int, ...], counts: list[int]) -> torch.Tensor:
    """The same waves on a finer or coarser grid; the Nyquist planes of the smaller one are left out."""
    kept = [(min(n, m) - 1) // 2 for n, m in zip(shape, counts)]
    out = transform.new_zeros(counts[0], counts[1], counts[2] // 2 + 1)
    x = slice(0, kept[2] + 1)
    for z in (slice(0, kept[0] + 1), slice(-kept[0], None) if kept[0] else slice(0, 0)):
        for y in (slice(0, kept[1] + 1), slice(-kept[1], None) if kept[1] else slice(0, 0)):
            out[z, y, x] = transform[z, y, x]
    return out


def half_of_frequencies(side: int, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half of the frequencies within a radius: z, y, x, (3, n_k) int; their places in ``rfftn``; and their shells."""
    axis = np.rint(np.fft.fftfreq(side) * side).astype(int)
    z, y, x = np.meshgrid(axis, axis, np.arange(side // 2 + 1), indexing="ij")
    distance: np.ndarray = np.sqrt(z**2 + y**2 + x**2)
    stands_for_both = (x > 0) | (z > 0) | ((z == 0) & (y >= 0))
    chosen = (distance <= min(radius, side // 2 - 1)) & stands_for_both
    return np.stack([z, y, x])[:, chosen], np.flatnonzero(chosen), np.rint(distance[chosen]).astype(int)
