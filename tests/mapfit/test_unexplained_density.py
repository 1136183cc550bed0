"""Density that no atom explains: its mass, its place, and what a model in another state says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cocofold.commands.demo import open_state
from cocofold.imaging.projection import render_density
from cocofold.likelihood.reconstruction import Reconstruction, reconstruct
from cocofold.mapfit import unexplained_density
from cocofold.mapfit.unexplained_density import UnexplainedDensity, find_unexplained_density
from cocofold.particles import read_particles
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model
from cocofold.system.errors import InputError

BOX, PIXEL = 32, 4.0
HEIGHT, WIDTH = 0.02, 1.5


@pytest.fixture(scope="module")
def whole() -> Model:
    model = read_model(open_state())
    return model.moved_to(model.positions - model.positions.mean(0) + BOX // 2 * PIXEL)


def is_lid(model: Model) -> np.ndarray:
    """Residues of adenylate kinase's LID domain."""
    return np.array([118 <= key.number <= 160 for key in model.residues])


def imaged(model: Model, noise: float = 0.05) -> Reconstruction:
    """Maps of a model with white noise, as many images had made them, of which none lacks a view."""
    masses = model.atomic_numbers * HEIGHT
    clean = render_density(model.positions, masses, np.full(len(model), WIDTH), BOX, PIXEL)
    clean *= masses.sum() / clean.sum()
    halves = [clean + np.random.default_rng(half).normal(0, noise, clean.shape) for half in (1, 2)]
    everywhere = np.ones((BOX, BOX, BOX // 2 + 1), np.float32)
    maps = np.mean(halves, axis=0), (halves[0], halves[1])
    return Reconstruction(*maps, everywhere, everywhere, PIXEL, (200, 100, 100))


def explained_by(model: Model, seen: Reconstruction) -> UnexplainedDensity:
    return find_unexplained_density(seen, model.positions, model.atomic_numbers)


@pytest.fixture(autouse=True)
def few_refits(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the tests are quick; the error of two is none to rely on."""
    monkeypatch.setattr(unexplained_density, "_REFITS", 2)


@pytest.mark.slow
def test_a_missing_domain_is_found_and_weighed(whole: Model) -> None:
    lid = is_lid(whole)
    found = explained_by(whole.only(~lid), imaged(whole))
    atoms = lid[whole.residue_of_atom]
    share = whole.atomic_numbers[atoms].sum() / whole.atomic_numbers.sum()
    assert found.missing_mass == pytest.approx(share, abs=0.03)
    assert 0 < found.error < 0.05
    piece = found.pieces[0]
    assert piece.mass_share == pytest.approx(share, abs=0.03)
    centre = np.average(whole.positions[atoms], axis=0, weights=whole.atomic_numbers[atoms])
    assert np.linalg.norm(centre - piece.centre_angstrom) < 3
    # The difference map is dense there and empty where the model is.
    place = tuple(np.rint(centre[::-1] / PIXEL).astype(int))
    other = tuple(np.rint(whole.positions[~atoms].mean(0)[::-1] / PIXEL).astype(int))
    assert found.map[place] > 5 * abs(found.map[other])


@pytest.mark.slow
def test_the_whole_model_leaves_nothing(whole: Model) -> None:
    found = explained_by(whole, imaged(whole))
    assert abs(found.missing_mass) < max(0.01, 2 * found.error)
    assert found.pieces == ()
    assert found.away_from_atoms < 0.01


@pytest.mark.slow
def test_surplus_atoms_count_against_the_model(whole: Model) -> None:
    found = explained_by(whole, imaged(whole.only(~is_lid(whole))))
    lid = whole.atomic_numbers[is_lid(whole)[whole.residue_of_atom]].sum()
    surplus = lid / (whole.atomic_numbers.sum() - lid)
    assert found.missing_mass == pytest.approx(-surplus, abs=0.04)
    assert found.without_density == pytest.approx(surplus, abs=0.04)


@pytest.mark.slow
@pytest.mark.independent
def test_a_displaced_domain_is_not_missing(shared_data: Path) -> None:
    """In RELION's images of the open state: the closed model, and the open one without its LID."""
    folder = shared_data / "adk"
    seen = reconstruct(read_particles(folder / "small300" / "particles.star"))
    truth, closed = read_model(folder / "truth_open.cif"), read_model(folder / "start_closed.cif")
    lacking, displaced = explained_by(truth.only(~is_lid(truth)), seen), explained_by(closed, seen)
    assert lacking.missing_mass == pytest.approx(0.208, abs=0.05)
    assert displaced.away_from_atoms > 0.15
    assert displaced.without_density > 0.15
    assert displaced.missing_mass < 0.6 * lacking.missing_mass


@pytest.mark.slow
def test_dark_protein_is_refused(whole: Model) -> None:
    seen = imaged(whole)
    dark = replace(seen, map=-seen.map, half_maps=(-seen.half_maps[0], -seen.half_maps[1]))
    with pytest.raises(InputError, match="no density in the reconstruction"):
        explained_by(whole, dark)
