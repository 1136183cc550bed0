"""Point groups: that they are groups, and where their axes lie."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cocofold.structure.geometry import normalise_point_group, point_group_rotations
from cocofold.system.errors import InputError

ORDERS = {
    "C1": 1,
    "C3": 3,
    "c12": 12,
    "D1": 2,
    "D2": 4,
    "D7": 14,
    "T": 12,
    "O": 24,
    "I": 60,
    "I1": 60,
    "I3": 60,
    "I4": 60,
}


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_groups_are_closed_and_of_their_order(name: str, order: int) -> None:
    rotations = point_group_rotations(name)
    assert len(rotations) == order
    assert np.array_equal(rotations[0], np.eye(3))
    np.testing.assert_allclose(np.linalg.det(rotations), 1)
    products = np.einsum("aij,bjk->abik", rotations, rotations).reshape(-1, 3, 3)
    nearest = np.abs(products[:, None] - rotations[None]).max((2, 3)).min(1)
    assert nearest.max() < 1e-9


@pytest.mark.parametrize(("name", "theirs"), [("C5", "C5"), ("D3", "D3"), ("O", "O")])
def test_groups_are_scipys(name: str, theirs: str) -> None:
    """Of those whose axes scipy lays alike."""
    group = Rotation.create_group(theirs).as_matrix()
    assert all(np.abs(group - rotation).max((1, 2)).min() < 1e-9 for rotation in point_group_rotations(name))


@pytest.mark.parametrize(
    ("name", "fold", "axis"),
    [
        ("D5", 2, (1, 0, 0)),
        ("T", 3, (0, 0, 1)),
        ("T", 2, (0, 0.816496, 0.577350)),
        ("O", 4, (1, 0, 0)),
        ("I", 5, (0.525731114, 0, 0.850650807)),
        ("I", 3, (0, 0.356822076, 0.934172364)),
        ("I1", 5, (0.850650807, 0, -0.525731114)),
        ("I1", 3, (0.934172364, 0.356822076, 0)),
        ("I3", 5, (0, 0, 1)),
        ("I3", 3, (-0.491123477, 0.356822076, 0.794654472)),
        ("I4", 5, (0.894427191, 0, 0.447213595)),
        ("I4", 3, (0.491123477, 0.356822076, 0.794654472)),
    ],
)
def test_axes_are_relions(name: str, fold: int, axis: tuple[float, float, float]) -> None:
    """The axes that RELION's source names for each group."""
    turn = Rotation.from_rotvec(2 * np.pi / fold * np.array(axis) / np.linalg.norm(axis)).as_matrix()
    assert np.abs(point_group_rotations(name) - turn).max((1, 2)).min() < 1e-5


def test_names() -> None:
    assert [normalise_point_group(name) for name in (" c3", "i", "I2", "d10")] == ["C3", "I2", "I2", "D10"]
    for name in ("C0", "C61", "S4", "I5", "3", "", "C3v"):
        with pytest.raises(InputError, match="no point group that particles have; give C1 to C60"):
            normalise_point_group(name)
