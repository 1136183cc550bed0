"""Fourier ring correlation between predicted and observed images (paper eq. 3)."""

from __future__ import annotations

import torch

from cocofold.imaging.rings import RingPixels


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
