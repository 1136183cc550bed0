"""The paper's equations, written as plainly as can be: the reference for values, gradients and speed.

Each atom is a Gaussian over every pixel of the image (eq. 1 and 2), the sum is transformed, multiplied by the CTF and
compared with the particle ring after ring (eq. 3). Atoms are taken in chunks so that the dense Gaussians fit into
memory; each chunk is drawn again for its gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

NEAREST, FLOOR = "nearest", "floor"


@dataclass(frozen=True)
class View:
    """One particle: rotation A (3, 3), origin (2,) Å, CTF on the full Fourier plane (box, box), image (box, box)."""

    rotation: torch.Tensor
    origin_angstrom: torch.Tensor
    ctf: torch.Tensor
    image: torch.Tensor


def draw(
    positions: torch.Tensor,
    amplitudes: torch.Tensor,
    widths_angstrom: torch.Tensor,
    view: View,
    pixel_size_angstrom: float,
    extra_width_angstrom: float = 0.0,
    grid: int | None = None,
    atoms_at_once: int = 500,
) -> torch.Tensor:
    """Dense sum of Gaussians, ``A exp(-d^2 / 2 sigma^2)``, as the particle's pose shows it.

    Parameters
    ----------
    positions : (n_atoms, 3) float
        Å; voxel (0, 0, 0) at 0 Å.
    amplitudes, widths_angstrom : (n_atoms,) float
    view : View
    pixel_size_angstrom : float
    extra_width_angstrom : float
        Added to all widths in quadrature, the integrals kept.
    grid : int, optional
        Pixels along the image's side on which it is drawn; by default the image's own.
    atoms_at_once : int

    Returns
    -------
    (grid, grid) float
    """
    box = len(view.image)
    grid = box if grid is None else grid
    centre = (box // 2) * pixel_size_angstrom
    planar = ((positions - centre) @ view.rotation.T)[:, :2] + centre - view.origin_angstrom
    pixels = torch.arange(grid, dtype=positions.dtype) * (box * pixel_size_angstrom / grid)
    variance = widths_angstrom**2 + extra_width_angstrom**2
    peaks = amplitudes * widths_angstrom**2 / variance

    def dense(planar: torch.Tensor, peaks: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
        squares = (pixels[None, :, None] - planar[:, None, None, 1]) ** 2
        squares = squares + (pixels[None, None, :] - planar[:, None, None, 0]) ** 2
        return (peaks[:, None, None] * torch.exp(-squares / (2 * variance[:, None, None]))).sum(0)

    image = positions.new_zeros(grid, grid)
    for start in range(0, len(positions), atoms_at_once):
        some = slice(start, start + atoms_at_once)
        image = image + checkpoint(dense, planar[some], peaks[some], variance[some], use_reentrant=False)
    return image


def ring_correlations(predicted: torch.Tensor, observed: torch.Tensor, rounding: str = NEAREST) -> torch.Tensor:
    """Correlation of two Fourier planes, (box, box) complex, on the rings 1 ... box / 2 - 1, one by one.

    A pixel belongs to the nearest ring; the paper's code takes the floor.
    """
    box = len(observed)
    frequency = torch.fft.fftfreq(box, 1 / box, dtype=torch.float64)
    radius = torch.sqrt(frequency[:, None] ** 2 + frequency[None, :] ** 2)
    rings = (torch.round(radius) if rounding == NEAREST else torch.floor(radius)).long()
    values = []
    for ring in range(1, box // 2):
        mask = (rings == ring).to(predicted.real.dtype)
        cross = ((predicted * observed.conj()).real * mask).sum()
        power = ((predicted.abs() ** 2 * mask).sum() * (observed.abs() ** 2 * mask).sum()).sqrt()
        values.append(cross / power)
    return torch.stack(values)


def correlate(
    positions: torch.Tensor,
    amplitudes: torch.Tensor,
    widths_angstrom: torch.Tensor,
    view: View,
    pixel_size_angstrom: float,
    extra_width_angstrom: float = 0.0,
    grid: int | None = None,
    atoms_at_once: int = 500,
) -> torch.Tensor:
    """Ring correlations of a particle with its prediction, (box / 2 - 1,); see ``draw``."""
    box = len(view.image)
    image = draw(
        positions, amplitudes, widths_angstrom, view, pixel_size_angstrom, extra_width_angstrom, grid, atoms_at_once
    )
    plane = torch.fft.fft2(image)
    if len(plane) != box:
        # Of a finer grid over the same extent the image's own frequencies.
        rows = torch.fft.fftfreq(box, 1 / box).long() % len(plane)
        plane = plane[rows][:, rows]
    return ring_correlations(plane * view.ctf, torch.fft.fft2(view.image))


def penalty(amplitudes: torch.Tensor, widths_angstrom: torch.Tensor) -> torch.Tensor:
    """Hinges of eq. 4: variances within 0.1 to 0.8 Å², amplitudes within 1 to 20."""
    variance = widths_angstrom**2
    total = torch.relu(0.1 - variance) + torch.relu(variance - 0.8)
    return (total + torch.relu(1 - amplitudes) + torch.relu(amplitudes - 20)).sum()


def starting_widths(n_atoms: int) -> torch.Tensor:
    """The paper's, ``3 / (sqrt(2) pi)`` Å each."""
    return torch.full((n_atoms,), 3 / (math.sqrt(2) * math.pi))
