"""The optics of particles in the terms of ``cocofold.imaging``: CTF, aberrations and magnification of each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from cocofold.imaging.fourier import (
    Ctf,
    RingPixels,
    antisymmetric_phase,
    apply_magnification,
    contrast_transfer,
    electron_wavelength_angstrom,
    symmetric_phase,
)
from cocofold.imaging.projection import Poses
from cocofold.particles.particle_set import IDENTITY_MAGNIFICATION, OpticsGroup, ParticleSet

ANGSTROM_PER_MM = 1e7


class ParticleOptics:
    """What the microscope does to each particle's image, at the pixels of some rings.

    Parameters
    ----------
    particles : ParticleSet
    rings : RingPixels
        The finest; others hold the first of its pixels.
    """

    def __init__(self, particles: ParticleSet, rings: RingPixels) -> None:
        device = rings.kx.device
        self._ctf = ctf_of(particles).to(device)
        self._group = torch.as_tensor(np.array(particles.optics_index), dtype=torch.long, device=device)
        step = 1 / (particles.box * particles.pixel_size_angstrom)
        self._kx, self._ky = rings.kx * step, rings.ky * step
        kx, ky = rings.kx.cpu().double() * step, rings.ky.cpu().double() * step
        groups = particles.optics
        frequencies = [apply_magnification(kx, ky, group.magnification_matrix) for group in groups]
        self._magnified_frequencies = None
        if any(group.magnification_matrix != IDENTITY_MAGNIFICATION for group in groups):
            self._magnified_frequencies = tuple(torch.stack(axis).float().to(device) for axis in zip(*frequencies))
        symmetric = _symmetric_phases(groups, frequencies)
        antisymmetric = _antisymmetric_factors(groups, frequencies)
        self._symmetric = None if symmetric is None else symmetric.to(device)
        self._antisymmetric = None if antisymmetric is None else antisymmetric.to(device)

    def transfer(self, rows: torch.Tensor, rings: RingPixels) -> torch.Tensor:
        """CTF of images with their even aberrations, (n, n_pixels of ``rings``)."""
        pixels, group = len(rings), self._group[rows]
        kx, ky = self._kx[:pixels], self._ky[:pixels]
        if self._magnified_frequencies is not None:
            kx, ky = (axis[group, :pixels] for axis in self._magnified_frequencies)
        phase = None if self._symmetric is None else self._symmetric[group, :pixels]
        return contrast_transfer(self._ctf[rows], kx, ky, phase)

    def without_antisymmetric_phase(self, planes: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Transforms of images, (n, n_pixels) complex at all pixels, with beam tilt and odd aberrations taken out."""
        if self._antisymmetric is None:
            return planes
        factor = self._antisymmetric[self._group[rows]]
        # Products of complex tensors are rounded differently at their ends; of real ones everywhere alike.
        real = planes.real * factor.real - planes.imag * factor.imag
        imaginary = planes.real * factor.imag + planes.imag * factor.real
        return torch.complex(real, imaginary)


def _symmetric_phases(
    groups: Sequence[OpticsGroup], frequencies: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor | None:
    """Phases of even aberrations, (n_groups, n_pixels) radian; None if no group has any.

    ``frequencies`` are each group's kx and ky at the pixels, 1/Å, as its magnification shows them.
    """
    if not any(any(group.even_zernike) for group in groups):
        return None
    phases = [symmetric_phase(*at, group.even_zernike) for at, group in zip(frequencies, groups)]
    return torch.stack(phases).float()


def _antisymmetric_factors(
    groups: Sequence[OpticsGroup], frequencies: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor | None:
    """Factors that take out beam tilt and odd aberrations, (n_groups, n_pixels) complex; None if no group has any."""
    if not any(any(group.beam_tilt_mrad) or any(group.odd_zernike) for group in groups):
        return None
    phases = [
        antisymmetric_phase(
            *at,
            group.beam_tilt_mrad,
            group.odd_zernike,
            group.cs_mm * ANGSTROM_PER_MM,
            electron_wavelength_angstrom(group.voltage_kv),
        )
        for at, group in zip(frequencies, groups)
    ]
    turns = torch.stack(phases)
    return torch.polar(torch.ones_like(turns), -turns).to(torch.complex64)


def magnified_poses(poses: Poses, particles: ParticleSet) -> Poses:
    """Poses that draw atoms as an anisotropic magnification shows them: in the plane at ``M^T u``.

    The transform of atoms at ``M^T u`` is that of atoms at u, at the frequencies ``M k``. Origins are those of the
    image and stay.
    """
    if all(group.magnification_matrix == IDENTITY_MAGNIFICATION for group in particles.optics):
        return poses
    matrices = np.array([group.magnification_matrix for group in particles.optics])[particles.optics_index]
    by_image = torch.as_tensor(matrices, dtype=poses.rotations.dtype, device=poses.rotations.device)
    planar = torch.matmul(by_image.transpose(1, 2), poses.rotations[:, :2])
    return Poses(torch.cat([planar, poses.rotations[:, 2:]], 1), poses.origins_angstrom)


def poses_of(particles: ParticleSet) -> Poses:
    """Poses of all particles, in one layout however the particles were read: it decides how a product is rounded."""
    return Poses(
        torch.as_tensor(particles.rotations, dtype=torch.float32).contiguous(),
        torch.as_tensor(particles.origins_angstrom, dtype=torch.float32).contiguous(),
    )


def ctf_of(particles: ParticleSet) -> Ctf:
    """CTF parameters of all particles."""

    def tensor(values: np.ndarray) -> torch.Tensor:
        # A copy: particles' arrays may be read-only, which torch would warn of.
        return torch.as_tensor(np.array(values, dtype=np.float32))

    def by_group(value: Callable[[OpticsGroup], float]) -> torch.Tensor:
        return tensor(np.array([value(group) for group in particles.optics], dtype=float)[particles.optics_index])

    return Ctf(
        defocus_u_angstrom=tensor(particles.defocus_u_angstrom),
        defocus_v_angstrom=tensor(particles.defocus_v_angstrom),
        defocus_angle_rad=tensor(np.deg2rad(particles.defocus_angle_deg)),
        phase_shift_rad=tensor(np.deg2rad(particles.phase_shift_deg)),
        amplitude_contrast=by_group(lambda group: group.amplitude_contrast),
        wavelength_angstrom=by_group(lambda group: electron_wavelength_angstrom(group.voltage_kv)),
        cs_angstrom=by_group(lambda group: group.cs_mm * ANGSTROM_PER_MM),
        bfactor_a2=tensor(particles.ctf_bfactor_a2),
        scale=tensor(particles.ctf_scale),
        flipped=by_group(lambda group: group.phase_flipped),
        premultiplied=by_group(lambda group: group.ctf_premultiplied),
    )
