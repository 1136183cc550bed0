"""Poses that are off are found with the model, right ones stay, and rings that judge are not asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cocofold.commands.demo import open_state
from cocofold.likelihood.frc_loss import AtomGaussians, correlate
from cocofold.likelihood.image_comparison import (
    LocalComparison,
    PoseRefiner,
    _predictions,
    judging_rings,
    pose_equations,
)
from cocofold.likelihood.observed_images import Observations
from cocofold.likelihood.particle_optics import PoseEquations, PosePrior, with_pose_errors
from cocofold.particles import read_particles
from cocofold.particles.particle_set import ParticleSet
from cocofold.simulation.particle_simulation import simulate
from cocofold.simulation.simulation_settings import SimulationSettings
from cocofold.structure.read_model import read_model

N_RINGS = 20
OFF_DEG, OFF_ANGSTROM = 4.0, 1.3


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> ParticleSet:
    """60 particles of the open state, at the poses that were imaged."""
    folder = tmp_path_factory.mktemp("poses") / "particles"
    settings = SimulationSettings(model=str(open_state()), box=48, pixel_size=3.4, count=60, snr=0.5, seed=2)
    simulate(settings, folder)
    return read_particles(folder / "particles.star")


@pytest.fixture(scope="module")
def atoms() -> tuple[torch.Tensor, AtomGaussians]:
    model = read_model(open_state())
    return torch.as_tensor(model.positions, dtype=torch.float32), AtomGaussians.of_model(model)


def disturbed(particles: ParticleSet) -> ParticleSet:
    errors = np.random.default_rng(5).normal(size=(len(particles), 5))
    errors *= np.repeat([np.deg2rad(OFF_DEG) / 3**0.5, OFF_ANGSTROM], [3, 2])
    return with_pose_errors(particles, errors)


def angle_deg(first: ParticleSet, second: ParticleSet) -> float:
    """Root mean square of the turns between poses."""
    turns = Rotation.from_matrix(first.rotations @ second.rotations.transpose(0, 2, 1)).magnitude()
    return float(np.rad2deg(np.sqrt((turns**2).mean())))


def refiner(observations: Observations) -> PoseRefiner:
    rows = torch.arange(len(observations))
    found = PoseRefiner.of_run(
        "auto", LocalComparison(observations), observations, rows, observations.rings(N_RINGS), 7
    )
    assert found is not None
    return found


@pytest.mark.parametrize("matrix", [((1.0, 0.0), (0.0, 1.0)), ((1.03, 0.01), (-0.02, 0.98))])
def test_derivatives_agree_with_finite_differences(
    matrix: tuple, truth: ParticleSet, atoms: tuple[torch.Tensor, AtomGaussians]
) -> None:
    optics = tuple(replace(group, magnification_matrix=matrix) for group in truth.optics)
    some = replace(truth.subset(np.arange(3)), optics=optics)
    rows, step = torch.arange(3), 1e-2
    with Observations(some, N_RINGS) as observations:
        rings = observations.rings(N_RINGS)
        at_zero = observations.batch(rows, rings)
        _, slopes = _predictions(*atoms, observations, rows, at_zero, rings)
        for row, slope in enumerate(slopes):
            both = []
            for sign in (1, -1):
                errors = torch.zeros(3, 5)
                errors[:, row] = sign * step
                observations.move_poses(rows, errors)
                both.append(_predictions(*atoms, observations, rows, observations.batch(rows, rings), rings)[0])
            expected = (both[0] - both[1]) / (2 * step)
            assert (slope - expected).norm() < 0.02 * expected.norm(), row


def test_poses_that_are_off_are_found(truth: ParticleSet, atoms: tuple[torch.Tensor, AtomGaussians]) -> None:
    given = disturbed(truth)
    with Observations(given, N_RINGS) as observations:
        poses = refiner(observations)
        before = poses.score_anew(*atoms, torch.arange(60))
        assert poses.decide(*atoms)
        poses.refine_all(*atoms)
    assert before.isfinite().all()
    # The widths are those with which the errors were drawn, as far as 60 of them tell
    assert poses.prior.turn_deg == pytest.approx(OFF_DEG, rel=0.25)
    assert poses.prior.shift_angstrom == pytest.approx(OFF_ANGSTROM, rel=0.25)
    refined = with_pose_errors(given, poses.errors.double().numpy())
    assert angle_deg(given, truth) == pytest.approx(OFF_DEG, rel=0.2)
    assert angle_deg(refined, truth) < angle_deg(given, truth) / 2
    shifts = [np.linalg.norm(one.origins_angstrom - truth.origins_angstrom, axis=1) for one in (refined, given)]
    assert shifts[0].mean() < shifts[1].mean() / 3


def test_right_poses_stay(truth: ParticleSet, atoms: tuple[torch.Tensor, AtomGaussians]) -> None:
    with Observations(truth, N_RINGS) as observations:
        poses, rows = refiner(observations), torch.arange(60)
        before = observations.batch(rows, observations.rings(N_RINGS)).poses
        assert not poses.decide(*atoms)
        after = observations.batch(rows, observations.rings(N_RINGS)).poses
    assert not poses.errors.any()
    assert torch.equal(before.rotations, after.rotations)
    assert torch.equal(before.origins_angstrom, after.origins_angstrom)


def test_rings_that_judge_are_not_asked(truth: ParticleSet, atoms: tuple[torch.Tensor, AtomGaussians]) -> None:
    """Poses are the same when these rings of the images are overwritten, and with all rings they are not."""
    judging = judging_rings(N_RINGS)
    assert judging == [4, 8, 12, 16, 20]
    assert judging_rings(N_RINGS, scored=(8, 16)) == [4, 12, 20]
    found = []
    for overwritten in (False, True):
        with Observations(disturbed(truth.subset(np.arange(15))), N_RINGS) as observations:
            rings, rows = observations.rings(N_RINGS), torch.arange(15)
            observations.batch(rows, rings)
            if overwritten:
                judges = torch.isin(rings.ring, torch.tensor(judging) - 1)
                observations._cache[:, judges] = observations._cache[:, judges].flip(0)
            poses = refiner(observations)
            poses.refine(*atoms, rows)
            asked = poses.errors.clone()
            poses.refine_all(*atoms)
            found.append((asked, poses.errors))
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.equal(found[0][1], found[1][1])


def test_poses_refined_and_forgotten_leave_no_trace(
    truth: ParticleSet, atoms: tuple[torch.Tensor, AtomGaussians]
) -> None:
    with Observations(disturbed(truth), N_RINGS) as observations:
        poses, rings = refiner(observations), observations.rings(N_RINGS)
        poses.prior = PosePrior(0.04, 1.3)
        rows = torch.arange(5, 25)
        before = correlate(*atoms, observations, rows, rings)
        anew = poses.score_anew(*atoms, rows)
        assert torch.equal(correlate(*atoms, observations, rows, rings), before)
        assert anew.mean() > before.mean() + 0.02
        # and they come back with a state
        poses.refine(*atoms, rows)
        state, moved = poses.state(), correlate(*atoms, observations, rows, rings)
        other = refiner(observations)
        assert torch.equal(correlate(*atoms, observations, rows, rings), before)
        other.restore(state)
        assert torch.equal(correlate(*atoms, observations, rows, rings), moved)
        assert other.prior == poses.prior


def test_chunks_do_not_change_the_equations(truth: ParticleSet, atoms: tuple[torch.Tensor, AtomGaussians]) -> None:
    with Observations(truth, N_RINGS) as observations:
        rings, rows = observations.rings(N_RINGS), torch.arange(9)
        weights = torch.ones(2, N_RINGS)
        whole = pose_equations(*atoms, observations, [rows], rings, weights)[0]
        parts = pose_equations(*atoms, observations, list(rows.split(2)), rings, weights)
    np.testing.assert_allclose(torch.cat(parts).numpy(), whole.numpy(), rtol=1e-4, atol=1e-3)


def test_an_image_that_is_no_number_keeps_its_pose() -> None:
    packed = np.random.default_rng(1).normal(size=(4, 20))
    packed[:, 5:] = np.eye(5)[np.tril_indices(5)] * 100
    packed[2, 1] = np.nan
    equations = PoseEquations.unpack(packed, np.zeros((4, 5)))
    found = equations.solve(PosePrior(0.1, 1.0))
    assert np.isfinite(found).all()
    assert not found[2].any()
    assert found[[0, 1, 3]].all()
    assert np.isfinite(equations.estimate_prior()[1])


def test_widths_are_those_of_the_errors() -> None:
    """Of errors that are drawn, and seen with known precision."""
    random, widths = np.random.default_rng(3), PosePrior(0.05, 1.5).widths()
    matrix = (
        np.einsum("nij,nkj->nik", *[random.normal(size=(500, 5, 8))] * 2) * np.outer(20 / widths, 20 / widths) / 100
    )
    errors = random.normal(size=(500, 5)) * widths
    noise = np.einsum("nij,nj->ni", np.linalg.cholesky(matrix), random.normal(size=(500, 5)))
    prior, evidence = PoseEquations(matrix, np.einsum("nij,nj->ni", matrix, errors) + noise).estimate_prior()
    np.testing.assert_allclose(prior.widths(), widths, rtol=0.15)
    assert evidence > 100
    nothing, evidence = PoseEquations(matrix, noise).estimate_prior()
    assert nothing.is_zero or evidence < 5


def test_a_turn_in_the_plane_keeps_the_view(truth: ParticleSet) -> None:
    """The third row of a matrix is the direction of the view."""
    turned = with_pose_errors(truth, np.tile([0.0, 0.0, 0.1, 0.5, -0.5], (60, 1)))
    np.testing.assert_allclose(turned.rotations[:, 2], truth.rotations[:, 2], atol=1e-12)
    np.testing.assert_allclose(turned.origins_angstrom - truth.origins_angstrom, np.tile([0.5, -0.5], (60, 1)))
