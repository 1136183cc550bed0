"""Superposition against gemmi's, and invariants."""

import gemmi
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cocofold.structure.geometry import (
    find_superposition,
    pair_moments,
    rmsd,
    squared_distance_weights,
    superpose_from_moments,
    superpose_onto,
)


@pytest.fixture
def points() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(40, 3)) * [20, 12, 5] + [100, 150, -30]


def test_a_rigid_motion_is_found(points: np.ndarray) -> None:
    turn, shift = Rotation.from_rotvec([0.4, -2.0, 1.1]).as_matrix(), np.array([6.0, -4.5, 300.0])
    rotation, translation = find_superposition(points, points @ turn.T + shift)
    np.testing.assert_allclose(rotation, turn, atol=1e-12)
    np.testing.assert_allclose(translation, shift, atol=1e-9)


def test_superposition_is_that_of_gemmi(points: np.ndarray) -> None:
    other = points[::-1] + np.random.default_rng(2).normal(size=points.shape) * 3
    theirs = gemmi.superpose_positions([gemmi.Position(*p) for p in other], [gemmi.Position(*p) for p in points])
    assert rmsd(superpose_onto(points, other), other) == pytest.approx(theirs.rmsd, rel=1e-6)


def test_a_mirror_image_is_not_reflected_back(points: np.ndarray) -> None:
    rotation, _ = find_superposition(points * [1, 1, -1], points)
    assert np.linalg.det(rotation) == pytest.approx(1)
    assert rmsd(superpose_onto(points * [1, 1, -1], points), points) > 3


def test_moments_give_squared_distances_of_any_subset(points: np.ndarray) -> None:
    other = points[::-1] * 0.9
    products = pair_moments(points, other)
    subset = products[5:20].sum(0)
    rotation, translation = superpose_from_moments(subset)
    weights = squared_distance_weights(rotation, translation)
    expected = ((points @ rotation.T + translation - other) ** 2).sum(1)
    np.testing.assert_allclose(products @ weights, expected, rtol=1e-7)
    np.testing.assert_allclose(rotation, find_superposition(points[5:20], other[5:20])[0], atol=1e-8)
