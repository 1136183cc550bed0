"""Fourier rings of an image: which pixels lie in which, sums over them, and the Fourier ring correlation (FRC)."""

from __future__ import annotations

from dataclasses import dataclass

import torch


def ring_count(box: int, pixel_size_angstrom: float, resolution_angstrom: float | None = None) -> int:
    """Number of rings up to a resolution: rings 1 ... box/2 - 1, ring k at k / (box * pixel size)."""
    highest = box // 2 - 1
    if resolution_angstrom is None:
        return highest
    return max(1, min(highest, int(box * pixel_size_angstrom / resolution_angstrom)))


@dataclass(frozen=True)
class RingPixels:
    """Pixels of a half-plane Fourier transform (``torch.fft.rfft2``) in the rings 1 ... ``n_rings``.

    Attributes
    ----------
    box : int
        Side of the image in pixels, even.
    n_rings : int
        Highest ring used.
    ky, kx : (n_pixels,) int64
        Signed row and non-negative column frequencies, in units of 1 / (box * pixel size), sorted by ring.
    ring : (n_pixels,) int64
        Index of each pixel's ring, from 0: the nearest integer to ``sqrt(kx**2 + ky**2)`` less 1.
    weight : (n_pixels,) float32
        2 for pixels that stand for their Friedel mate too, 1 on the column kx = 0.
    """

    box: int
    n_rings: int
    ky: torch.Tensor
    kx: torch.Tensor
    ring: torch.Tensor
    weight: torch.Tensor

    @classmethod
    def up_to(cls, box: int, n_rings: int, device: torch.device | str = "cpu") -> RingPixels:
        """Pixels of the rings 1 ... ``n_rings`` of a ``box``-sized image."""
        if not 1 <= n_rings <= box // 2 - 1:
            raise ValueError(f"rings must be from 1 to {box // 2 - 1} for a box of {box}, got {n_rings}")
        rows = torch.arange(-n_rings, n_rings + 1)
        columns = torch.arange(n_rings + 1)
        ky, kx = (grid.reshape(-1) for grid in torch.meshgrid(rows, columns, indexing="ij"))
        ring = torch.round(torch.sqrt((kx**2 + ky**2).double())).long()
        inside = (ring >= 1) & (ring <= n_rings)
        ky, kx, ring = ky[inside], kx[inside], ring[inside]
        order = torch.argsort(ring, stable=True)
        ky, kx, ring = ky[order], kx[order], ring[order]
        weight = torch.where(kx == 0, 1.0, 2.0).float()
        return cls(box, n_rings, ky.to(device), kx.to(device), (ring - 1).to(device), weight.to(device))

    def __len__(self) -> int:
        return len(self.ring)

    def flat_indices_in(self, grid: int) -> torch.Tensor:
        """Flat indices of these pixels in the ``rfft2`` of a ``grid``-sized image of the same extent, (n_pixels,)."""
        if grid // 2 <= self.n_rings:
            raise ValueError(f"a grid of {grid} holds rings up to {grid // 2 - 1}, {self.n_rings} are asked for")
        return (self.ky % grid) * (grid // 2 + 1) + self.kx


def ring_sums(values: torch.Tensor, rings: RingPixels) -> torch.Tensor:
    """Sum of pixel values over each ring.

    Parameters
    ----------
    values : (n, n_pixels) float
    rings : RingPixels

    Returns
    -------
    (n, n_rings) float
    """
    sums = values.new_zeros(rings.n_rings, len(values))
    return sums.index_add(0, rings.ring, values.transpose(0, 1)).transpose(0, 1)


def normalise_rings(transforms: torch.Tensor, rings: RingPixels) -> torch.Tensor:
    """Scale each ring of each transform to unit (weighted) power; an empty ring stays zero.

    Parameters
    ----------
    transforms : (n, n_pixels, 2) float
        Real and imaginary parts.

    Returns
    -------
    (n, n_pixels, 2) float
    """
    power = ring_sums((transforms**2).sum(-1) * rings.weight, rings)
    scale = torch.where(power > 0, power, torch.ones_like(power)).rsqrt() * (power > 0)
    return transforms * scale[:, rings.ring, None]


def ring_correlations(predicted: torch.Tensor, observed: torch.Tensor, rings: RingPixels) -> torch.Tensor:
    """Fourier ring correlation of each predicted image with its observed image.

    Parameters
    ----------
    predicted : (n, n_pixels, 2) float
        CTF times the transform of the projection: real and imaginary parts at the pixels of ``rings``.
    observed : (n, n_pixels, 2) float
        Transform of the particle image, each ring of unit power (``normalise_rings``).
    rings : RingPixels

    Returns
    -------
    (n, n_rings) float
        Zero for rings in which the prediction has no power.
    """
    cross = ring_sums((predicted * observed).sum(-1) * rings.weight, rings)
    power = ring_sums((predicted**2).sum(-1) * rings.weight, rings)
    tiny = torch.finfo(power.dtype).tiny
    return cross * power.clamp_min(tiny).rsqrt()
