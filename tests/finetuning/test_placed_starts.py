"""Runs whose start is placed first: by a placement, in a map, in the other hand, as one of several copies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from running import command, log, refused, succeed
from scipy.spatial.transform import Rotation

from cocofold.assessment.comparison import assess
from cocofold.imaging.projection import REFERENCE_WIDTH_ANGSTROM, render_density
from cocofold.mapfit.density_map import DensityMap
from cocofold.mapfit.map_files import PlacedBody, Placement
from cocofold.particles import read_particles
from cocofold.particles.star_write import write_star
from cocofold.structure.geometry import copy_positions, point_group_rotations
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_gaussians, read_model

pytestmark = pytest.mark.slow

TURN, SHIFT = Rotation.from_rotvec([0.3, -1.2, 0.8]).as_matrix(), np.array([12.0, -30.0, 4.5])
SHORTER = ("--effort", 0.02, "--cycles", 2)


def _run(*arguments: object) -> None:
    succeed(command(*arguments))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def moved(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The start, somewhere else."""
    return _elsewhere(start, tmp_path_factory.mktemp("moved") / "moved.cif")


def _elsewhere(model: Path, path: Path) -> Path:
    read = read_model(model)
    write_model(path, read.moved_to((read.positions - SHIFT) @ TURN))
    return path


@pytest.fixture(scope="module")
def truth_map(truth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Density of what was imaged, with noise."""
    model = read_model(truth)
    widths = np.full(len(model), REFERENCE_WIDTH_ANGSTROM)
    values = render_density(model.positions, model.atomic_numbers.astype(float), widths, 64, 2.5)
    noise = np.random.default_rng(0).normal(scale=values.std(), size=values.shape)
    path = tmp_path_factory.mktemp("map") / "map.mrc"
    DensityMap((values + noise).astype(np.float32), 2.5).write(path)
    return path


def test_a_placement_puts_the_model_where_it_says(particles: Path, moved: Path, start: Path, tmp_path: Path) -> None:
    Placement("as-is", {}, (PlacedBody("A", TURN, SHIFT, 1.0),)).write(tmp_path / "placement.json")
    _run(particles, moved, tmp_path / "placed", "--placement", tmp_path / "placement.json", *SHORTER)
    _run(particles, start, tmp_path / "there", *SHORTER)
    first, second = (read_model(tmp_path / name / "models" / "cycle_00.cif") for name in ("placed", "there"))
    assert np.abs(first.positions - second.positions).max() < 2e-3
    scores = [json.loads((tmp_path / name / "metrics.json").read_text())["frc_work"] for name in ("placed", "there")]
    assert scores[0] == pytest.approx(scores[1], abs=2e-3)


def test_a_model_in_the_wrong_hand_is_placed_and_the_poses_follow(
    particles: Path, truth: Path, truth_map: Path, tmp_path: Path
) -> None:
    """Particles and map of the other hand: model, map and poses of the run are those of the right one."""
    moved = _elsewhere(truth, tmp_path / "moved.cif")
    given = read_particles(particles)
    write_star(tmp_path / "wrong.star", given.mirrored())
    wrong = DensityMap(*_read(truth_map)).mirrored()
    wrong.write(tmp_path / "wrong.mrc")
    out = tmp_path / "run"
    arguments = ("--map", tmp_path / "wrong.mrc", "--map-resolution", 10)
    _run(tmp_path / "wrong.star", moved, out, *arguments)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["hand"] == "mirrored"
    assert metrics["frc_heldout"] > 0.3
    assert metrics["seconds"] > metrics["placing_seconds"] > 0
    assert "poses are mirrored along z" in log(out)
    written = read_particles(out / "mirrored.star")
    np.testing.assert_allclose(written.rotations, given.rotations, atol=1e-6)
    assert assess(read_model(out / "model.cif"), read_model(truth)).ca_rmsd_in_place < 1.0
    # Its own answer says how it is placed, so that it may start another run on the same particles.
    again = tmp_path / "again"
    _run(tmp_path / "wrong.star", out / "model.cif", again, *SHORTER)
    assert json.loads((again / "metrics.json").read_text())["hand"] == "mirrored"
    message = refused(command(tmp_path / "wrong.star", out / "model.cif", tmp_path / "no", *arguments))
    assert "says that it is placed in a map already; leave --map out" in message
    # Whoever resumes finds the placement.
    (out / "metrics.json").unlink()
    _run(tmp_path / "wrong.star", moved, out, *arguments, "--resume")
    assert log(out).count("placing the model in") == 1


def _read(path: Path) -> tuple[np.ndarray, float]:
    from cocofold.mapfit.density_map import read_map

    density = read_map(path)
    return density.values, density.pixel_size_angstrom


def test_copies_move_alike(particles: Path, start: Path, tmp_path: Path) -> None:
    model = read_model(start)
    centre = np.full(3, 80.0)
    part = model.only(np.arange(len(model.residues)) < 60)
    beside = part.moved_to(part.positions - part.positions.mean(0) + centre + [22.0, 0, 0])
    write_model(tmp_path / "subunit.cif", beside)
    out = tmp_path / "run"
    _run(particles, tmp_path / "subunit.cif", out, "--symmetry", "c3", "--heldout", 0, *SHORTER)
    metrics = json.loads((out / "metrics.json").read_text())
    # Of one molecule are the images, to which three copies of a part of it do not belong.
    assert metrics["verdict"] == "does not belong"
    np.testing.assert_allclose(read_model(out / "subunit.cif").positions, beside.positions, atol=3e-3)
    moved = read_model(out / "candidate.cif").positions
    first = moved[: len(beside)]
    assert np.abs(first - beside.positions).max() > 0.01
    np.testing.assert_allclose(moved, copy_positions(first, point_group_rotations("C3"), centre), atol=3e-3)
    assert metrics["symmetry"] == "C3"
    amplitudes, widths = read_gaussians(out / "candidate.cif", len(moved))
    assert np.abs(amplitudes - np.tile(beside.atomic_numbers, 3)).max() > 0.01
    for learned in (amplitudes, widths):
        np.testing.assert_array_equal(learned, np.tile(learned[: len(beside)], 3))
    assert "C3: 3 copies share the parameters of one" in log(out)
    message = refused(command(particles, out / "model.cif", tmp_path / "no", "--symmetry", "C3"))
    assert "holds all copies of its subunit already (C3)" in message
    write_model(tmp_path / "middle.cif", part.moved_to(part.positions - part.positions.mean(0) + centre))
    message = refused(command(particles, tmp_path / "middle.cif", tmp_path / "no", "--symmetry", "C3"))
    assert "of the subunit's CA atoms lie within 3 Å of a copy's" in message
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--map", "m.mrc", "--placement", "p.json"), "--map and --placement: one of them places the model"),
        (("--bodies", "A"), "--bodies: is about a map; add --map FILE"),
        (("--hand", "mirrored"), "--hand: is about a map; add --map FILE"),
        (("--symmetry", "auto"), "--symmetry auto: is about a map"),
        (("--symmetry", "X9"), "--symmetry X9: no point group"),
        (("--placement", "none.json"), "placement none.json: no such file"),
        (("--map", "none.mrc"), "map none.mrc: no such file"),
        (("--map", "none.mrc", "--hand", "left"), "--hand left: give"),
    ],
)
def test_what_cannot_be_placed_is_refused(
    particles: Path, start: Path, tmp_path: Path, more: tuple[str, ...], said: str
) -> None:
    assert said in refused(command(particles, start, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()
