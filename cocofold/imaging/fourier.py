"""What depends on spatial frequency: Fourier rings and their correlation, and the contrast transfer function (CTF)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

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

    @cached_property
    def lengths(self) -> torch.Tensor:
        """Number of pixels of each ring, (n_rings,) int64."""
        return torch.bincount(self.ring, minlength=self.n_rings)

    @cached_property
    def weight_of_parts(self) -> torch.Tensor:
        """``weight`` once for the real and once for the imaginary part of each pixel, (2 n_pixels,)."""
        return self.weight.repeat_interleave(2)

    @cached_property
    def ring_of_parts(self) -> torch.Tensor:
        """``ring`` once for the real and once for the imaginary part of each pixel, (2 n_pixels,) int64."""
        return self.ring.repeat_interleave(2)

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
    correlations: torch.Tensor = _RingCorrelations.apply(predicted, observed, rings)
    return correlations


class _RingCorrelations(torch.autograd.Function):
    """Ring correlations and their gradient in fewer passes over the pixels than autograd takes.

    With a = sum w p o and b = sum w p^2 over a ring, the correlation c is a / sqrt(b), and
    dc/dp = w (o - p a / b) / sqrt(b). Observations have no gradient.
    """

    @staticmethod
    def forward(ctx: Any, predicted: torch.Tensor, observed: torch.Tensor, rings: RingPixels) -> torch.Tensor:
        parts, weighted = predicted.flatten(1), observed.flatten(1) * rings.weight_of_parts.to(observed.dtype)
        lengths = (2 * rings.lengths).expand(len(parts), -1).contiguous()

        def summed(values: torch.Tensor) -> torch.Tensor:
            return torch.segment_reduce(values, "sum", lengths=lengths, axis=1, unsafe=True)

        cross = summed(parts * weighted)
        power = summed(parts * parts * rings.weight_of_parts.to(parts.dtype))
        tiny = torch.finfo(power.dtype).tiny
        # 0 where the prediction has no power
        scale = power.clamp_min(tiny).rsqrt() * (power >= tiny)
        ctx.rings = rings
        ctx.save_for_backward(parts, weighted, cross, scale)
        return cross * scale

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        parts, weighted, cross, scale = ctx.saved_tensors
        rings: RingPixels = ctx.rings
        along = gradients[0] * scale
        across = along * cross * scale**2
        found = weighted * along.index_select(1, rings.ring_of_parts)
        weights = rings.weight_of_parts.to(parts.dtype)
        found = torch.addcmul(found, parts * weights, across.index_select(1, rings.ring_of_parts), value=-1)
        return found.view(len(parts), -1, 2), None, None


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
    dose
        Electrons per Å^2 that the specimen had seen before; None if nobody knows.
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
    dose: torch.Tensor | None = None

    def __getitem__(self, index: torch.Tensor | slice) -> Ctf:
        return self._with_each(lambda values: values[index])

    def to(self, device: torch.device | str) -> Ctf:
        """The same parameters on another device."""
        return self._with_each(lambda values: values.to(device))

    def _with_each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Ctf:
        known = {field.name: getattr(self, field.name) for field in fields(self)}
        return Ctf(**{name: change(values) for name, values in known.items() if values is not None})


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
    value = value * torch.exp(-ctf.bfactor_a2[:, None] * k2 / 4) * ctf.scale[:, None]
    if ctf.dose is not None:
        value = value * radiation_damage(ctf.dose[:, None], torch.sqrt(k2)) ** (1 + ctf.premultiplied[:, None])
    return value


def radiation_damage(dose: torch.Tensor, frequency: torch.Tensor) -> torch.Tensor:
    """Share of a frequency's (1/Å) amplitude that is left after a dose (electrons per Å^2), at 300 kV.

    ``exp(-dose / (2 (0.245 k^-1.665 + 2.81)))`` (Grant & Grigorieff, eLife 4, e06980, 2015), as in RELION.
    """
    return torch.exp(-0.5 * dose / (0.245 * frequency**-1.665 + 2.81))


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
