"""Which particles are selected."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cocofold.particles.particle_set import ParticleSet
from cocofold.preflight.scoring import Hypothesis, HypothesisScorer
from cocofold.reporting.plots import compensation_factor, shell_sampling
from cocofold.selection import CRITERIA, bins_of_views, draw_evenly, score_images, select_particles
from cocofold.simulation.scene import draw_rotations, prefer_poles
from cocofold.structure.model import Model
from cocofold.system.errors import InputError


def of_views(particles: ParticleSet, rotations: np.ndarray) -> ParticleSet:
    """Particles with these poses, whose images are those of a few, again and again."""
    many = particles.subset(np.arange(len(rotations)) % len(particles))
    return replace(many, rotations=rotations, slice_index=np.arange(len(rotations)))


@pytest.mark.parametrize("by", CRITERIA)
@pytest.mark.parametrize(("count", "held_out"), [(10, 0), (40, 8), (80, 16)])
def test_as_many_are_held_out_as_fine_tuning_would(
    by: str, count: int, held_out: int, particles: ParticleSet, truth: Model
) -> None:
    found = select_particles(particles, count, by, model=truth)
    assert len(found.held_out) == held_out
    assert len(found.rows) == len(set(found.rows.tolist())) == count
    assert not set(found.selected.tolist()) & set(found.held_out.tolist())
    chosen = found.apply_to(particles)
    np.testing.assert_array_equal(chosen.slice_index, particles.slice_index[found.rows])
    if held_out:
        np.testing.assert_array_equal(found.rows[chosen.held_out], found.held_out)
    else:
        assert chosen.held_out is None


def test_those_held_out_do_not_depend_on_the_choice(particles: ParticleSet, truth: Model) -> None:
    held_out = [select_particles(particles, 40, by, 3, truth).held_out for by in CRITERIA]
    np.testing.assert_array_equal(held_out[0], held_out[1])
    np.testing.assert_array_equal(held_out[0], held_out[2])
    assert set(held_out[0]) != set(select_particles(particles, 40, "random", 4).held_out)


@pytest.mark.parametrize("by", CRITERIA)
def test_the_order_of_the_particles_does_not_matter(by: str, particles: ParticleSet, truth: Model) -> None:
    order = np.random.default_rng(0).permutation(len(particles))
    found, other = (select_particles(some, 40, by, 3, truth) for some in (particles, particles.subset(order)))
    assert sorted(order[other.selected]) == found.selected.tolist()
    assert sorted(order[other.held_out]) == found.held_out.tolist()


@pytest.mark.parametrize("by", CRITERIA)
@pytest.mark.parametrize("marks", [0, 31])
def test_no_image_is_both_selected_and_held_out(by: str, marks: int, particles: ParticleSet, truth: Model) -> None:
    """Of a symmetry expansion the rows of an image are held out together, and as many images as without it."""
    expanded = particles.subset(np.repeat(np.arange(len(particles)), 3))
    if marks:
        expanded = replace(expanded, held_out=np.arange(len(expanded)) < marks)
    found = select_particles(expanded, 120, by, model=truth)
    held_out = set(expanded.image_numbers[found.held_out].tolist())
    assert len(held_out) == 8
    assert len(found.held_out) == 24
    assert len(found.rows) == 120
    assert not held_out & set(expanded.image_numbers[found.selected].tolist())


@pytest.mark.parametrize("by", ["random", "views"])
def test_the_seed_decides(by: str, particles: ParticleSet) -> None:
    first, again, other = (select_particles(particles, 40, by, seed).selected.tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_images_of_something_else_are_passed_over(particles: ParticleSet, truth: Model) -> None:
    scores = score_images(particles, truth)
    shows_model = scores.values > 0.25
    assert 40 <= shows_model.sum() <= 56
    found = select_particles(particles, 40, "frc", model=truth)
    assert scores.values[found.selected].min() > 0.25
    # Nobody chose those that are held out.
    assert not shows_model[found.held_out].all()
    left = np.setdiff1d(np.arange(len(particles)), found.rows)
    assert scores.values[found.selected].min() >= scores.values[left].max()


def test_scores_are_ring_correlations(particles: ParticleSet, truth: Model) -> None:
    scores = score_images(particles, truth)
    assert scores.rings == (4, 8, 12)
    assert scores.contrast == "white"
    known = HypothesisScorer.read(particles, truth, 6.0).correlations(Hypothesis())
    # It draws atoms that are close to each other as one.
    np.testing.assert_allclose(scores.values, known[:, [3, 7, 11]].mean(1), atol=0.02)


def test_dark_images_are_scored_alike(particles: ParticleSet, truth: Model) -> None:
    dark = replace(particles, contrast=-particles.contrast)
    found = score_images(dark, truth)
    assert found.contrast == "dark"
    np.testing.assert_allclose(found.values, score_images(particles, truth).values, atol=1e-6)


def test_bins_are_even_and_know_only_the_axis_of_view() -> None:
    rotations = Rotation.random(20_000, random_state=0).as_matrix()
    bins = bins_of_views(rotations, 40)
    counts = np.bincount(bins, minlength=40)
    # 500 are expected in each, with a standard deviation of 22.
    assert len(counts) == 40
    assert 400 < counts.min() < counts.max() < 600
    in_plane = Rotation.from_euler("z", 77.0, degrees=True).as_matrix()
    opposite = np.diag([1.0, -1.0, -1.0])
    np.testing.assert_array_equal(bins_of_views(in_plane @ rotations, 40), bins)
    np.testing.assert_array_equal(bins_of_views(opposite @ rotations, 40), bins)
    axes = rotations[:, 2] * np.sign(rotations[:, 2, 2:])
    closest = min((axes[bins == one] @ axes[bins == one].mean(0)).min() for one in range(40))
    assert closest > np.cos(np.deg2rad(30))  # the cap of a fortieth of the half-sphere has a radius of 13°


def test_small_bins_are_used_up_and_others_share_the_rest() -> None:
    bins = np.repeat([0, 1, 2], [3, 50, 500])
    drawn = draw_evenly(bins, 43, np.random.default_rng(0))
    assert len(set(drawn.tolist())) == 43
    np.testing.assert_array_equal(np.bincount(bins[drawn]), [3, 20, 20])


def test_views_of_a_one_sided_set_become_even(particles: ParticleSet) -> None:
    random = np.random.default_rng(2)
    rotations = prefer_poles(draw_rotations(4000, 0.0, random), 12.0, 0.9, random)
    many = of_views(particles, rotations)
    even, drawn = (select_particles(many, 400, by) for by in ("views", "random"))
    everywhere = draw_rotations(380, 0.0, random)
    by_views, at_random, best = (
        compensation_factor(shell_sampling(some[:, 2], radius=20))
        for some in (rotations[even.selected], rotations[drawn.selected], everywhere)
    )
    assert at_random < 0.6 * best
    assert by_views > 0.9 * best
    statistics = even.statistics
    assert statistics["all"]["most"] > 20 * statistics["all"]["fewest"]
    # Ten are wanted of each bin; one that has fewer gives all.
    assert statistics["selected"]["most"] <= 12
    assert statistics["selected"]["fewest"] == statistics["all"]["fewest"]
    # Held out as the particles are, not evenly.
    from_poles = np.abs(rotations[even.held_out][:, 2, 2]) > np.cos(np.deg2rad(30))
    assert from_poles.mean() > 0.8


def test_a_selection_from_a_selection_keeps_apart_what_was(particles: ParticleSet, truth: Model) -> None:
    first = select_particles(particles, 60, "frc", 0, truth).apply_to(particles)
    assert first.held_out is not None
    second = select_particles(first, 40, "random", 5)
    assert second.scored_rings == (4, 8, 12)
    assert first.held_out[second.held_out].all()
    assert not first.held_out[second.selected].any()
    with pytest.raises(InputError, match=r"12 are held out and 33 are left.* at most 45"):
        select_particles(replace(first, held_out=first.held_out | (np.arange(60) < 20)), 60, "random")


def test_without_a_ring_to_set_apart(particles: ParticleSet, truth: Model) -> None:
    coarse = tuple(replace(group, pixel_size_angstrom=0.5) for group in particles.optics)
    with pytest.raises(InputError, match="fewer than 4 Fourier rings"):
        select_particles(replace(particles, optics=coarse), 40, "frc", model=truth, device=torch.device("cpu"))
