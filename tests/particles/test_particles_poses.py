"""Orientations against the formula of RELION's source, written out, and by hand."""

import numpy as np
import pytest
import torch

from cocofold.imaging.fourier import RingPixels
from cocofold.imaging.projection import Poses, project
from cocofold.particles.poses import (
    matrices_from_cryosparc,
    matrices_from_relion,
    mirrored_matrices,
    relion_from_matrices,
)


def relion_formula(rot: float, tilt: float, psi: float) -> np.ndarray:
    a, b, g = np.radians([rot, tilt, psi])
    ca, sa, cb, sb, cg, sg = np.cos(a), np.sin(a), np.cos(b), np.sin(b), np.cos(g), np.sin(g)
    return np.array(
        [
            [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
            [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
            [sb * ca, sb * sa, cb],
        ]
    )


def test_matrices_follow_relion() -> None:
    angles = np.random.default_rng(1).uniform(-180, 180, size=(50, 3))
    expected = np.stack([relion_formula(*row) for row in angles])
    np.testing.assert_allclose(matrices_from_relion(*angles.T), expected, atol=1e-12)


def test_quarter_turns_by_hand() -> None:
    rot, tilt = matrices_from_relion(np.array([90.0, 0]), np.array([0.0, 90]), np.array([0.0, 0]))
    np.testing.assert_allclose(rot, [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(tilt, [[0, 0, -1], [0, 1, 0], [1, 0, 0]], atol=1e-12)


def test_cryosparc_vector_by_hand() -> None:
    # A turn by 90 degrees about z moves x to y; A is its inverse.
    (matrix,) = matrices_from_cryosparc(np.array([[0, 0, np.pi / 2]]))
    np.testing.assert_allclose(matrix, [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], atol=1e-12)


@pytest.mark.parametrize("tilt", [0.0, 1e-9, 1e-5, 37.0, 90.0, 180 - 1e-6, 180.0, -40.0, 250.0])
def test_angles_give_the_matrix_back_with_tilt_from_0_to_180(tilt: float) -> None:
    rot, psi = np.meshgrid(np.linspace(-180, 180, 13), np.linspace(-180, 180, 13))
    matrices = matrices_from_relion(rot.ravel(), np.full(rot.size, tilt), psi.ravel())
    angles = relion_from_matrices(matrices)
    assert ((angles[:, 1] >= 0) & (angles[:, 1] <= 180)).all()
    np.testing.assert_allclose(matrices_from_relion(*angles.T), matrices, atol=1e-12)


def test_angles_are_unchanged_where_they_are_unique() -> None:
    angles = np.array([[10, 20, 30], [-170, 95, -60]], dtype=float)
    np.testing.assert_allclose(relion_from_matrices(matrices_from_relion(*angles.T)), angles, atol=1e-10)


def test_mirrored_poses_are_those_of_mirrored_angles() -> None:
    """Along z: rot and psi half a turn further."""
    rot, tilt, psi = np.random.default_rng(2).uniform(-180, 180, size=(3, 50))
    expected = matrices_from_relion(rot + 180, tilt, psi + 180)
    np.testing.assert_allclose(mirrored_matrices(matrices_from_relion(rot, tilt, psi)), expected, atol=1e-12)


def test_a_mirrored_model_under_mirrored_poses_gives_the_same_images() -> None:
    positions = torch.as_tensor(np.random.default_rng(3).normal(80, 12, (60, 3)))
    mirrored = positions.clone()
    mirrored[:, 2] = 2 * 32 * 2.5 - positions[:, 2]
    rotations = matrices_from_relion(*np.random.default_rng(4).uniform(-180, 180, (3, 4)))
    origins = torch.tensor([[1.0, -3], [0, 0], [2, 5], [-4, 1]], dtype=torch.float64)
    rings, atoms = RingPixels.up_to(64, 20), (torch.full((60,), 7.0).double(), torch.full((60,), 0.7).double())
    images = [
        project(model, *atoms, Poses(torch.as_tensor(matrices), origins), rings, 2.5)
        for model, matrices in ((positions, rotations), (mirrored, mirrored_matrices(rotations)))
    ]
    torch.testing.assert_close(*images, rtol=1e-9, atol=1e-9)
    wrong = project(mirrored, *atoms, Poses(torch.as_tensor(rotations), origins), rings, 2.5)
    assert float((wrong - images[0]).norm()) > 0.1 * float(images[0].norm())
