"""Gaussian atoms as images and as a map: projection at particle poses with its Fourier transform (paper eq. 1 and 2).

``project`` draws atoms on a grid of their own (``Splat``) and keeps the Fourier pixels of some rings;
``render_density`` draws the same Gaussians in three dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.fft import next_fast_len

from cocofold.imaging.fourier import RingPixels

# Gaussians are drawn up to this many standard deviations along x and y: at 5 they have fallen to exp(-12.5), 4e-6.
CUTOFF_IN_SIGMAS = 5.0
# The paper's sigma of an atom, 0.675 Å.
REFERENCE_WIDTH_ANGSTROM = 3 / (math.sqrt(2) * math.pi)
# These three decide how much aliases into the highest ring (``rendering_grid``, ``added_width_angstrom``): wider atoms
# and finer grids leave less of it and cost more pixels.
_LEAST_EXTRA_WIDTH_PIXELS = 0.6
_RENDERED_WIDTH_PIXELS = 0.8  # with the oversampling below, less than 5 % aliases into the highest ring
_OVERSAMPLING = 1.3
# Bytes of ``bytes_per_image``, fitted to measurements.
_BYTES_PER_ATOM_WINDOW_PIXEL, _BYTES_PER_GRID_PIXEL = 54, 34


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


def rendering_grid(n_rings: int) -> int:
    """Side of the grid on which atoms are rendered for rings up to ``n_rings``.

    It covers the image's extent, so its Fourier pixels are the image's own; oversampling by 1.3 keeps what
    aliases into the highest ring below 5 % at the rendered width of 0.8 pixel.
    """
    wanted = math.ceil(2 * _OVERSAMPLING * (n_rings + 1) / 2)
    return 2 * next_fast_len(wanted, real=True)


def added_width_angstrom(pixel_size_angstrom: float) -> float:
    """Width s (Å) common to all atoms that is added in quadrature when they are rendered.

    The ring correlation does not change with it, since it multiplies every ring by a constant. It is at least 0.6
    pixel, and brings an atom of the starting width to 0.8 pixel on coarse grids.
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
    grid = rendering_grid(rings.n_rings)
    spacing = rings.box * pixel_size_angstrom / grid
    reach = atom_window_pixels(math.hypot(widest_angstrom, added_width_angstrom(spacing)) / spacing) // 2
    return n_atoms * _BYTES_PER_ATOM_WINDOW_PIXEL * tile_window_side(reach) + _BYTES_PER_GRID_PIXEL * grid**2


def atom_window_pixels(width_in_pixels: float) -> int:
    """Least side of the square on which an atom of this rendered width is drawn: odd, its own pixel in the middle."""
    return 2 * math.ceil(CUTOFF_IN_SIGMAS * width_in_pixels - 0.5) + 1


class _RingTransforms(torch.autograd.Function):
    """Fourier transforms of real images at some pixels of their half plane, real and imaginary parts.

    The gradient is real too, and so is its transform; autograd would take it for complex, at three times the cost.
    """

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, rings: RingPixels) -> torch.Tensor:
        ctx.rings, ctx.grid = rings, images.shape[-1]
        transforms = torch.fft.rfft2(images).reshape(len(images), -1)
        return torch.view_as_real(transforms[:, rings.flat_indices_in(ctx.grid)])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        rings, grid = ctx.rings, ctx.grid
        # The inverse transform counts a pixel's Friedel mate too.
        parts = torch.view_as_complex((gradients[0] / rings.weight[:, None]).contiguous())
        planes = parts.new_zeros(len(parts), grid * (grid // 2 + 1))
        planes[:, rings.flat_indices_in(grid)] = parts
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
    (``added_width_angstrom``), on a grid just fine enough for the rings. Shifts are exact: they move the atoms'
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
    box, grid = rings.box, rendering_grid(rings.n_rings)
    spacing = box * pixel_size_angstrom / grid
    centre = (box // 2) * pixel_size_angstrom
    planar = torch.matmul(positions - centre, poses.rotations[:, :2].transpose(1, 2))
    planar = planar + (centre - poses.origins_angstrom)[:, None]
    # Atoms whose centres lie outside the image are not in it.
    inside = ((planar > -0.5 * pixel_size_angstrom) & (planar < (box - 0.5) * pixel_size_angstrom)).all(-1)
    planar = planar / spacing
    variance = widths_angstrom**2
    rendered = (variance + added_width_angstrom(spacing) ** 2) / spacing**2
    # The widest atom decides on everyone's window. Reading its width makes the program wait for the device.
    reach = atom_window_pixels(math.sqrt(float(rendered.detach().max()))) // 2
    peak = amplitudes * variance / (rendered * spacing**2)
    images = Splat.apply(planar[..., 0], planar[..., 1], peak * inside, 0.5 / rendered, grid, reach)
    transforms: torch.Tensor = _RingTransforms.apply(images, rings)
    return transforms


# Atoms of a tile are drawn in rows of this many, the last of which is filled up with atoms of height 0. Larger rows
# make larger matrix products and more filling.
_ATOMS_PER_ROW = 32
# Sides of windows are multiples of it, which processors multiply fastest.
_WINDOW_UNIT = 8
# Least side of a tile. Smaller tiles have smaller windows, but more rows that are not full.
_MIN_TILE_PIXELS = 4
# exp(-40) is 4e-18 of the peak and no more than rounding; smaller numbers would become subnormal, with which processors
# are slow.
_MIN_EXPONENT = -40.0


def tile_window_side(reach: int) -> int:
    """Pixels along the window on which a tile's atoms are drawn, which goes ``reach`` beyond the tile on each side."""
    return -(-(2 * reach + _MIN_TILE_PIXELS) // _WINDOW_UNIT) * _WINDOW_UNIT


@dataclass(frozen=True)
class _TiledAtoms:
    """Atoms of images, sorted into rows of one tile each.

    Attributes
    ----------
    slot : (n_images * n_atoms,) int
        Place of each atom in the rows, counted through all rows.
    x, y : (n_images * n_atoms,) float
        In pixels from the middle of the atom's window.
    pixels : (n_rows, side, side) int
        Of each row's window, in the images one after another.
    """

    slot: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    pixels: torch.Tensor

    @classmethod
    def of(cls, x: torch.Tensor, y: torch.Tensor, grid: int, reach: int) -> _TiledAtoms:
        """Sort atoms at x, y, (n_images, n_atoms) in pixels of the grid, into tiles and rows."""
        side = tile_window_side(reach)
        width = side - 2 * reach
        across = -(-grid // width)
        tiles: list[torch.Tensor] = []
        within: list[torch.Tensor] = []
        for place in (x, y):
            # Half a pixel goes before, as the pixel nearest to an atom decides on its tile.
            wrapped = (place + 0.5).remainder(grid)
            tile = (wrapped / width).long().clamp(0, across - 1)
            tiles.append(tile)
            within.append((wrapped - (tile * width + (width - 1) / 2 + 0.5)).flatten())
        image = torch.arange(len(x), device=x.device)[:, None]
        key = ((image * across + tiles[1]) * across + tiles[0]).flatten()
        order = _stable_argsort(key)
        used, counts = key[order].unique_consecutive(return_counts=True)
        rows = -(-counts // _ATOMS_PER_ROW)
        # A tile's atoms begin with a row of their own.
        skipped = (rows.cumsum(0) - rows) * _ATOMS_PER_ROW - (counts.cumsum(0) - counts)
        slot = torch.empty_like(order)
        slot[order] = torch.arange(len(order), device=x.device) + skipped.repeat_interleave(
            counts, output_size=len(order)
        )
        # Told the size, torch does not look at all numbers first.
        tile = used.repeat_interleave(rows, output_size=int(rows.sum()))
        steps = torch.arange(-reach, side - reach, device=x.device)
        down = ((tile // across % across * width)[:, None] + steps).remainder(grid)
        right = ((tile % across * width)[:, None] + steps).remainder(grid)
        down = down + (tile // across**2 * grid)[:, None]
        return cls(slot, within[0], within[1], (down * grid)[:, :, None] + right[:, None])


def _stable_argsort(key: torch.Tensor) -> torch.Tensor:
    """Rows sorted by a small number, (n,) int; equal ones stay in their order."""
    if key.device.type == "cpu" and int(key.max()) < 2**16:
        # numpy counts 16-bit numbers where torch compares: seven times as fast.
        return torch.from_numpy(np.argsort(key.numpy().astype(np.uint16), kind="stable"))
    return key.argsort(stable=True)


def _pixel_powers(side: int, like: torch.Tensor) -> torch.Tensor:
    """1, p and p^2 of pixels counted from the middle of a window, (3, side)."""
    pixels = torch.arange(side, dtype=like.dtype, device=like.device) - (side - 1) / 2
    return torch.stack([torch.ones_like(pixels), pixels, pixels**2])


class Splat(torch.autograd.Function):
    """Sum of cut Gaussians ``peak exp(-exponent d^2)`` on a periodic grid.

    What reaches over a border comes in at the other side, as it must: the transform of the grid is then exact, and
    the width that was added for rendering has no edge effect.

    Parameters
    ----------
    x, y, peak : (n_images, n_atoms) float
        Places in pixels of the grid.
    exponent : (n_atoms,) float
    grid : int
        Pixels along a side.
    reach : int
        An atom is drawn on all pixels within ``reach + 0.5`` of it along x and y, and on some beyond.

    Returns
    -------
    (n_images, grid, grid) float
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, y: torch.Tensor, peak: torch.Tensor, exponent: torch.Tensor, grid: int, reach: int
    ) -> torch.Tensor:
        rows = _TiledAtoms.of(x, y, grid, reach)
        side = rows.pixels.shape[1]
        atoms = torch.stack([rows.x, rows.y, peak.flatten(), exponent.expand_as(x).flatten()], dim=1)
        # What fills the rows up has no peak.
        filled = atoms.new_zeros(len(rows.pixels) * _ATOMS_PER_ROW, 4).index_copy_(0, rows.slot, atoms)
        filled = filled.t().contiguous().view(4, len(rows.pixels), _ATOMS_PER_ROW, 1)
        centres, peaks, exponents = filled[:2], filled[2], filled[3].expand_as(filled[:2])
        # -exponent (p - centre)^2 at the pixels p, as a product with their powers; they are counted from the middle.
        factors = torch.cat([-exponents * centres**2, 2 * exponents * centres, -exponents], dim=3)
        powers = _pixel_powers(side, x)
        profiles = torch.matmul(factors, powers).clamp_min_(_MIN_EXPONENT).exp_()
        windows = torch.bmm((profiles[1] * peaks).transpose(1, 2), profiles[0])
        image = x.new_zeros(len(x) * grid * grid).index_add_(0, rows.pixels.flatten(), windows.flatten())
        ctx.save_for_backward(rows.slot, rows.pixels, peak, exponent, centres, profiles)
        return image.view(-1, grid, grid)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        slot, pixels, peak, exponent, centres, profiles = ctx.saved_tensors
        windows = gradients[0].flatten().index_select(0, pixels.flatten()).view(pixels.shape)
        # With g = exp(-exponent d^2), G the gradient of the image and sums over the pixels p of an atom's window:
        # dL/dpeak = sum G g, dL/dx = 2 exponent peak sum G g (p_x - x), likewise y, and
        # dL/dexponent = -peak sum G g d^2. The sums are separable; first those along x over y, and along y over x.
        along = torch.empty_like(profiles)
        torch.bmm(profiles[1], windows, out=along[0])
        torch.bmm(profiles[0], windows.transpose(1, 2), out=along[1])
        along *= profiles
        side = pixels.shape[1]
        plain, first, second = torch.mm(_pixel_powers(side, along), along.view(-1, side).T).view(3, *along.shape[:3])
        centres = centres[..., 0]
        sloped = first - centres * plain
        squared = (second - centres * (first + sloped)).sum(0)
        moments = torch.stack([sloped[0], sloped[1], plain[0], squared], dim=2).view(-1, 4).index_select(0, slot)
        by_x, by_y, by_peak, radial = moments.view(*peak.shape, 4).unbind(2)
        slope = 2 * exponent * peak
        return slope * by_x, slope * by_y, by_peak, -(peak * radial).sum(0), None, None


# Voxels of all atoms that are drawn at a time: 16 MB in double precision.
_VOXELS_AT_ONCE = 2_000_000


def render_density(
    positions: np.ndarray,
    amplitudes: np.ndarray,
    widths_angstrom: np.ndarray,
    box: int,
    pixel_size_angstrom: float,
) -> np.ndarray:
    """Sum of the atoms' Gaussians, drawn with the same extra width as in projections.

    Parameters
    ----------
    positions : (n_atoms, 3) float
        Å; voxel (0, 0, 0) is at 0 Å.
    amplitudes, widths_angstrom : (n_atoms,) float
    box : int
    pixel_size_angstrom : float

    Returns
    -------
    (box, box, box) float32
        Indexed z, y, x. What lies outside is left out.
    """
    variance = widths_angstrom**2
    rendered = (variance + added_width_angstrom(pixel_size_angstrom) ** 2) / pixel_size_angstrom**2
    reach = math.ceil(CUTOFF_IN_SIGMAS * math.sqrt(rendered.max()) - 0.5)
    steps = np.arange(-reach, reach + 1)
    volume = np.zeros(box**3, dtype=np.float32)
    peak = amplitudes * (variance / (rendered * pixel_size_angstrom**2)) ** 1.5
    at_once = max(1, _VOXELS_AT_ONCE // len(steps) ** 3)
    for start in range(0, len(positions), at_once):
        some = slice(start, start + at_once)
        centre = positions[some] / pixel_size_angstrom
        voxel = np.round(centre)[:, :, None].astype(int) + steps
        value = np.exp(-0.5 * (voxel - centre[:, :, None]) ** 2 / rendered[some, None, None])
        value *= (voxel >= 0) & (voxel < box)
        x, y, z = np.clip(voxel, 0, box - 1).transpose(1, 0, 2)
        index = (z[:, :, None, None] * box + y[:, None, :, None]) * box + x[:, None, None, :]
        patch = np.einsum("a,az,ay,ax->azyx", peak[some], value[:, 2], value[:, 1], value[:, 0])
        np.add.at(volume, index.reshape(-1), patch.reshape(-1).astype(np.float32))
    return volume.reshape(box, box, box)
