"""Particle images as fine-tuning sees them: Fourier rings of unit power, with poses and CTF."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cocofold.imaging import Ctf, Poses, RingPixels, contrast_transfer, electron_wavelength_angstrom, normalise_rings
from cocofold.particles import ParticleSet

_READ_AT_ONCE = 256


@dataclass(frozen=True)
class Batch:
    """Some observed images.

    Attributes
    ----------
    poses : Poses
    transfer : (n, n_pixels, 1) float
        CTF at the pixels of the rings.
    transforms : (n, n_pixels, 2) float
        Real and imaginary parts, each ring of unit power.
    """

    poses: Poses
    transfer: torch.Tensor
    transforms: torch.Tensor


class Observations:
    """Transforms of particle images up to a ring, kept in memory as far as a budget goes.

    Parameters
    ----------
    particles : ParticleSet
    n_rings : int
        Highest ring that will be asked for.
    device
        Where tensors go.
    cache_bytes : int
        Memory for transforms; images beyond it are read and transformed each time they are used.
    """

    def __init__(
        self, particles: ParticleSet, n_rings: int, device: torch.device | str = "cpu", cache_bytes: int = 2**31
    ) -> None:
        self.particles = particles
        self.pixel_size_angstrom = particles.pixel_size_angstrom
        self.device = torch.device(device)
        self._rings = {n_rings: RingPixels.up_to(particles.box, n_rings, self.device)}
        self._finest = n_rings
        self._poses = Poses(
            torch.as_tensor(particles.rotations, dtype=torch.float32, device=self.device),
            torch.as_tensor(particles.origins_angstrom, dtype=torch.float32, device=self.device),
        )
        self._ctf = _ctf(particles).to(self.device)
        each = len(self._rings[n_rings]) * 2 * 4
        kept = min(len(particles), cache_bytes // each)
        self._cache = torch.empty(kept, each // 8, 2, device=self.device)
        for start in range(0, kept, _READ_AT_ONCE):
            rows = np.arange(start, min(start + _READ_AT_ONCE, kept))
            self._cache[start : start + len(rows)] = self._transform(rows)

    def __len__(self) -> int:
        return len(self.particles)

    def rings(self, n_rings: int) -> RingPixels:
        """Pixels of rings 1 ... ``n_rings``."""
        if n_rings not in self._rings:
            self._rings[n_rings] = RingPixels.up_to(self.particles.box, n_rings, self.device)
        return self._rings[n_rings]

    def batch(self, rows: torch.Tensor, rings: RingPixels) -> Batch:
        """Images of these rows, (n,) int, at the pixels of ``rings``."""
        if len(rows) and int(rows.max()) < len(self._cache):
            transforms = self._cache[rows.to(self.device), : len(rings)]
        else:
            transforms = self._transform(rows.numpy())[:, : len(rings)]
        rows = rows.to(self.device)
        step = 1 / (self.particles.box * self.pixel_size_angstrom)
        transfer = contrast_transfer(self._ctf[rows], rings.kx * step, rings.ky * step)
        return Batch(self._poses[rows], transfer[..., None], transforms)

    def _transform(self, rows: np.ndarray) -> torch.Tensor:
        # Pixels are sorted by ring, so fewer rings are the first pixels of more.
        rings = self._rings[self._finest]
        images = torch.as_tensor(self.particles.images(rows), device=self.device)
        planes = torch.fft.rfft2(images).reshape(len(rows), -1)[:, rings.positions_in(self.particles.box)]
        return normalise_rings(torch.view_as_real(planes), rings)


def _ctf(particles: ParticleSet) -> Ctf:
    """CTF parameters of all particles in the units of ``cocofold.imaging``."""

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.array(values, dtype=np.float32))

    def by_group(values: list) -> torch.Tensor:
        return tensor(np.array(values, dtype=float)[particles.optics_index])

    optics = particles.optics
    return Ctf(
        defocus_u_angstrom=tensor(particles.defocus_u_angstrom),
        defocus_v_angstrom=tensor(particles.defocus_v_angstrom),
        defocus_angle_rad=tensor(np.deg2rad(particles.defocus_angle_deg)),
        phase_shift_rad=tensor(np.deg2rad(particles.phase_shift_deg)),
        amplitude_contrast=by_group([group.amplitude_contrast for group in optics]),
        wavelength_angstrom=by_group([electron_wavelength_angstrom(group.voltage_kv) for group in optics]),
        cs_angstrom=by_group([group.cs_mm * 1e7 for group in optics]),
        bfactor_a2=tensor(particles.ctf_bfactor_a2),
        scale=tensor(particles.ctf_scale),
        flipped=by_group([group.phase_flipped for group in optics]),
        premultiplied=by_group([group.ctf_premultiplied for group in optics]),
    )
