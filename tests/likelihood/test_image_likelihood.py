"""Which of several models an image shows, against the noise that it has, and whether it shows any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cocofold.commands.demo import closed_state, open_state
from cocofold.imaging.fourier import RingPixels, normalise_rings
from cocofold.imaging.projection import Poses, project
from cocofold.likelihood.frc_loss import AtomGaussians
from cocofold.likelihood.image_likelihood import (
    NoiseModel,
    RingSums,
    batch_ring_sums,
    fit_mixture,
    image_ring_sums,
    numbers_in_rings,
)
from cocofold.likelihood.observed_images import Batch, Observations
from cocofold.particles import read_particles
from cocofold.simulation.particle_simulation import simulate
from cocofold.simulation.simulation_settings import SimulationSettings
from cocofold.structure.read_model import read_model

RINGS = RingPixels.up_to(32, 12)
OPEN, CLOSED = 40, 20


@pytest.fixture(scope="module")
def told_apart(tmp_path_factory: pytest.TempPathFactory) -> list[RingSums]:
    """Sums of 40 images of the open and 20 of the closed state, with the open and the closed model."""
    folder = tmp_path_factory.mktemp("states")
    found: list[list[RingSums]] = []
    for name, state, count in (("open", open_state(), OPEN), ("closed", closed_state(), CLOSED)):
        simulate(
            SimulationSettings(model=str(state), box=48, pixel_size=3.4, count=count, snr=0.1, seed=count),
            folder / name,
        )
        particles = read_particles(folder / name / "particles.star")
        with Observations(particles, RINGS.n_rings) as observations:
            rings, rows = observations.rings(RINGS.n_rings), torch.arange(count)
            found.append(
                [
                    image_ring_sums(*atoms_of(path), observations, rows, rings, 7)
                    for path in (open_state(), closed_state())
                ]
            )
    return [RingSums(*map(torch.cat, zip(*of_model))) for of_model in zip(*found)]


def atoms_of(path: Path) -> tuple[torch.Tensor, AtomGaussians]:
    model = read_model(path)
    return torch.as_tensor(model.positions, dtype=torch.float32), AtomGaussians.of_model(model)


def numbers() -> torch.Tensor:
    return numbers_in_rings(RingPixels.up_to(48, RINGS.n_rings))


def test_each_image_goes_to_its_state(told_apart: list[RingSums]) -> None:
    found = fit_mixture(told_apart, numbers())
    assert (found.chances[:OPEN, 0] > 0.9).float().mean() > 0.95
    assert (found.chances[OPEN:, 1] > 0.9).float().mean() > 0.95
    np.testing.assert_allclose(found.shares.numpy(), [OPEN / 60, CLOSED / 60], atol=0.04)
    np.testing.assert_allclose(found.chances.sum(1).numpy(), 1)
    # With all images told apart for certain the error is that of counting.
    counting = (OPEN * CLOSED / 60**3) ** 0.5
    np.testing.assert_allclose(found.share_errors().numpy(), counting, rtol=0.1)


def test_two_states_explain_images_better_than_one(told_apart: list[RingSums]) -> None:
    both, one = fit_mixture(told_apart, numbers()), fit_mixture(told_apart[:1], numbers())
    gain = both.log_evidence(told_apart) - one.log_evidence(told_apart[:1])
    assert gain[OPEN:].mean() > 5
    assert abs(gain[:OPEN].mean()) < gain[OPEN:].mean() / 5


def test_a_state_is_explained_by_its_own_model(told_apart: list[RingSums]) -> None:
    found = fit_mixture(told_apart, numbers())
    assert abs(found.noise.explained(told_apart[0])[:OPEN].mean() - 1) < 0.1
    assert found.noise.explained(told_apart[0])[OPEN:].mean() < 0.8


def test_images_of_noise_show_nothing(told_apart: list[RingSums]) -> None:
    noise = fit_mixture(told_apart, numbers()).noise
    count = numbers()
    generator = torch.Generator().manual_seed(1)
    # A prediction and a unit vector of as many numbers in any direction
    cross = torch.randn(60, len(count), dtype=torch.float64, generator=generator)
    cross *= (told_apart[0].power / count).sqrt()
    shown = noise.explained(RingSums(cross, told_apart[0].power))
    assert abs(shown.mean()) < 0.1
    assert noise.log_likelihood(RingSums(cross, told_apart[0].power)).mean() < -5


def test_the_likelihood_is_that_of_white_noise_in_each_ring() -> None:
    """Against the sum over pixels."""
    generator = torch.Generator().manual_seed(0)
    atoms = torch.rand(30, 3, generator=generator) * 40 + 20
    gaussians = AtomGaussians(torch.full((30,), 6.0), torch.full((30,), 0.7))
    turned = torch.linalg.qr(torch.randn(4, 3, 3, generator=generator))[0]
    poses = Poses(turned, torch.zeros(4, 2))
    observed = normalise_rings(torch.randn(4, len(RINGS), 2, generator=generator), RINGS)
    batch = Batch(poses, torch.full((4, len(RINGS), 1), 0.5), observed)
    sums = batch_ring_sums(atoms, gaussians, batch, RINGS, 2.5)
    scale, noise = 0.1 + 0.8 * torch.rand(2, RINGS.n_rings, dtype=torch.float64, generator=generator)
    count = numbers_in_rings(RINGS)
    found = NoiseModel(scale * 1e-2, noise, count).log_likelihood(sums)
    predicted = 0.5 * project(atoms, gaussians.amplitudes, gaussians.widths_angstrom, poses, RINGS, 2.5)
    left = observed - 1e-2 * scale[RINGS.ring, None] * predicted

    def log_density(values: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
        """Of normal numbers, those of Friedel mates counted once, without a constant."""
        precision = (RINGS.weight / variance[RINGS.ring])[:, None]
        return -0.5 * ((values**2 * precision).sum((1, 2)) + (count * variance.log()).sum())

    expected = log_density(left, noise / count) - log_density(observed, 1 / count)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-4)


def test_rings_that_are_not_asked_say_nothing(told_apart: list[RingSums]) -> None:
    used = torch.arange(RINGS.n_rings) < 6
    spoiled = [RingSums(one.cross.clone(), one.power.clone()) for one in told_apart]
    for one in spoiled:
        one.cross[:, 6:] *= -3
    expected, found = (fit_mixture(sums, numbers(), used).chances for sums in (told_apart, spoiled))
    assert torch.equal(expected, found)


def test_shares_are_found_by_the_rows_that_are_named(told_apart: list[RingSums]) -> None:
    found = fit_mixture(told_apart, numbers(), rows=torch.arange(OPEN))
    assert found.shares[0] > 0.95
    assert found.chances.shape == (60, 2)
