"""Aberrations beyond defocus, astigmatism and Cs, as RELION 3.1 and later define them.

A frequency k of an image of a stretched magnification is the frequency ``M k`` of the specimen: the projection, the CTF
and both kinds of aberrations are those at ``M k``. Zernike polynomials are functions of frequencies in 1/Å, not of
fractions of a largest frequency. Signs and orders were checked against RELION: images made by these formulas, whose
aberrations RELION's own reconstruction takes out again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def magnified(
    kx: torch.Tensor, ky: torch.Tensor, matrix: Sequence[Sequence[float]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Frequencies of the specimen, ``M k``, that appear at frequencies k of the image.

    Parameters
    ----------
    kx, ky : (n_pixels,) float
        1/Å.
    matrix : 2 x 2
        RELION's anisotropic magnification M.
    """
    (xx, xy), (yx, yy) = matrix
    return xx * kx + xy * ky, yx * kx + yy * ky


def antisymmetric_phase(
    kx: torch.Tensor,
    ky: torch.Tensor,
    beam_tilt_mrad: Sequence[float],
    odd_zernike: Sequence[float],
    cs_angstrom: float,
    wavelength_angstrom: float,
) -> torch.Tensor:
    """Phase (rad) that beam tilt and odd aberrations add to the transform of an image.

    ``-2 pi Cs lam^2 k^2 (tilt . k)`` for a tilt in rad, plus the sum of odd Zernike polynomials (1, -1), (1, 1),
    (3, -3), (3, -1), (3, 1), (3, 3), (5, -5) and so on, as (order, frequency in angle).

    Parameters
    ----------
    kx, ky : (n_pixels,) float
        1/Å, of the specimen (``magnified``).
    beam_tilt_mrad : (x, y)
    odd_zernike : sequence of float
    cs_angstrom, wavelength_angstrom : float

    Returns
    -------
    (n_pixels,) float
    """
    tilt_x, tilt_y = (1e-3 * tilt for tilt in beam_tilt_mrad)
    factor = -2 * math.pi * cs_angstrom * wavelength_angstrom**2
    phase = factor * (kx**2 + ky**2) * (kx * tilt_x + ky * tilt_y)
    for index, coefficient in enumerate(odd_zernike):
        if coefficient:
            block = (math.isqrt(1 + 4 * index) - 1) // 2
            order = 2 * block + 1
            phase = phase + coefficient * _zernike(order, 2 * (index - block * (block + 1)) - order, kx, ky)
    return phase


def symmetric_phase(kx: torch.Tensor, ky: torch.Tensor, even_zernike: Sequence[float]) -> torch.Tensor:
    """Phase (rad) that even aberrations take off the argument of the CTF's sine.

    The sum of even Zernike polynomials (0, 0), (2, -2), (2, 0), (2, 2), (4, -4) and so on, as (order, frequency in
    angle).

    Parameters
    ----------
    kx, ky : (n_pixels,) float
        1/Å, of the specimen (``magnified``).
    even_zernike : sequence of float

    Returns
    -------
    (n_pixels,) float
    """
    phase = torch.zeros_like(kx)
    for index, coefficient in enumerate(even_zernike):
        if coefficient:
            block = math.isqrt(index)
            phase = phase + coefficient * _zernike(2 * block, 2 * (index - block * (block + 1)), kx, ky)
    return phase


def _zernike(order: int, frequency: int, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Zernike polynomial: of cosine type for frequencies from 0 up, of sine type below."""
    turns = abs(frequency)
    radius, angle = torch.hypot(x, y), torch.atan2(y, x)
    radial = torch.zeros_like(x)
    for k in range((order - turns) // 2 + 1):
        below = math.factorial(k) * math.factorial((order + turns) // 2 - k) * math.factorial((order - turns) // 2 - k)
        radial = radial + (-1) ** k * math.factorial(order - k) / below * radius ** (order - 2 * k)
    return radial * (torch.cos(turns * angle) if frequency >= 0 else torch.sin(turns * angle))
