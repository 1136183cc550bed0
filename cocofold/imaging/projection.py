"""Project Gaussian atoms at particle poses and take the Fourier transform (paper eq. 1 and 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from scipy.fft import next_fast_len

from cocofold.imaging.rings import RingPixels
from cocofold.imaging.splat import Splat, window_side

CUT_IN_WIDTHS = 5.0
REFERENCE_WIDTH_ANGSTROM = 3 / (math.sqrt(2) * math.pi)
_LEAST_EXTRA_WIDTH_PIXELS = 0.6
_RENDERED_WIDTH_PIXELS = 0.8
_OVERSAMPLING = 1.3
_BYTES_PER_PIXEL_OF_ATOM, _BYTES_PER_PIXEL = 54, 34


@dataclass(frozen=True)
class Poses:
    """Orientation and position of ``n`` images.

    Attributes
    ----------
    rotations : (n, 3, 3) float
        A: ``u = A @ (x - centre)``, from the map's frame to the image's.
    origins_angstrom : (n, 2) float
        The particle's content sits at the image's centre minus this.
    """

    rotations: torch.Tensor
    origins_angstrom: torch.Tensor

    def __getitem__(self, index: torch.Tensor | slice) -> Poses:
        return Poses(self.rotations[index], self.origins_angstrom[index])

    def to(self, device: torch.device | str) -> Poses:
        """The same poses on another device."""
        return Poses(self.rotations.to(device), self.origins_angstrom.to(device))


def rendering_grid(box: int, n_rings: int) -> int:
    """Side of the grid on which atoms are rendered for rings up to ``n_rings``.

    It covers the image's extent, so its Fourier pixels are the image's own; oversampling by 1.3 keeps what
    aliases into the highest ring below 5 % at the rendered width of 0.8 pixel.
    """
    wanted = math.ceil(2 * _OVERSAMPLING * (n_rings + 1) / 2)
    return 2 * next_fast_len(wanted, real=True)


def rendered_extra_width(pixel_size_angstrom: float) -> float:
    """Width s (Å) common to all atoms that is added in quadrature when they are rendered.

    The ring correlation is blind to it, since it multiplies every ring by a constant. It is at least 0.6 pixel,
    and brings an atom of the starting width to 0.8 pixel on coarse grids.
    """
    in_pixels = max(
        _LEAST_EXTRA_WIDTH_PIXELS**2, _RENDERED_WIDTH_PIXELS**2 - (REFERENCE_WIDTH_ANGSTROM / pixel_size_angstrom) ** 2
    )
    return math.sqrt(in_pixels) * pixel_size_angstrom


def bytes_per_image(n_atoms: int, rings: RingPixels, pixel_size_angstrom: float, widest_angstrom: float) -> int:
    """Memory that an image takes while it is projected, compared and its gradient taken.

    Measured for 500 to 40,000 atoms and boxes of 64 to 400: within a third.

    Parameters
    ----------
    n_atoms : int
    rings : RingPixels
    pixel_size_angstrom : float
        Of the images.
    widest_angstrom : float
        Width of the widest atom.
    """
    grid = rendering_grid(rings.box, rings.n_rings)
    spacing = rings.box * pixel_size_angstrom / grid
    reach = drawn_pixels(math.hypot(widest_angstrom, rendered_extra_width(spacing)) / spacing) // 2
    return n_atoms * _BYTES_PER_PIXEL_OF_ATOM * window_side(reach) + _BYTES_PER_PIXEL * grid**2


def drawn_pixels(width_in_pixels: float) -> int:
    """Least side of the square on which an atom of this rendered width is drawn: odd, its own pixel in the middle."""
    return 2 * math.ceil(CUT_IN_WIDTHS * width_in_pixels - 0.5) + 1


class _RingTransforms(torch.autograd.Function):
    """Fourier transforms of real images at some pixels of their half plane, real and imaginary parts.

    Of the gradient, too, the transform is a real one; autograd would take it for complex, at three times the cost.
    """

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, rings: RingPixels) -> torch.Tensor:
        ctx.rings, ctx.grid = rings, images.shape[-1]
        transforms = torch.fft.rfft2(images).reshape(len(images), -1)
        return torch.view_as_real(transforms[:, rings.positions_in(ctx.grid)])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        rings, grid = ctx.rings, ctx.grid
        # The inverse transform counts a pixel's Friedel mate too.
        parts = torch.view_as_complex((gradients[0] / rings.weight[:, None]).contiguous())
        planes = parts.new_zeros(len(parts), grid * (grid // 2 + 1))
        planes[:, rings.positions_in(grid)] = parts
        planes = planes.view(-1, grid, grid // 2 + 1)
        return torch.fft.irfft2(planes, s=(grid, grid), norm="forward"), None


def project(
    positions: torch.Tensor,
    amplitudes: torch.Tensor,
    widths_angstrom: torch.Tensor,
    poses: Poses,
    rings: RingPixels,
    pixel_size_angstrom: float,
) -> torch.Tensor:
    """Fourier transforms of projections of Gaussian atoms, at the pixels of ``rings``.

    An atom is ``A exp(-d^2 / 2 sigma^2)`` (paper eq. 1 and 2), drawn with ``sigma^2 + s^2`` at the same integral
    (``rendered_extra_width``), on a grid just fine enough for the rings. Shifts are exact: they move the atoms'
    centres. Atoms outside the image are left out.

    Parameters
    ----------
    positions : (n_atoms, 3) float
        Å, in the map's frame: voxel (0, 0, 0) at 0 Å.
    amplitudes, widths_angstrom : (n_atoms,) float
    poses : Poses
        Of n images.
    rings : RingPixels
    pixel_size_angstrom : float
        Of the images.

    Returns
    -------
    (n, n_pixels, 2) float
        Real and imaginary parts, up to a factor common to each ring.
    """
    box, grid = rings.box, rendering_grid(rings.box, rings.n_rings)
    spacing = box * pixel_size_angstrom / grid
    centre = (box // 2) * pixel_size_angstrom
    planar = torch.matmul(positions - centre, poses.rotations[:, :2].transpose(1, 2))
    planar = planar + (centre - poses.origins_angstrom)[:, None]
    # Atoms whose centres lie outside the image are not in it.
    inside = ((planar > -0.5 * pixel_size_angstrom) & (planar < (box - 0.5) * pixel_size_angstrom)).all(-1)
    planar = planar / spacing
    variance = widths_angstrom**2
    rendered = (variance + rendered_extra_width(spacing) ** 2) / spacing**2
    reach = drawn_pixels(math.sqrt(float(rendered.detach().max()))) // 2
    peak = amplitudes * variance / (rendered * spacing**2)
    images = Splat.apply(planar[..., 0], planar[..., 1], peak * inside, 0.5 / rendered, grid, reach)
    transforms: torch.Tensor = _RingTransforms.apply(images, rings)
    return transforms
