"""Superposition, torsions and axes against gemmi's and plain references, and invariants."""

import gemmi
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cocofold.structure.geometry import (
    axes_from_directions,
    find_superposition,
    pair_moments,
    rmsd,
    root_mean_square,
    squared_distance_weights,
    superpose_from_moments,
    superpose_onto,
    torsion_radians,
)


def kabsch(moving: np.ndarray, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kabsch's superposition by a singular value decomposition, written out."""
    centre_moving, centre_fixed = moving.mean(0), fixed.mean(0)
    left, _, right = np.linalg.svd((fixed - centre_fixed).T @ (moving - centre_moving))
    left[:, 2] *= np.sign(np.linalg.det(left @ right))
    return left @ right, centre_fixed - left @ right @ centre_moving


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


def test_superposition_is_kabschs_for_all_kinds_of_sets() -> None:
    """Noise, sets in a plane, mirror images and three points only, far from the origin as maps have them."""
    rng = np.random.default_rng(3)
    for kind in range(400):
        count = int(rng.integers(3, 50))
        moving = rng.normal(size=(count, 3)) * [20, 12, 0 if kind % 4 == 1 else 5]
        turn = Rotation.random(random_state=kind).as_matrix()
        fixed = (moving * [1, 1, -1 if kind % 4 == 2 else 1]) @ turn.T + rng.normal(size=(count, 3))
        moving, fixed = moving + np.array([100, 150, -30]), fixed + np.array([200, 180, 170])
        rotation, translation = find_superposition(moving, fixed)
        expected = kabsch(moving, fixed)
        assert np.linalg.det(rotation) == pytest.approx(1)
        np.testing.assert_allclose(moving @ rotation.T + translation, moving @ expected[0].T + expected[1], atol=1e-9)
        centred = moving - moving.mean(0), fixed - fixed.mean(0)
        by_moments, _ = superpose_from_moments(pair_moments(*centred).sum(0))
        np.testing.assert_allclose(centred[0] @ by_moments.T, centred[0] @ expected[0].T, atol=1e-9)


def test_many_sets_are_superposed_at_once(points: np.ndarray) -> None:
    centred = points - points.mean(0)
    sums = np.array([[pair_moments(centred[k : k + 9], centred[::-1][k : k + 9]).sum(0) for k in (0, 5, 20)]] * 2)
    rotation, translation = superpose_from_moments(sums)
    assert rotation.shape == (2, 3, 3, 3)
    assert translation.shape == (2, 3, 3)
    for column, row in enumerate((0, 5, 20)):
        expected = kabsch(centred[row : row + 9], centred[::-1][row : row + 9])
        np.testing.assert_allclose(rotation[1, column], expected[0], atol=1e-9)
        np.testing.assert_allclose(translation[1, column], expected[1], atol=1e-9)


def test_points_may_be_read_only_and_in_any_order_of_memory(points: np.ndarray) -> None:
    points.flags.writeable = False
    rotation, translation = find_superposition(points[::-1], np.asfortranarray(points)[::-1])
    np.testing.assert_allclose(rotation, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(translation, 0, atol=1e-9)


def test_torsions_are_those_of_gemmi() -> None:
    quadruples = np.random.default_rng(4).normal(size=(5, 40, 4, 3)) * 3
    expected = [
        [gemmi.calculate_dihedral(*(gemmi.Position(*point) for point in four)) for four in row] for row in quadruples
    ]
    np.testing.assert_allclose(torsion_radians(quadruples), expected, atol=1e-12)
    assert torsion_radians(np.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 1], [1, 0, 1]])) == 0
    assert np.isfinite(torsion_radians(np.ones((4, 3))))


def test_axes_are_those_of_a_gram_schmidt_by_hand() -> None:
    rng = np.random.default_rng(5)
    along, toward = rng.normal(size=(2, 30, 3)) * 4
    axes = axes_from_directions(along, toward)
    for row in range(30):
        x = along[row] / np.linalg.norm(along[row])
        y = toward[row] - (toward[row] @ x) * x
        y /= np.linalg.norm(y)
        np.testing.assert_allclose(axes[row], np.column_stack([x, y, np.cross(x, y)]), atol=1e-12)
        np.testing.assert_allclose(axes_from_directions(along[row], toward[row]), axes[row], atol=1e-15)


def test_root_mean_square_leaves_out_what_is_no_number() -> None:
    assert root_mean_square(np.array([3.0, np.nan, 4.0])) == pytest.approx(np.sqrt(12.5))
