"""How far a map can be trusted: from half maps, or from the map itself."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from cocofold.placement.maps import DensityMap

_FSC_OF_HALF_MAPS = 0.143
# Where half maps correlate by 0.143 the signal's power in the whole map is a third of the noise's.
_SIGNAL_TO_NOISE = 1 / 3
_COARSE_ANGSTROM = 20.0
_DENSE = 0.2
_EDGE_PIXELS = 6.0
_FINEST_IN_PIXELS = 2.06
_COARSEST_ANGSTROM = 40.0
_NO_NOISE = 1e-6


def soft_region(density: DensityMap) -> np.ndarray:
    """Soft mask of the molecule: 1 where the map, smoothed to 20 Å, is above a fifth of its peak."""
    smoothed = ndimage.gaussian_filter(
        density.values, 0.225 * _COARSE_ANGSTROM / density.pixel_size_angstrom, mode="wrap"
    )
    smoothed -= np.median(smoothed)
    distance = ndimage.distance_transform_edt(smoothed < _DENSE * smoothed.max())
    return (0.5 + 0.5 * np.cos(np.pi * np.clip(distance / _EDGE_PIXELS, 0, 1))).astype(np.float32)


def resolution_of_halves(half1: DensityMap, half2: DensityMap, region: np.ndarray) -> float:
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
    shells = _Shells(half1)
    cross = shells.sum((one * other.conj()).real)
    correlation = cross / np.sqrt(shells.sum(np.abs(one) ** 2) * shells.sum(np.abs(other) ** 2) + 1e-30)
    return shells.resolution_where(correlation < _FSC_OF_HALF_MAPS)


def resolution_of_map(density: DensityMap) -> float | None:
    """Where the molecule's spectrum falls to 1/3 above that of the noise around it; None if there is no noise to see.

    Power per voxel and shell, inside the soft region of the molecule and outside, says what is signal and what is
    noise, if the noise is as strong in both.

    Returns
    -------
    float or None
        Å; at least 2.06 pixels.
    """
    region = soft_region(density)
    flat = density.values - np.median(density.values)
    shells = _Shells(density)
    inside, outside = (
        shells.sum(np.abs(np.fft.rfftn(flat * mask)) ** 2) / max(float((mask**2).sum()), 1.0)
        for mask in (region, 1 - region)
    )
    fine = shells.resolution < _COARSE_ANGSTROM
    if (outside[fine] < _NO_NOISE * inside[fine].max()).any():
        return None
    return shells.resolution_where(inside < (1 + _SIGNAL_TO_NOISE) * outside)


class _Shells:
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
