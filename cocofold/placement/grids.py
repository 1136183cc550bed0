"""A map as a function of position: low-passed, on a grid that suits the resolution, cut to where it is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.fft import next_fast_len

VOXELS_PER_RESOLUTION = 3.0
_EDGE = 0.1


@dataclass(frozen=True)
class Grid:
    """Values on a grid of voxels that need not be cubes.

    Attributes
    ----------
    values : (nz, ny, nx) float32
        Sharpened against the smoothing by linear interpolation, so that ``at`` gives the map itself, on average.
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
    def counts(self) -> torch.Tensor:
        """Voxels along x, y, z."""
        return torch.tensor(self.values.shape[::-1], device=self.values.device)

    def at(self, points: torch.Tensor) -> torch.Tensor:
        """Values at positions by linear interpolation, 0 outside; differentiable.

        Parameters
        ----------
        points : (..., 3) float32
            x, y, z in Å.
        """
        place = 2 * (points - self.origin_angstrom) / (self.voxel_angstrom * (self.counts - 1)) - 1
        sampled = torch.nn.functional.grid_sample(
            self.values[None, None], place.reshape(1, 1, 1, -1, 3), align_corners=True
        )
        return sampled.view(points.shape[:-1])

    def cut(self, low: torch.Tensor, high: torch.Tensor) -> Grid:
        """The part between two corners (x, y, z in Å), whole voxels."""
        counts = self.counts
        first = ((low - self.origin_angstrom) / self.voxel_angstrom).floor().long().clamp(min=0)
        first = torch.minimum(first, counts - 2)
        last = ((high - self.origin_angstrom) / self.voxel_angstrom).ceil().long()
        last = torch.maximum(torch.minimum(last, counts - 1), first + 1)
        x, y, z = (slice(int(start), int(end) + 1) for start, end in zip(first, last))
        origin = self.origin_angstrom + first * self.voxel_angstrom
        return Grid(self.values[z, y, x].contiguous(), self.voxel_angstrom, origin, self.resolution_angstrom)

    def less(self, other: torch.Tensor) -> Grid:
        """With other values on the same grid taken away."""
        return replace(self, values=self.values - other)


class Spectrum:
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
    ) -> Grid:
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
        part = _resized(self._transform, self._shape, counts)
        part = part * transfer(counts, extent, resolution_angstrom, blur_angstrom, part.device)
        values = torch.fft.irfftn(part, s=counts) * (math.prod(counts) / math.prod(self._shape))
        voxel = torch.tensor([length / n for length, n in zip(extent, counts)][::-1], device=part.device)
        return Grid(values, voxel, torch.zeros_like(voxel), resolution_angstrom)


def even_fast_length(least: int) -> int:
    """An even number from ``least`` on that suits the FFT."""
    return 2 * next_fast_len(max(1, math.ceil(least / 2)), real=True)


def transfer(
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
    passed = ((1 + _EDGE - squared.sqrt() * resolution_angstrom) / (2 * _EDGE)).clamp(0, 1)
    soft = 0.5 - 0.5 * torch.cos(math.pi * passed)
    return soft * torch.exp(-2 * (math.pi * blur_angstrom) ** 2 * squared) * sharpen


def _resized(transform: torch.Tensor, shape: tuple[int, ...], counts: list[int]) -> torch.Tensor:
    """The same waves on a finer or coarser grid; the Nyquist planes of the smaller one are left out."""
    kept = [(min(n, m) - 1) // 2 for n, m in zip(shape, counts)]
    out = transform.new_zeros(counts[0], counts[1], counts[2] // 2 + 1)
    x = slice(0, kept[2] + 1)
    for z in (slice(0, kept[0] + 1), slice(-kept[0], None) if kept[0] else slice(0, 0)):
        for y in (slice(0, kept[1] + 1), slice(-kept[1], None) if kept[1] else slice(0, 0)):
            out[z, y, x] = transform[z, y, x]
    return out
