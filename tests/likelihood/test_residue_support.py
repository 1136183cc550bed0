"""What each residue adds to the agreement with images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from disordered_models import with_tail

from cocofold.commands.demo import closed_state
from cocofold.imaging.fourier import ring_count
from cocofold.likelihood.frc_loss import image_information
from cocofold.likelihood.observed_images import Observations
from cocofold.likelihood.residue_support import (
    ImageAgreement,
    ParticlesOfModel,
    ViewCoverage,
    opposed_stretches,
    smoothed_along_chains,
)
from cocofold.particles import read_particles
from cocofold.simulation.particle_simulation import simulate
from cocofold.simulation.simulation_settings import SimulationSettings
from cocofold.structure.confidence import only_ordered, read_order
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model


@pytest.fixture(scope="module")
def model(shared_data: Path) -> Model:
    return read_model(shared_data / "adk" / "start_closed.cif")


def test_support_is_the_slope_of_the_correlation(shared_data: Path, model: Model, monkeypatch) -> None:
    """As a residue's amplitudes are scaled, by differences."""
    images = ImageAgreement.read(
        model, ParticlesOfModel(shared_data / "adk" / "uniform" / "particles_200.star", most=30), "cpu"
    )
    support = images.support(model)
    assert support.correlation == pytest.approx(images.mean(model.positions, model.atomic_numbers), abs=1e-5)
    plain = images._gaussians

    def scaled(residue: int, factor: float) -> float:
        def gaussians(numbers: np.ndarray):
            found = plain(numbers)
            inside = torch.from_numpy(model.residue_of_atom == residue)
            found.amplitudes.data[inside] *= factor
            return found

        monkeypatch.setattr(images, "_gaussians", gaussians)
        return images.mean(model.positions, model.atomic_numbers)

    for residue in (10, 45, 140):
        slope = (scaled(residue, 1.3) - scaled(residue, 0.7)) / 0.6
        assert slope == pytest.approx(support.residues[residue], rel=0.03, abs=2e-5)


def test_few_images_name_no_stretch(shared_data: Path, model: Model) -> None:
    images = ImageAgreement.read(
        model, ParticlesOfModel(shared_data / "adk" / "uniform" / "particles_200.star", most=6), "cpu"
    )
    support = images.support(model)
    assert np.isinf(support.standard_errors).all()
    assert support.against == ()


def test_disordered_residues_are_not_asked_about(shared_data: Path, model: Model) -> None:
    marked, order = read_order(with_tail(model, 30, "N"))
    assert order.disordered.sum() >= 25
    particles = ParticlesOfModel(shared_data / "adk" / "uniform" / "particles_200.star", most=20)
    kept = only_ordered(marked)
    found, known = (ImageAgreement.read(one, particles, "cpu").support(one) for one in (marked, kept))
    assert found.correlation == pytest.approx(known.correlation, abs=1e-6)
    assert not found.residues[order.disordered].any()
    np.testing.assert_allclose(found.residues[~order.disordered], known.residues, atol=1e-7)


def _bundled() -> Model:
    """One chain of 214 residues, numbered from 1."""
    return read_model(closed_state())


def test_stretches_at_both_ends_of_a_chain_are_named() -> None:
    """Also where the chain is the only one, and its last residue is beside its first in no other sense."""
    model = _bundled()
    numbers = [key.number for key in model.residues]
    residues, errors = np.full(len(numbers), 1e-3), np.full(len(numbers), 1e-5)
    residues[:20] = residues[100:130] = residues[-20:] = -1e-2
    found = opposed_stretches(model, 0.2, residues, errors)
    assert [stretch.chain for stretch in found] == 3 * [model.residues[0].chain]
    first, middle, last = ((stretch.first, stretch.last) for stretch in found)
    assert first[0] == numbers[0]
    assert last[1] == numbers[-1]
    # A window on the edge of a stretch holds residues of both kinds.
    assert abs(first[1] - numbers[19]) <= 4
    assert abs(last[0] - numbers[-20]) <= 4
    assert abs(middle[0] - numbers[100]) <= 4
    assert abs(middle[1] - numbers[129]) <= 4
    assert str(found[0]) == f"{found[0].chain} {first[0]}-{first[1]}"
    everything = opposed_stretches(model, 0.2, np.full(len(numbers), -1e-2), errors)
    assert [(stretch.first, stretch.last) for stretch in everything] == [(numbers[0], numbers[-1])]


def rotations_of(views: np.ndarray) -> np.ndarray:
    """Matrices whose third rows are these views, (n, 3)."""
    across = np.cross(views, np.add(np.roll(views, 1, axis=1), [0.3, 0.1, -0.2]))
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    return np.stack([across, np.cross(views, across), views], axis=1)


def test_even_views_tell_all_directions_alike() -> None:
    views = np.concatenate([np.eye(3), -np.eye(3)])
    found = ViewCoverage.of(rotations_of(views))
    assert found.factors == pytest.approx(1)
    assert "alike" in str(found)


def test_views_around_an_axis_tell_nothing_less_along_it_and_views_along_one_nothing() -> None:
    axis = np.array([2.0, -1.0, 2.0]) / 3
    along = ViewCoverage.of(rotations_of(np.tile(axis, (5, 1))))
    assert np.isinf(along.factors[0])
    assert along.as_dict()["error_factors"][0] is None
    assert abs(along.axes[0] @ axis) == pytest.approx(1)
    assert "no image tells" in str(along)
    across = [np.cross(axis, [1.0, 0, 0]), np.cross(axis, np.cross(axis, [1.0, 0, 0]))]
    views = np.array([view / np.linalg.norm(view) for view in across])
    around = ViewCoverage.of(rotations_of(views))
    # Every image shows a shift along the axis whole, and one across it by half.
    assert around.factors == pytest.approx([np.sqrt(4 / 3), np.sqrt(4 / 3), np.sqrt(2 / 3)])
    assert abs(around.axes[2] @ axis) == pytest.approx(1)


def views_at(tilt_deg: float, count: int = 36) -> np.ndarray:
    """Views evenly around z, all tilted by so much."""
    around, tilt = np.linspace(0, 2 * np.pi, count, endpoint=False), np.radians(tilt_deg)
    flat = np.full(count, np.cos(tilt))
    return np.stack([np.sin(tilt) * np.cos(around), np.sin(tilt) * np.sin(around), flat], axis=1)


def test_an_ellipsoid_is_long_along_the_views() -> None:
    """Of views at a tilt t from z, sin² t of a shift along z is shown; of even views two thirds of any."""
    found = ViewCoverage.of(rotations_of(views_at(20)))
    ratio = np.sqrt(2 / 3) / np.sin(np.radians(20))
    assert found.anisotropy == pytest.approx(ratio)
    assert found.covariance() == pytest.approx(np.diag([1, 1, ratio**2]) / 3)
    sentence = found.sentence() or ""
    assert "-0.00" not in sentence
    assert f"are {ratio:.1f} times as uncertain" in sentence
    # Where no image tells anything, the ellipsoid stays finite.
    along = ViewCoverage.of(rotations_of(np.tile([0, 0, 1.0], (4, 1))))
    assert along.covariance() == pytest.approx(np.diag([1, 1, 100]) / 3)
    assert "No image tells" in (along.sentence() or "")
    even = ViewCoverage.of(rotations_of(np.concatenate([np.eye(3), -np.eye(3)])))
    assert even.covariance() == pytest.approx(np.eye(3) / 3)
    assert even.sentence() is None
    assert ViewCoverage.of(rotations_of(views_at(90))).sentence() is None


def test_weights_and_symmetry_count_views_more_often() -> None:
    views = np.array([[0, 0, 1.0], [1.0, 0, 0]])
    weighed = ViewCoverage.of(rotations_of(views), np.array([3.0, 1.0]))
    repeated = ViewCoverage.of(rotations_of(np.concatenate([views, views[:1], views[:1]])))
    assert weighed.covariance() == pytest.approx(repeated.covariance())
    # Copies about z turn a view along x into views from all sides; a cubic group makes all views even.
    turned = ViewCoverage.of(rotations_of(views[1:]), symmetry="C4")
    assert turned.covariance() == pytest.approx(ViewCoverage.of(rotations_of(views_at(90))).covariance())
    assert ViewCoverage.of(rotations_of(views[:1]), symmetry="O").anisotropy == pytest.approx(1)


def test_images_of_a_tilt_series_tell_less_the_more_dose_they_had(tmp_path: Path) -> None:
    settings = SimulationSettings(
        model=str(closed_state()), box=32, pixel_size=4.0, count=2, snr=1.0, tilts=7, tilt_dose=10.0, centre=True
    )
    particles = read_particles(simulate(settings, tmp_path / "tilts").star)
    observations = Observations(particles, ring_count(particles.box, particles.pixel_size_angstrom))
    told = image_information(observations, torch.arange(len(particles)))
    early = np.argsort(particles.dose_e_a2, kind="stable")
    assert told[early[:4]].mean() > 3 * told[early[-4:]].mean()
    found = ViewCoverage.of_images(observations)
    assert found.factors == pytest.approx(ViewCoverage.of(particles.rotations, told).factors)
    assert not np.allclose(found.factors, ViewCoverage.of(particles.rotations).factors, rtol=1e-2)


def test_images_multiplied_by_their_ctf_tell_as_much_as_before(shared_data: Path) -> None:
    particles = read_particles(shared_data / "adk" / "small300" / "particles.star").limited(8, None, 0)
    groups = tuple(replace(group, ctf_premultiplied=True) for group in particles.optics)
    told, multiplied = (
        image_information(Observations(some, 20), torch.arange(8))
        for some in (particles, replace(particles, optics=groups))
    )
    assert told == pytest.approx(multiplied, rel=1e-5)


def test_means_of_neighbours_stay_within_chains(shared_data: Path) -> None:
    model = read_model(shared_data / "tcr" / "truth.cif")
    chains = np.array([key.chain for key in model.residues])
    values = (chains == "C").astype(float)
    assert (smoothed_along_chains(model, values) == values).all()
    assert smoothed_along_chains(model, np.stack([values, 2 * values]))[1].max() == pytest.approx(2)
