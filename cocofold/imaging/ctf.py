"""The contrast transfer function (CTF) of the electron microscope, and aberrations beyond it, as RELION has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch


def electron_wavelength_angstrom(voltage_kv: float) -> float:
    """Relativistic wavelength of an electron in Å."""
    volts = voltage_kv * 1e3
    # h / sqrt(2 m e) in Å V^(1/2) and e / (2 m c^2) in 1/V, with the digits that RELION uses.
    return 12.2643247 / math.sqrt(volts * (1 + 0.978466e-6 * volts))


@dataclass(frozen=True)
class Ctf:
    """CTF parameters of ``n`` images; each attribute is an (n,) float tensor.

    Attributes
    ----------
    defocus_u_angstrom, defocus_v_angstrom, defocus_angle_rad
        Underfocus along the two principal axes (positive is underfocus) and angle of the first from x towards y.
    phase_shift_rad
        Phase shift of a phase plate, added.
    amplitude_contrast
        Fraction from 0 to 1.
    wavelength_angstrom, cs_angstrom
        Electron wavelength and spherical aberration.
    bfactor_a2, scale
        Envelope ``exp(-B k^2 / 4)`` and overall factor.
    flipped
        1 where images had their phases flipped: ``|CTF|`` applies.
    premultiplied
        1 where images were multiplied by their CTF: ``CTF^2`` applies.
    """

    defocus_u_angstrom: torch.Tensor
    defocus_v_angstrom: torch.Tensor
    defocus_angle_rad: torch.Tensor
    phase_shift_rad: torch.Tensor
    amplitude_contrast: torch.Tensor
    wavelength_angstrom: torch.Tensor
    cs_angstrom: torch.Tensor
    bfactor_a2: torch.Tensor
    scale: torch.Tensor
    flipped: torch.Tensor
    premultiplied: torch.Tensor

    def __getitem__(self, index: torch.Tensor | slice) -> Ctf:
        return Ctf(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def to(self, device: torch.device | str) -> Ctf:
        """The same parameters on another device."""
        return Ctf(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def contrast_transfer(
    ctf: Ctf, kx: torch.Tensor, ky: torch.Tensor, symmetric_phase_rad: torch.Tensor | None = None
) -> torch.Tensor:
    """CTF at the spatial frequencies (kx, ky).

    ``sin(pi lam dz k^2 - (pi/2) Cs lam^3 k^4 + asin(Q0) + phase_shift - chi)``, positive at low frequency, with
    ``dz = (U + V)/2 + (U - V)/2 cos(2 (atan2(ky, kx) - angle))`` (RELION's convention with white protein).

    Parameters
    ----------
    ctf : Ctf
        Parameters of n images.
    kx, ky : (n_pixels,) or (n, n_pixels) float
        Frequencies in 1/Å, ky along image rows.
    symmetric_phase_rad : (n, n_pixels) float, optional
        chi, the phase of even aberrations (``symmetric_phase``).

    Returns
    -------
    (n, n_pixels) float
    """
    k2 = kx**2 + ky**2
    # cos(2(theta - angle)) k^2 by the double-angle formulas: no atan2, and well defined at k = 0.
    cos_term, sin_term = kx**2 - ky**2, 2 * kx * ky
    mean = ((ctf.defocus_u_angstrom + ctf.defocus_v_angstrom) / 2)[:, None]
    half = ((ctf.defocus_u_angstrom - ctf.defocus_v_angstrom) / 2)[:, None]
    angle = 2 * ctf.defocus_angle_rad[:, None]
    defocus_k2 = mean * k2 + half * (torch.cos(angle) * cos_term + torch.sin(angle) * sin_term)
    wavelength = ctf.wavelength_angstrom[:, None]
    phase = math.pi * wavelength * defocus_k2 - (math.pi / 2) * ctf.cs_angstrom[:, None] * wavelength**3 * k2**2
    phase = phase + (torch.asin(ctf.amplitude_contrast) + ctf.phase_shift_rad)[:, None]
    if symmetric_phase_rad is not None:
        phase = phase - symmetric_phase_rad
    value = torch.sin(phase)
    value = torch.where(ctf.flipped[:, None] > 0, value.abs(), value)
    value = torch.where(ctf.premultiplied[:, None] > 0, value * value, value)
    return value * torch.exp(-ctf.bfactor_a2[:, None] * k2 / 4) * ctf.scale[:, None]


def apply_magnification(
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
        1/Å, of the specimen (``apply_magnification``).
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
            # RELION's numbering: terms of order 1, 3, 5, ... one after another, order 2 b + 1 from index b (b + 1) on.
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
        1/Å, of the specimen (``apply_magnification``).
    even_zernike : sequence of float

    Returns
    -------
    (n_pixels,) float
    """
    phase = torch.zeros_like(kx)
    for index, coefficient in enumerate(even_zernike):
        if coefficient:
            # RELION's numbering: terms of order 0, 2, 4, ... one after another, order 2 b from index b^2 on.
            block = math.isqrt(index)
            phase = phase + coefficient * _zernike(2 * block, 2 * (index - block * (block + 1)), kx, ky)
    return phase


def _zernike(order: int, frequency: int, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Zernike polynomial (Born & Wolf, Principles of Optics, 9.2.1), not normalised.

    It has a cosine for frequencies from 0 up and a sine below. The radius is the spatial frequency
    itself (1/Å), not a fraction of an aperture's.
    """
    turns = abs(frequency)
    radius, angle = torch.hypot(x, y), torch.atan2(y, x)
    radial = torch.zeros_like(x)
    for k in range((order - turns) // 2 + 1):
        below = math.factorial(k) * math.factorial((order + turns) // 2 - k) * math.factorial((order - turns) // 2 - k)
        radial = radial + (-1) ** k * math.factorial(order - k) / below * radius ** (order - 2 * k)
    return radial * (torch.cos(turns * angle) if frequency >= 0 else torch.sin(turns * angle))
