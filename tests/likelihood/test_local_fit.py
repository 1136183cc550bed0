"""Stretches that are not the density at their place: bent, out of register, or right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from maps_of_models import imaged, whole_model
from scipy.spatial.transform import Rotation

from cocofold.likelihood.explained_signal import ExplainedSignal
from cocofold.likelihood.set_aside import find_local_fit
from cocofold.structure.model import Model
from cocofold.structure.topology import Backbone, residue_frames


@pytest.fixture(scope="module")
def whole() -> Model:
    return whole_model()


@pytest.fixture(scope="module")
def signal(whole: Model) -> ExplainedSignal:
    return ExplainedSignal(imaged(whole, noise=0.01))


def out_of_register(model: Model, first: int, last: int, by: int) -> Model:
    """Residues from first to last take the places of those ``by`` farther on."""
    backbone = Backbone.of(model)
    axes, origins = residue_frames(model.positions[backbone.atoms]), model.positions[backbone.atoms[:, 1]]
    positions = model.positions.copy()
    for row in range(first, last):
        atoms = backbone.frame_of_atom == row
        local = (model.positions[atoms] - origins[row]) @ axes[row]
        positions[atoms] = local @ axes[row + by].T + origins[row + by]
    return model.moved_to(positions)


def test_the_truth_has_none(whole: Model, signal: ExplainedSignal) -> None:
    found = find_local_fit(signal, whole)
    assert found.unexplained.shape == (len(whole.residues),)
    assert found.unexplained.max() < 0.1
    assert 0 < found.error < 0.1
    assert not found.wrong.any()


def test_small_errors_everywhere_are_none(whole: Model, signal: ExplainedSignal) -> None:
    shifts = np.random.default_rng(0).normal(0, 0.3, (len(whole.residues), 3))
    moved = whole.moved_to(whole.positions + shifts[whole.residue_of_atom])
    assert not find_local_fit(signal, moved).wrong.any()


@pytest.mark.parametrize("first", [60, 166])
def test_a_stretch_out_of_register_is_named(whole: Model, signal: ExplainedSignal, first: int) -> None:
    found = find_local_fit(signal, out_of_register(whole, first, first + 17, 4)).wrong
    assert found[first : first + 17].mean() > 0.6
    # The rest is what it was, but for residues beside it, whose places are taken.
    rest = np.r_[0 : first - 8, first + 30 : len(whole.residues)]
    assert not found[rest].any()


def test_a_bent_loop_is_named(whole: Model, signal: ExplainedSignal) -> None:
    rows = np.arange(90, 102)
    atoms = np.isin(whole.residue_of_atom, rows)
    moved = whole.positions.copy()
    hinge = moved[whole.atoms_named("CA")[rows[0]]]
    moved[atoms] = Rotation.from_rotvec([0.6, 0, 0]).apply(moved[atoms] - hinge) + hinge
    found = find_local_fit(signal, whole.moved_to(moved)).wrong
    assert found[rows].mean() > 0.5
    # The loop lies in the density of residues nearby, of which some are named with it.
    assert np.delete(found, np.arange(80, 112)).mean() < 0.1


def test_scale_and_noise_alone_say_nothing(whole: Model) -> None:
    for noise in (0.4, 30.0):
        assert not find_local_fit(ExplainedSignal(imaged(whole, noise=noise)), whole).wrong.any()
    helix = np.isin(whole.residue_of_atom, np.arange(60, 77))
    strong = whole.atomic_numbers.copy()
    strong[helix] *= 2
    signal = ExplainedSignal(imaged(replace(whole, atomic_numbers=strong), noise=0.01))
    assert not find_local_fit(signal, whole).wrong[60:77].any()
