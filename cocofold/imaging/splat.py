"""Draw Gaussians on a periodic grid, as products of small matrices.

A Gaussian is its profile along y times its profile along x, so atoms that lie near each other are drawn together: a
window's image is the product of their profiles, (pixels, atoms) times (atoms, pixels). Atoms are sorted into tiles of
the grid for that, and each tile's atoms into rows of equal length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# Atoms in a row: few rows are then filled up with much, and products are large enough.
_ATOMS_A_ROW = 32
# Windows are multiples of it, as processors like them.
_WINDOW_UNIT = 8
_LEAST_TILE = 4
# Far from an atom nothing is drawn, and processors are slow with numbers that are all but zero.
_LEAST_EXPONENT = -40.0


def window_side(reach: int) -> int:
    """Pixels along the window on which a tile's atoms are drawn, which goes ``reach`` beyond the tile on each side."""
    return -(-(2 * reach + _LEAST_TILE) // _WINDOW_UNIT) * _WINDOW_UNIT


@dataclass(frozen=True)
class _Rows:
    """Atoms of images, sorted into rows of one tile each.

    Attributes
    ----------
    slot : (n_images * n_atoms,) int
        Place of each atom in the rows, one row after another.
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
    def of(cls, x: torch.Tensor, y: torch.Tensor, grid: int, reach: int) -> _Rows:
        """Of atoms at x, y, (n_images, n_atoms) in pixels of the grid."""
        side = window_side(reach)
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
        order = _in_order(key)
        used, counts = key[order].unique_consecutive(return_counts=True)
        rows = -(-counts // _ATOMS_A_ROW)
        # A tile's atoms begin with a row of their own.
        skipped = (rows.cumsum(0) - rows) * _ATOMS_A_ROW - (counts.cumsum(0) - counts)
        slot = torch.empty_like(order)
        slot[order] = torch.arange(len(order), device=x.device) + skipped.repeat_interleave(counts)
        tile = used.repeat_interleave(rows)
        steps = torch.arange(-reach, side - reach, device=x.device)
        down = ((tile // across % across * width)[:, None] + steps).remainder(grid)
        right = ((tile % across * width)[:, None] + steps).remainder(grid)
        down = down + (tile // across**2 * grid)[:, None]
        return cls(slot, within[0], within[1], (down * grid)[:, :, None] + right[:, None])


def _in_order(key: torch.Tensor) -> torch.Tensor:
    """Rows sorted by a small number, (n,) int; equal ones stay in their order."""
    if key.device.type == "cpu" and int(key.max()) < 2**16:
        # numpy counts 16-bit numbers where torch compares: seven times as fast.
        return torch.from_numpy(np.argsort(key.numpy().astype(np.uint16), kind="stable"))
    return key.argsort(stable=True)


def _powers(side: int, like: torch.Tensor) -> torch.Tensor:
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
        An atom is drawn on the pixels within so many and a half of it at least, along x and y.

    Returns
    -------
    (n_images, grid, grid) float
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, y: torch.Tensor, peak: torch.Tensor, exponent: torch.Tensor, grid: int, reach: int
    ) -> torch.Tensor:
        rows = _Rows.of(x, y, grid, reach)
        side = rows.pixels.shape[1]
        atoms = torch.stack([rows.x, rows.y, peak.flatten(), exponent.expand_as(x).flatten()], dim=1)
        # What fills the rows up has no peak.
        filled = atoms.new_zeros(len(rows.pixels) * _ATOMS_A_ROW, 4).index_copy_(0, rows.slot, atoms)
        filled = filled.t().contiguous().view(4, len(rows.pixels), _ATOMS_A_ROW, 1)
        centres, peaks, exponents = filled[:2], filled[2], filled[3].expand_as(filled[:2])
        # -exponent (p - centre)^2 at the pixels p, as a product with their powers; they are counted from the middle.
        factors = torch.cat([-exponents * centres**2, 2 * exponents * centres, -exponents], dim=3)
        powers = _powers(side, x)
        profiles = torch.matmul(factors, powers).clamp_min_(_LEAST_EXPONENT).exp_()
        windows = torch.bmm((profiles[1] * peaks).transpose(1, 2), profiles[0])
        image = x.new_zeros(len(x) * grid * grid).index_add_(0, rows.pixels.flatten(), windows.flatten())
        ctx.save_for_backward(rows.slot, rows.pixels, peak, exponent, centres, profiles)
        return image.view(-1, grid, grid)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        slot, pixels, peak, exponent, centres, profiles = ctx.saved_tensors
        windows = gradients[0].flatten().index_select(0, pixels.flatten()).view(pixels.shape)
        # Along x summed over y, and along y summed over x.
        along = torch.empty_like(profiles)
        torch.bmm(profiles[1], windows, out=along[0])
        torch.bmm(profiles[0], windows.transpose(1, 2), out=along[1])
        along *= profiles
        plain, first, second = torch.matmul(along, _powers(pixels.shape[1], along).T).unbind(3)
        centres = centres[..., 0]
        sloped = first - centres * plain
        squared = (second - centres * (first + sloped)).sum(0)
        moments = torch.stack([sloped[0], sloped[1], plain[0], squared], dim=2).view(-1, 4).index_select(0, slot)
        by_x, by_y, by_peak, radial = moments.view(*peak.shape, 4).unbind(2)
        slope = 2 * exponent * peak
        return slope * by_x, slope * by_y, by_peak, -(peak * radial).sum(0), None, None
