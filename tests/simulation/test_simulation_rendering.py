"""Noise-free images against a sum over atoms in Fourier space and against RELION's."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from scipy.spatial.transform import Rotation

from cocofold.commands.demo import open_state
from cocofold.imaging.fourier import Ctf
from cocofold.imaging.projection import REFERENCE_WIDTH_ANGSTROM, Poses
from cocofold.simulation.scene import ImageRenderer, atom_cloud
from cocofold.structure.read_model import read_model

BOX, PIXEL = 48, 3.0


def frequencies(box: int, pixel: float) -> tuple[np.ndarray, np.ndarray]:
    return np.meshgrid(np.fft.rfftfreq(box, pixel), np.fft.fftfreq(box, pixel))


def direct_transform(path: Path, angles: np.ndarray, origin: np.ndarray, box: int, pixel: float) -> np.ndarray:
    """Transform of one projection, atom by atom from the file; pixels of 1 Å² would count the density's integral."""
    model = read_model(path)
    centre = box // 2 * pixel
    turned = (model.positions - centre) @ Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix()
    x, y = (turned[:, :2] + centre - origin).T
    kx, ky = frequencies(box, pixel)
    phases_x = np.exp(-2j * np.pi * np.outer(kx[0], x)) * model.atomic_numbers
    phases_y = np.exp(-2j * np.pi * np.outer(ky[:, 0], y))
    variance = REFERENCE_WIDTH_ANGSTROM**2
    envelope = 2 * np.pi * variance * np.exp(-2 * np.pi**2 * variance * (kx**2 + ky**2))
    return envelope * (phases_y @ phases_x.T) / pixel**2


def in_rings(box: int, pixel: float) -> np.ndarray:
    kx, ky = frequencies(box, pixel)
    ring = np.rint(np.hypot(kx, ky) * box * pixel)
    return (ring >= 1) & (ring < box // 2)


def no_transfer(n: int) -> Ctf:
    """A CTF of 1 everywhere: no defocus, all contrast from the amplitude."""
    zero, one = torch.zeros(n), torch.ones(n)
    return Ctf(zero, zero, zero, zero, one, 0.02 * one, zero, zero, one, zero, zero)


def test_images_are_the_sum_over_atoms_with_their_own_envelope() -> None:
    angles, origin = np.array([31.0, 67.0, -112.0]), np.array([4.3, -2.9])
    matrix = Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix().T
    poses = Poses(torch.tensor(matrix[None]).float(), torch.tensor(origin[None]).float())
    image = ImageRenderer([atom_cloud(read_model(open_state()))], BOX, PIXEL).images(poses, no_transfer(1))[0]
    found, kept = np.fft.rfft2(image.astype(float)), in_rings(BOX, PIXEL)
    expected = direct_transform(open_state(), angles, origin, BOX, PIXEL)
    assert np.abs(found[~kept]).max() < 1e-3 * np.abs(expected[kept]).mean()
    kx, ky = frequencies(BOX, PIXEL)
    ring = np.rint(np.hypot(kx, ky) * BOX * PIXEL).astype(int)
    for number in range(1, BOX // 2):
        pixels = ring == number
        # The width of rendering would change the amplitudes of the last ring by a third.
        assert np.linalg.norm((found - expected)[pixels]) < 3e-3 * np.linalg.norm(expected[pixels]), number


def test_written_images_have_the_poses_and_ctf_of_the_star(simulate) -> None:
    out = simulate(
        *("--count", 4, "--clean", "--astigmatism", 8000, "--phase-shift", 40, "--voltage", 200, "--cs", 2.0)
    )
    tables = starfile.read(out / "particles.star")
    assert tables["optics"].loc[0, ["rlnVoltage", "rlnSphericalAberration"]].tolist() == [200, 2.0]
    kept = in_rings(BOX, PIXEL)
    kx, ky = frequencies(BOX, PIXEL)
    k2, volts = kx**2 + ky**2, 200e3
    wavelength = 12.2643247 / np.sqrt(volts * (1 + 0.978466e-6 * volts))
    with mrcfile.open(out / "clean.mrcs") as stack:
        images = stack.data.astype(float)
    for row, image in zip(tables["particles"].itertuples(), images):
        angles = np.array([row.rlnAngleRot, row.rlnAngleTilt, row.rlnAnglePsi])
        origin = np.array([row.rlnOriginXAngst, row.rlnOriginYAngst])
        u, v = row.rlnDefocusU, row.rlnDefocusV
        direction = 2 * (np.arctan2(ky, kx) - np.deg2rad(row.rlnDefocusAngle))
        defocus = (u + v) / 2 + (u - v) / 2 * np.cos(direction)
        phase = np.pi * wavelength * defocus * k2 - np.pi / 2 * 2.0e7 * wavelength**3 * k2**2
        transfer = np.sin(phase + np.arcsin(0.1) + np.deg2rad(40))
        expected = (transfer * direct_transform(open_state(), angles, origin, BOX, PIXEL))[kept]
        found = np.fft.rfft2(image)[kept]
        correlation = np.vdot(expected, found) / np.linalg.norm(expected) / np.linalg.norm(found)
        assert abs(correlation - 1) < 1e-4


@pytest.mark.independent
def test_images_are_like_those_of_relion(shared_data: Path) -> None:
    from cocofold.imaging.fourier import electron_wavelength_angstrom
    from cocofold.particles import read_particles

    folder = shared_data / "adk" / "small300"
    particles = read_particles(folder / "particles.star").subset(np.arange(10))
    group = particles.optics[0]
    values = (
        particles.defocus_u_angstrom,
        particles.defocus_v_angstrom,
        np.deg2rad(particles.defocus_angle_deg),
        np.deg2rad(particles.phase_shift_deg),
        np.full(10, group.amplitude_contrast),
        np.full(10, electron_wavelength_angstrom(group.voltage_kv)),
        np.full(10, group.cs_mm * 1e7),
        np.zeros(10),
        np.ones(10),
        np.zeros(10),
        np.zeros(10),
    )
    atoms = atom_cloud(read_model(shared_data / "adk" / "truth_open.cif"))
    renderer = ImageRenderer([atoms], particles.box, group.pixel_size_angstrom)
    poses = Poses(torch.tensor(particles.rotations).float(), torch.tensor(particles.origins_angstrom).float())
    images = renderer.images(poses, Ctf(*(torch.tensor(value).float() for value in values)))
    with mrcfile.open(folder / "clean_first10.mrcs", permissive=True) as stack:
        theirs = stack.data.astype(float)
    for image, other in zip(images, theirs):
        assert np.corrcoef(image.ravel(), other.ravel())[0, 1] > 0.99
