"""The parts of the search: rotations, grids, templates, scores, refinement."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cocofold.mapfit.bodies import molecule_of
from cocofold.mapfit.density_map import DensityMap, MapGrid, MapTransform
from cocofold.mapfit.fft_search import even_rotations, search_exhaustively
from cocofold.mapfit.rigid_refinement import (
    RigidPoses,
    Template,
    angles_between,
    correlations_at_poses,
    make_template,
    refine_poses,
)
from cocofold.mapfit.target_map import TargetMap
from cocofold.structure.model import Model

_CPU = torch.device("cpu")


def _one(rotation: np.ndarray, centre: np.ndarray) -> RigidPoses:
    return RigidPoses(rotation[None], np.asarray(centre, dtype=float)[None], np.zeros(1))


@pytest.mark.parametrize("step_deg", [12, 20, 35])
def test_rotations_are_even(step_deg: float) -> None:
    turns = even_rotations(np.radians(step_deg))
    assert np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3))
    nearest = angles_between(Rotation.random(2000, random_state=0).as_matrix(), turns).min(1)
    # The hole in the middle of a cube is 0.87 sides away from its corners, the mean distance is 0.48.
    assert nearest.max() < 0.9 * step_deg
    assert nearest.mean() == pytest.approx(0.48 * step_deg, rel=0.1)
    itself = angles_between(turns[:200], turns)
    assert np.sort(itself, axis=1)[:, 1].min() > 0.5 * step_deg


def test_angles_between_rotations() -> None:
    one, other = (Rotation.random(5, random_state=seed) for seed in (1, 2))
    expected = [[np.degrees((a * b.inv()).magnitude()) for b in other] for a in one]
    assert np.allclose(angles_between(one.as_matrix(), other.as_matrix()), expected)


def test_a_grid_gives_the_low_passed_map_at_any_position() -> None:
    shape, pixel_size, rng = (20, 24, 28), 2.5, np.random.default_rng(0)
    z, y, x = np.meshgrid(*(np.arange(n) * pixel_size for n in shape), indexing="ij")
    extent = np.array(shape[::-1]) * pixel_size

    def coarse(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.cos(2 * np.pi * (3 * x / extent[0] - 2 * y / extent[1]) + 1) + np.sin(2 * np.pi * 4 * z / extent[2])

    fine = np.cos(2 * np.pi * 10 * x / extent[0])  # of 7 Å
    grid = MapTransform((coarse(x, y, z) + fine).astype(np.float32), pixel_size, _CPU).grid(10.0)
    points = rng.uniform(5, 40, (500, 3))
    expected = coarse(*points.T)
    for one in (
        grid,
        grid.cut(torch.zeros(3), torch.full((3,), 45.0)),
        grid.cut(torch.full((3,), 4.0), torch.full((3,), 99.0)),
    ):
        found = one.interpolate(torch.as_tensor(points, dtype=torch.float32)).numpy()
        # Between voxels, three to a resolution, linear interpolation is a little off.
        assert np.corrcoef(found, expected)[0, 1] > 0.995
        assert np.std(found) == pytest.approx(np.std(expected), rel=0.03)
    assert grid.interpolate(torch.tensor([[-30.0, 5, 5]])) == 0


def test_a_template_is_the_models_density(kinase: Model) -> None:
    atoms = molecule_of(kinase)
    centred = atoms.positions - atoms.centroid
    template = make_template(centred, atoms.atomic_numbers, 8.0, _CPU)
    assert float(template.values.mean()) == pytest.approx(0, abs=1e-4)
    assert float(template.values.square().mean()) == pytest.approx(1, abs=1e-4)
    some = np.random.default_rng(0).choice(len(template.points), 300, replace=False)
    width = 0.225 * 8.0
    squared = ((template.points.numpy()[some, None] - centred) ** 2).sum(-1)
    expected = (atoms.atomic_numbers * np.exp(-squared / (2 * width**2))).sum(1) / (2 * np.pi * width**2) ** 1.5
    # The low-pass takes the Gaussians' finest waves, a third of their strength at the resolution.
    assert np.corrcoef(template.density.numpy()[some], expected)[0, 1] > 0.96
    assert template.density.numpy()[some].mean() == pytest.approx(expected.mean(), rel=0.03)
    assert len(template.thinned(100).points) == 100


def _correlation_by_hand(grid: MapGrid, template: Template, motion: RigidPoses) -> float:
    points = motion.apply(template.points.numpy())[0]
    seen = grid.interpolate(torch.as_tensor(points, dtype=torch.float32)).numpy()
    return float(np.corrcoef(seen, template.values.numpy())[0, 1])


def test_correlations_and_their_maximum(kinase: Model, kinase_map: DensityMap) -> None:
    atoms, target = molecule_of(kinase), TargetMap(kinase_map, 8.0, _CPU)
    grid = target.grid(8.0)
    template = make_template(atoms.positions - atoms.centroid, atoms.atomic_numbers, 8.0, _CPU)
    turn = Rotation.from_rotvec(np.radians([5.0, -4, 6])).as_matrix()
    moved = _one(turn, atoms.centroid + np.array([1.5, -1, 1.2]))
    assert correlations_at_poses(grid, template, moved)[0] == pytest.approx(
        _correlation_by_hand(grid, template, moved), abs=1e-5
    )
    found = refine_poses(grid, template, moved, 40)
    assert found.scores[0] > correlations_at_poses(grid, template, moved)[0] + 0.1
    assert found.scores[0] == pytest.approx(_correlation_by_hand(grid, template, found), abs=1e-4)
    assert np.abs(found.apply(atoms.positions - atoms.centroid)[0] - atoms.positions).max() < 0.7
    assert np.linalg.det(found.rotations[0]) == pytest.approx(1)


def test_the_search_finds_places_in_both_hands(kinase: Model, kinase_map: DensityMap) -> None:
    atoms = molecule_of(kinase)
    template = make_template(atoms.positions - atoms.centroid, atoms.atomic_numbers, 12.0, _CPU)
    rotations = np.concatenate([np.eye(3)[None], even_rotations(np.radians(60))])
    everywhere = (torch.zeros(3), torch.full((3,), 144.0))
    here, other = search_exhaustively(
        TargetMap(kinase_map, 12.0, _CPU).grid(12.0), template, rotations, everywhere, both_hands=True
    )
    assert np.array_equal(here.rotations[0], np.eye(3))
    assert np.abs(here.centres[0] - atoms.centroid).max() < 3
    # Inverted through position 0: the voxels of a periodic box, read backwards.
    inverted_values = np.roll(kinase_map.values[::-1, ::-1, ::-1], 1, (0, 1, 2))
    inverted = TargetMap(DensityMap(inverted_values, 3.0), 12.0, _CPU).grid(12.0)
    again = search_exhaustively(inverted, template, rotations, everywhere, both_hands=True)
    for one, mate, sign in ((other, again[0], 1), (again[1], here, 1)):
        expected = {_place(mate, row) for row in range(5)}
        assert sum(_place(one, row, sign) in expected for row in range(5)) >= 4


def _place(motions: RigidPoses, row: int, sign: int = 1) -> tuple:
    """A motion in figures that can be compared, its centre in the periodic box."""
    centre = np.rint(sign * motions.centres[row] / 4.0).astype(int) % 36
    return (*np.rint(motions.rotations[row].ravel() * 50).astype(int), *centre)


def test_distinct_motions() -> None:
    turns = Rotation.from_rotvec(np.radians([[0, 0, 0], [0, 0, 5], [0, 0, 40], [0, 0, 1]])).as_matrix()
    centres = np.array([[0.0, 0, 0], [1, 0, 0], [0, 0, 0], [9, 0, 0]])
    found = RigidPoses(turns, centres, np.array([0.5, 0.9, 0.7, 0.1])).distinct(10, 10, 3)
    assert found.scores.tolist() == [0.9, 0.7, 0.1]
    assert len(found.distinct(2, 10, 3)) == 2
