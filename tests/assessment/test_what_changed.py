"""Bodies that moved between two models: which residues, about which axis, by how much, and over which hinges."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cocofold.assessment.what_changed import what_changed
from cocofold.commands.demo import closed_state, open_state
from cocofold.structure.geometry import ScrewMotion
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model

AXIS = np.array([1.0, 2.0, 2.0]) / 3


@pytest.fixture(scope="module")
def model() -> Model:
    return read_model(open_state())


def numbers(model: Model) -> np.ndarray:
    return np.array([key.number for key in model.residues])


def turned(model: Model, residues: np.ndarray, degrees: float, along: float, point: np.ndarray) -> Model:
    """A model some of whose residues are turned about an axis through a point and shifted along it."""
    rotation = Rotation.from_rotvec(np.radians(degrees) * AXIS).as_matrix()
    positions, atoms = model.positions.copy(), residues[model.residue_of_atom]
    positions[atoms] = (positions[atoms] - point) @ rotation.T + point + along * AXIS
    return model.moved_to(positions)


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_a_body_that_was_turned_is_found_with_its_motion(model: Model, noise: float) -> None:
    lid = (numbers(model) >= 118) & (numbers(model) <= 160)
    point = model.positions[lid[model.residue_of_atom]].mean(0) + 8 * np.array([2.0, -1.0, 0.0]) / np.sqrt(5)
    after = turned(model, lid, 35, 1.5, point)
    after = after.moved_to(after.positions + np.random.default_rng(0).normal(0, noise, after.positions.shape))
    changed = what_changed(model, after)
    assert len(changed.moved) == 1
    body = changed.moved[0]
    (stretch,) = body.stretches
    assert abs(stretch.first - 118) <= 3 * (noise > 0)
    assert abs(stretch.last - 160) <= 3 * (noise > 0)
    assert body.motion.angle_degrees == pytest.approx(35, abs=0.01 + 3 * noise)
    assert body.motion.along_axis_angstrom == pytest.approx(1.5, abs=0.01 + noise)
    assert body.motion.axis == pytest.approx(AXIS, abs=0.001 + 0.1 * noise)
    away = body.motion.point_angstrom - point
    assert np.linalg.norm(away - AXIS * (AXIS @ away)) < 0.01 + 2 * noise
    assert [hinge.first - 118 < 4 for hinge in body.hinges] == [True, False]
    assert changed.at_rest is not None
    assert changed.at_rest.motion.centre_shift_angstrom < 0.01 + 0.3 * noise


def test_the_motion_does_not_depend_on_where_the_first_model_lies(model: Model) -> None:
    lid = (numbers(model) >= 118) & (numbers(model) <= 160)
    after = turned(model, lid, 35, 1.5, model.positions.mean(0))
    elsewhere = Rotation.from_euler("zyz", [130, 70, 20], degrees=True).as_matrix()
    before = model.moved_to(model.positions @ elsewhere.T + [30.0, -40.0, 5.0])
    changed, other = what_changed(model, after), what_changed(before, after)
    assert other.moved[0].as_dict() == changed.moved[0].as_dict()
    assert other.at_rest is not None
    assert other.at_rest.motion.centre_shift_angstrom > 10


def test_bodies_that_rest_together_are_one_though_they_do_not_touch(model: Model) -> None:
    """The middle of three parts moves; the outer ones have no contact."""
    apart = turned(model, numbers(model) >= 118, 0, 90, np.zeros(3))
    core = (numbers(apart) >= 60) & (numbers(apart) < 118)
    changed = what_changed(apart, turned(apart, core, 30, 0, apart.positions.mean(0)))
    assert len(changed.moved) == 1
    assert {stretch.first for stretch in changed.moved[0].stretches} == {60}


def test_the_domains_of_adenylate_kinase() -> None:
    """LID 118-167 and NMP-bind 30-67 close over the CORE (Schulz, Müller & Noll, J. Mol. Biol. 213, 627, 1990)."""
    changed = what_changed(read_model(open_state()), read_model(closed_state()))
    found = [(body.stretches[0].first, body.stretches[-1].last, body.motion.angle_degrees) for body in changed.moved]
    lid, nmp = found[:2]
    assert 114 <= lid[0] <= 122
    assert 156 <= lid[1] <= 168
    assert 40 <= lid[2] <= 60
    assert 28 <= nmp[0] <= 36
    assert 57 <= nmp[1] <= 67
    assert 40 <= nmp[2] <= 60


def test_models_that_are_alike_have_nothing_to_tell(model: Model) -> None:
    noisy = model.moved_to(model.positions + np.random.default_rng(1).normal(0, 0.2, model.positions.shape))
    changed = what_changed(model, noisy)
    assert changed.moved == ()
    assert changed.flexible == ()
    assert "No part moved" in " ".join(changed.sentences())


def test_a_small_turn_has_no_axis() -> None:
    rotation = Rotation.from_rotvec([0, 0, np.radians(2)]).as_matrix()
    motion = ScrewMotion.of(rotation, np.array([1.0, 0, 0]), np.zeros(3))
    assert motion.axis is None
    assert motion.centre_shift_angstrom == pytest.approx(1)


@pytest.mark.slow
def test_assess_tells_what_changed(
    model: Model, tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    lid = (numbers(model) >= 118) & (numbers(model) <= 160)
    moved, found = tmp_path / "moved.cif", tmp_path / "figures.json"
    write_model(moved, turned(model, lid, 35, 1.5, model.positions.mean(0)))
    assert command("assess", "--model", moved, "--reference", open_state(), "--json", found) == 0
    assert "turns by 35°" in capsys.readouterr().out
    content = json.loads(found.read_text())["changed_from_reference"]
    assert content["moved"][0]["residues"] == ["A 118-160"]
    assert content["moved"][0]["angle_degrees"] == pytest.approx(35, abs=0.1)
