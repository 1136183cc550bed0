"""Predicted images against images made by RELION."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from cocofold.imaging.fourier import normalise_rings, ring_correlations, ring_sums
from cocofold.imaging.projection import REFERENCE_WIDTH_ANGSTROM, project
from cocofold.likelihood.observed_images import Observations
from cocofold.particles import read_particles
from cocofold.particles.particle_set import ParticleSet
from cocofold.structure.read_model import read_model

pytestmark = pytest.mark.independent

LEAST = 0.996


def _atoms(path: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    model = read_model(path)
    amplitudes = torch.as_tensor(model.atomic_numbers, dtype=torch.float32)
    positions = torch.as_tensor(model.positions, dtype=torch.float32)
    return positions, amplitudes, torch.full_like(amplitudes, REFERENCE_WIDTH_ANGSTROM)


class _Clean:
    """RELION's ten noise-free images, their particles and the atoms that were imaged."""

    def __init__(self, shared_data: Path) -> None:
        self.images = torch.as_tensor(mrcfile.read(shared_data / "adk/small300/clean_first10.mrcs"))
        self.particles = read_particles(shared_data / "adk/small300/particles.star").subset(np.arange(10))
        self.atoms = _atoms(shared_data / "adk/truth_open.cif")

    def correlations(
        self, particles: ParticleSet | None = None, shift_angstrom: float = 0.0, transfer: str = "ctf"
    ) -> torch.Tensor:
        """Correlation of each image with its prediction, each ring scaled to the image's power; (10,)."""
        particles = particles or self.particles
        observations = Observations(particles, 31)
        rings = observations.rings(31)
        batch = observations.batch(torch.arange(len(particles)), rings)
        positions, amplitudes, widths = self.atoms
        predicted = project(positions + shift_angstrom, amplitudes, widths, batch.poses, rings, 2.5)
        predicted = predicted * {"ctf": batch.transfer, "negative": -batch.transfer, "none": 1.0}[transfer]
        planes = torch.fft.rfft2(self.images).reshape(10, -1)[:, rings.flat_indices_in(64)]
        observed = torch.view_as_real(planes)
        power = ring_sums((observed**2).sum(-1) * rings.weight, rings)
        per_ring = ring_correlations(predicted, normalise_rings(observed, rings), rings)
        # The real-space correlation of two images whose rings have equal power (Parseval).
        return (per_ring * power).sum(1) / power.sum(1)


@pytest.fixture(scope="module")
def clean(shared_data: Path) -> _Clean:
    return _Clean(shared_data)


def test_every_noise_free_image_is_explained(clean: _Clean) -> None:
    correlations = clean.correlations()
    assert correlations.min() >= LEAST, correlations


def _mirrored(particles: ParticleSet) -> ParticleSet:
    return replace(particles, rotations=particles.rotations @ np.diag([1.0, 1.0, -1.0]))


WRONG_PARTICLES = {
    "transposed rotation": lambda p: replace(p, rotations=p.rotations.transpose(0, 2, 1)),
    "origin added": lambda p: replace(p, origins_angstrom=-p.origins_angstrom),
    "origin ignored": lambda p: replace(p, origins_angstrom=0 * p.origins_angstrom),
    "x and y swapped": lambda p: replace(
        p, rotations=p.rotations[:, [1, 0, 2]], origins_angstrom=p.origins_angstrom[:, [1, 0]]
    ),
    "mirrored along z": _mirrored,
}


@pytest.mark.parametrize("name", WRONG_PARTICLES)
def test_wrong_poses_are_noticed(clean: _Clean, name: str) -> None:
    wrong = clean.correlations(WRONG_PARTICLES[name](clean.particles))
    assert wrong.mean() < 0.9
    assert wrong.min() < LEAST


def test_wrong_centre_is_noticed(clean: _Clean) -> None:
    # The centre (N - 1) / 2 instead of N // 2 turns about a point that is half a pixel away on each axis.
    wrong = clean.correlations(shift_angstrom=1.25)
    assert wrong.mean() < 0.97
    assert wrong.min() < LEAST


@pytest.mark.parametrize("transfer", ["negative", "none"])
def test_wrong_ctf_is_noticed(clean: _Clean, transfer: str) -> None:
    wrong = clean.correlations(transfer=transfer)
    assert wrong.max() < 0.95


def _mean_correlation(particles: ParticleSet, atoms: tuple[torch.Tensor, ...]) -> float:
    observations = Observations(particles, 20)
    rings = observations.rings(20)
    batch = observations.batch(torch.arange(len(particles)), rings)
    predicted = project(*atoms, batch.poses, rings, particles.pixel_size_angstrom) * batch.transfer
    return float(ring_correlations(predicted, batch.transforms, rings).mean())


def test_phase_plate_and_optics_groups_are_used(shared_data: Path) -> None:
    particles = read_particles(shared_data / "adk/two_optics/particles.star")
    atoms = _atoms(shared_data / "adk/truth_open.cif")
    with_plate = particles.subset(np.flatnonzero(particles.phase_shift_deg > 0))
    assert {group.voltage_kv for group in particles.optics} == {200.0, 300.0}
    right = _mean_correlation(with_plate, atoms)
    without_shift = _mean_correlation(replace(with_plate, phase_shift_deg=0 * with_plate.phase_shift_deg), atoms)
    other_optics = replace(with_plate, optics=(replace(with_plate.optics[0], voltage_kv=300.0, cs_mm=2.7),))
    assert right > 0.35
    assert without_shift < 0.6 * right
    assert _mean_correlation(other_optics, atoms) < 0.97 * right


def test_phase_flipped_and_premultiplied_images_are_matched(shared_data: Path) -> None:
    """The flags take |CTF| and CTF^2; on images that were not treated they explain less."""
    particles = read_particles(shared_data / "adk/small300/particles.star").subset(np.arange(100))
    atoms = _atoms(shared_data / "adk/truth_open.cif")
    plain = Observations(particles, 20)
    rings = plain.rings(20)
    batch = plain.batch(torch.arange(100), rings)
    for flag, treat in (("phase_flipped", torch.sign(batch.transfer)), ("ctf_premultiplied", batch.transfer)):
        flagged = replace(particles, optics=(replace(particles.optics[0], **{flag: True}),))
        model = Observations(flagged, 20).batch(torch.arange(100), rings)
        predicted = project(*atoms, batch.poses, rings, 2.5) * model.transfer
        treated = normalise_rings(batch.transforms * treat, rings)
        right = ring_correlations(predicted, treated, rings).mean()
        wrong = ring_correlations(predicted, batch.transforms, rings).mean()
        assert right > 0.35
        assert wrong < 0.7 * right
