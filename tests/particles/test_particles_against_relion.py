"""Poses, origins and CTF as read explain the noise-free images that RELION made from a known structure."""

from __future__ import annotations

from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest

from cocofold.particles import read_particles
from cocofold.particles.particle_set import ParticleSet

pytestmark = pytest.mark.independent


def image_of_atoms(particles: ParticleSet, row: int, positions: np.ndarray, charges: np.ndarray) -> np.ndarray:
    """A projection by its Fourier sum over atoms, written from the conventions alone, (box, box)."""
    optics, box = particles.optics[particles.optics_index[row]], particles.box
    centre = box // 2 * optics.pixel_size_angstrom
    x, y, _ = particles.rotations[row] @ (positions - centre).T
    x, y = (centre + u - origin for u, origin in zip((x, y), particles.origins_angstrom[row]))
    ky, kx = np.meshgrid(np.fft.fftfreq(box), np.fft.rfftfreq(box), indexing="ij")
    kx, ky = kx / optics.pixel_size_angstrom, ky / optics.pixel_size_angstrom
    waves_x = np.exp(-2j * np.pi * np.outer(kx[0], x)) * charges
    waves_y = np.exp(-2j * np.pi * np.outer(ky[:, 0], y))
    k2 = kx**2 + ky**2
    u, v = particles.defocus_u_angstrom[row], particles.defocus_v_angstrom[row]
    angle = np.arctan2(ky, kx) - np.radians(particles.defocus_angle_deg[row])
    defocus = (u + v) / 2 + (u - v) / 2 * np.cos(2 * angle)
    wavelength = {300: 0.0196875, 200: 0.0250793}[round(optics.voltage_kv)]
    phase = np.pi * wavelength * defocus * k2 - np.pi / 2 * optics.cs_mm * 1e7 * wavelength**3 * k2**2
    ctf = np.sin(phase + np.arcsin(optics.amplitude_contrast) + np.radians(particles.phase_shift_deg[row]))
    blur = np.exp(-25 * k2)  # of the scattering factors and B factors in the imaged map, Å²
    return np.fft.irfft2(waves_y @ waves_x.T * ctf * blur, s=(box, box))


@pytest.mark.parametrize("name", ["particles.star", "star_variants/relion30.star", "cs/particles.cs"])
def test_projections_match_relions_images(shared_data: Path, name: str) -> None:
    folder = shared_data / "adk/small300"
    passthrough = [folder / "cs/particles_passthrough.cs"] if name.endswith(".cs") else []
    particles = read_particles(folder / name, passthrough=passthrough)
    model = gemmi.read_structure(str(folder.parent / "truth_open.cif"))[0]
    atoms = [atom for chain in model for residue in chain for atom in residue]
    positions = np.array([atom.pos.tolist() for atom in atoms])
    charges = np.array([float(atom.element.atomic_number) for atom in atoms])
    with mrcfile.open(folder / "clean_first10.mrcs") as file:
        clean = file.data[:4].astype(float)
    for row, expected in enumerate(clean):
        image = image_of_atoms(particles, row, positions, charges)
        assert np.corrcoef(image.ravel(), expected.ravel())[0, 1] > 0.99
