"""A map reconstructed from particles at given poses by direct Fourier inversion, corrected for the CTF.

It serves simulated particles: antisymmetric aberrations (beam tilt and the like), which they have none of, are not
taken out of the images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cocofold.imaging.rings import RingPixels
from cocofold.likelihood.particle_optics import ParticleOptics
from cocofold.particles.mrc import write_map
from cocofold.particles.particle_set import ParticleSet

# Images read and transformed at a time, for memory alone
_AT_ONCE = 64
# Steps to the eight voxels around a point, among which trilinear interpolation shares out its value
_CORNERS = [(z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1)]


def reconstruct(particles: ParticleSet) -> np.ndarray:
    """Reconstruct a map by direct Fourier inversion with a Wiener filter.

    Each Fourier pixel k of an image belongs to ``A.T @ (kx, ky, 0)`` of the map; it is shared out among the eight
    nearest voxels (trilinear), weighted by the CTF, and the sum divided by that of the squared CTFs. Where there is
    less than the mean of these, the mean takes its place, so that noise is not blown up.

    Parameters
    ----------
    particles : ParticleSet

    Returns
    -------
    (box, box, box) float32
        Indexed z, y, x; protein is positive; rotation centre at voxel ``box // 2``. To the ring before Nyquist.
    """
    box = particles.box
    rings = RingPixels.up_to(box, box // 2 - 1)
    optics = ParticleOptics(particles, rings)
    frequencies = np.stack([rings.kx.numpy(), rings.ky.numpy(), np.zeros(len(rings))]).astype(float)
    signal, power = np.zeros(box**3, complex), np.zeros(box**3)
    for start in range(0, len(particles), _AT_ONCE):
        rows = np.arange(start, min(start + _AT_ONCE, len(particles)))
        ctf = optics.transfer(torch.as_tensor(rows), rings).numpy()
        planes = _centred_transforms(particles, rows, rings)
        for row, plane, transfer in zip(rows, planes, ctf):
            at = particles.rotations[row].T @ frequencies
            for sign, values in ((1, plane), (-1, plane.conj())):
                _spread_trilinearly(signal, power, sign * at, transfer * values, transfer**2, box)
    sampled = power[power > 0]
    spectrum = (signal / np.maximum(power, sampled.mean() if len(sampled) else 1.0)).reshape(box, box, box)
    centred = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(spectrum)).real)
    return (centred / _trilinear_envelope(box)).astype(np.float32)


def write_reconstruction(path: Path, particles: ParticleSet) -> None:
    """Reconstruct a map and write it as MRC."""
    write_map(path, reconstruct(particles), particles.pixel_size_angstrom)


def _centred_transforms(particles: ParticleSet, rows: np.ndarray, rings: RingPixels) -> np.ndarray:
    """Transforms (n, n_pixels) of images with the particle's centre moved to the origin."""
    box = particles.box
    images = np.fft.ifftshift(particles.images(rows).astype(float), axes=(1, 2))
    planes = np.fft.rfft2(images).reshape(len(rows), -1)[:, rings.flat_indices_in(box).numpy()]
    origins = particles.origins_angstrom[rows] / particles.pixel_size_angstrom
    turns = origins @ np.stack([rings.kx.numpy(), rings.ky.numpy()]) / box
    # What sits at the centre minus the origin belongs at the centre
    return planes * np.exp(-2j * np.pi * turns)


def _spread_trilinearly(
    signal: np.ndarray, power: np.ndarray, at: np.ndarray, values: np.ndarray, weights: np.ndarray, box: int
) -> None:
    """Add values at frequencies (x, y, z), (3, n), to the eight voxels around each; the origin is voxel box // 2."""
    position = at + box // 2
    lowest = np.floor(position).astype(int)
    beyond = position - lowest
    for corner in _CORNERS:
        steps = np.array(corner[::-1])[:, None]
        share = np.where(steps == 1, beyond, 1 - beyond).prod(axis=0)
        x, y, z = (lowest + steps) % box
        index = (z * box + y) * box + x
        signal += np.bincount(index, share * values.real, box**3) + 1j * np.bincount(index, share * values.imag, box**3)
        power += np.bincount(index, share * weights, box**3)


def _trilinear_envelope(box: int) -> np.ndarray:
    """What trilinear interpolation in Fourier space multiplies the map by: sinc² along each axis."""
    profile = np.sinc((np.arange(box) - box // 2) / box) ** 2
    return np.einsum("z,y,x->zyx", profile, profile, profile)
