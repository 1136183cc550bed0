"""Twin runs: which particles they fit, what their differences tell, and what the files of a run then say."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gemmi
import numpy as np
import pytest
import torch
from running import command, refused, succeed
from scipy.spatial.transform import Rotation

from cocofold.commands.demo import open_state
from cocofold.finetuning.holdout import half_of
from cocofold.finetuning.options import Options
from cocofold.finetuning.residue_findings import (
    ResidueErrors,
    error_features,
    fit_twins,
    read_ellipsoids,
    read_errors,
    twin_options,
    write_errors,
)
from cocofold.likelihood.residue_support import ViewCoverage
from cocofold.structure.geometry import residue_centres
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model
from cocofold.system.errors import InputError


@pytest.fixture(scope="module")
def model() -> Model:
    return read_model(open_state())


def test_halves_of_a_pair_share_no_image_and_leave_none_out() -> None:
    images = np.repeat(np.arange(40), 2)
    fitted = torch.arange(10, 80)
    one, other, third = (half_of(fitted, images, number, seed=3) for number in range(3))
    assert set(images[one]).isdisjoint(images[other])
    assert sorted([*one, *other]) == fitted.tolist()
    assert not np.array_equal(one, third)
    assert np.array_equal(one, half_of(fitted, images, 0, seed=3))
    assert not np.array_equal(one, half_of(fitted, images, 0, seed=4))


def test_too_few_particles_for_halves_are_refused() -> None:
    with pytest.raises(InputError, match="19 particles are too few"):
        half_of(torch.arange(19), np.arange(19), 0, seed=0)


def test_a_twin_is_fitted_as_the_whole_is_with_half_the_images_a_step() -> None:
    given = Options(particles="p.star", model="m.cif", map="v.mrc", hand="mirrored", twin=3, batch_size=15, effort=0.5)
    twin = twin_options(given, Path("start.cif"), 1, last_cycle=6, symmetry="C2", sets_aside=True)
    assert (twin.model, twin.map, twin.hand, twin.check, twin.symmetry) == ("start.cif", None, "auto", False, "C2")
    assert (twin.twin, twin.twin_number, twin.twin_cycle, twin.set_aside) == (None, 1, 6, "on")
    assert (twin.batch_size, twin.effort, twin.seed) == (8, 0.5, given.seed)
    # A teacher within a twin fits the same half, up to its own end.
    teacher = replace(twin, model=None, prediction="P").for_teacher(Path("placed.cif"), None)
    assert (teacher.twin_number, teacher.twin_cycle) == (1, None)


def test_no_twins_are_fitted_where_the_answer_is_the_start(tmp_path: Path) -> None:
    """Without held-out particles a network may lose the fold in all cycles; the start is then what is written."""
    options = Options(particles="p.star", model="m.cif", twin=2, heldout=0)
    folder, nothing = SimpleNamespace(path=tmp_path), SimpleNamespace(start=None)
    assert fit_twins(nothing, None, folder, options, {"best_cycle": 0}, lambda *_: {}) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("starts_at", "aside", "begins_at"), [("second_start", False, "models"), ("cycle_00", True, "twins")]
)
def test_twins_of_a_second_fit_are_fitted_as_that_was(
    tmp_path: Path, starts_at: str, aside: bool, begins_at: str
) -> None:
    """Parts that it left out of the fit have no weight in theirs either."""
    for name in ("models", "twins", "set_aside"):
        (tmp_path / name).mkdir()
    files = {"models": tmp_path / "models" / "second_start.cif", "twins": tmp_path / "twins" / "start.cif"}
    for path in files.values():
        path.touch()
    options = Options(particles="p.star", model="m.cif", twin=2)
    second = options.for_second_fit(tmp_path / "models" / f"{starts_at}.cif", aside)
    second.write(tmp_path / "set_aside" / "config.yaml")
    asked: list[tuple[Options, Path]] = []

    def inside(other: Options, run: Path) -> dict:
        asked.append((other, run))
        raise InterruptedError

    folder = SimpleNamespace(path=tmp_path, log=lambda line: None)
    prepared = SimpleNamespace(start=SimpleNamespace(symmetry=None))
    fit = {"verdict": "supported in part", "best_cycle": 3}
    with pytest.raises(InterruptedError):
        fit_twins(prepared, None, folder, options, fit, inside)  # type: ignore[arg-type]
    ((twin, run),) = asked
    assert (twin.model, twin.set_aside) == (str(files[begins_at]), "on" if aside else "off")
    assert run == tmp_path / "twins" / "twin_01"


def test_the_random_error_is_half_of_what_a_pair_lies_apart(model: Model) -> None:
    away = np.array([0.3, -0.4, 1.2])
    twins = [model.positions + away, model.positions - away]
    features = error_features(model, model, twins)
    assert features[:, 0] == pytest.approx(1.69)
    assert features[:, 2] == pytest.approx(0)
    # One twin without a partner lies as far from the whole as the whole from ever more particles.
    assert error_features(model, model, [*twins, model.positions + 2 * away])[:, 0] == pytest.approx((1.69 + 6.76) / 2)


def test_bent_surroundings_and_few_neighbours_are_told(model: Model) -> None:
    bent = model.positions.copy()
    number = np.array([key.number for key in model.residues])[model.residue_of_atom]
    bent[(number >= 40) & (number <= 46)] += [0, 0, 3.0]
    features = error_features(model, model.moved_to(bent), [bent, bent])
    # At the ends of what moved the surroundings did not move along, and over its length the chain is bent.
    assert features[[39, 45], 2].min() > 5 * np.median(features[:, 2])
    assert features[39:46, 3].min() > 5 * np.median(features[:, 3])
    assert features[-1, 4] > features[:, 4].mean()


def test_parts_of_the_error_add_up() -> None:
    features = np.array([[0.25, 1, 0.5, 0, 0.1], [1.0, 1, 0, 0, 0]])
    errors = ResidueErrors.of(features, (1.0, 0.1, 0.2, 9.0, 0.5))
    assert errors.total_angstrom**2 == pytest.approx([0.25 + 0.1 + 0.1 + 0.05, 1.1])
    assert errors.total_angstrom**2 == pytest.approx(errors.random_angstrom**2 + errors.systematic_angstrom**2)


@pytest.mark.parametrize("with_plddt", [False, True])
def test_a_model_says_its_errors(model: Model, tmp_path: Path, with_plddt: bool) -> None:
    count = len(model.residues)
    plddt = np.linspace(40, 95, count) if with_plddt else None
    write_model(tmp_path / "model.cif", model, plddt=plddt)
    total = np.linspace(0.3, 2, count)
    write_errors(tmp_path, "model.cif", model, ResidueErrors(total, total / 2, total / 3))
    found = read_errors(tmp_path / "model.cif")
    key = model.residues[7]
    assert found[key.chain, key.number, key.insertion_code] == pytest.approx(
        (total[7], total[7] / 2, total[7] / 3), abs=6e-4
    )
    block = gemmi.cif.read(str(tmp_path / "model.cif")).sole_block()
    metrics = {row[0]: row.str(1) for row in block.find("_ma_qa_metric.", ["id", "name"])}
    local = list(block.find("_ma_qa_metric_local.", ["ordinal_id", "metric_id"]))
    assert [int(row[0]) for row in local] == list(range(1, len(local) + 1))
    by_metric = [metrics[row[1]] for row in local]
    assert by_metric.count("position error") == count
    assert by_metric.count("pLDDT") == (count if with_plddt else 0)
    assert np.allclose(read_model(tmp_path / "model.cif").positions, model.positions, atol=1e-3)
    attribute = (tmp_path / "model_errors.defattr").read_text().splitlines()
    assert attribute[:3] == ["attribute: position_error", "match mode: 1-to-1", "recipient: residues"]
    assert attribute[3 + 7] == f"\t#1/{key.chain}:{key.number}\t{total[7]:.3f}"
    assert 'open "model_errors.defattr" models #1' in (tmp_path / "model_errors.cxc").read_text()


def test_a_model_says_its_ellipsoids(model: Model, tmp_path: Path) -> None:
    """Errors three times as large along an axis as across it, in the model's frame."""
    axes = np.array([[2, -1, 2], [2, 2, -1], [-1, 2, 2]]) / 3
    total = np.linspace(0.3, 2, len(model.residues))
    views = ViewCoverage(np.array([3.0, 1.125, 0.8]), axes)
    write_model(tmp_path / "model.cif", model)
    write_errors(tmp_path, "model.cif", model, ResidueErrors(total, total / 2, total / 3, views))
    key = model.residues[7]
    found = np.array(read_ellipsoids(tmp_path / "model.cif")[key.chain, key.number, key.insertion_code])
    covariance = np.zeros((3, 3))
    covariance[np.triu_indices(3)] = found[:6]
    covariance += np.triu(covariance, 1).T
    lengths = np.sqrt(np.einsum("ki,ij,kj->k", axes, covariance, axes))
    assert found[6:] == pytest.approx(lengths, abs=1e-3)
    assert lengths == pytest.approx(total[7] / np.sqrt(3) * np.array([3, 1.125, 1]), rel=0.01)
    text = (tmp_path / "model.cif").read_text()
    assert "_atom_site_anisotrop" not in text
    # ChimeraX draws a unit sphere that is scaled, turned and moved, in this order.
    lines = (tmp_path / "model_ellipsoids.bild").read_text().splitlines()[1:]
    assert len(lines) == 7 * len(model.residues)
    centre, turn, scale = (np.array(line.split()[1:], dtype=float) for line in lines[7 * 7 : 7 * 7 + 3])
    assert centre == pytest.approx(residue_centres(model, model.positions)[7], abs=1e-3)
    matrix = Rotation.from_rotvec(turn[0] * turn[1:], degrees=True).as_matrix()
    assert (matrix * scale**2) @ matrix.T == pytest.approx(4 * covariance, abs=5e-3)
    assert 'open "model_ellipsoids.bild"' in (tmp_path / "model_errors.cxc").read_text()


def test_even_views_give_no_ellipsoids(model: Model, tmp_path: Path) -> None:
    total, views = np.ones(len(model.residues)), ViewCoverage(np.array([1.2, 1.0, 0.9]), np.eye(3))
    errors = ResidueErrors(total, total / 2, total / 3, views)
    write_model(tmp_path / "model.cif", model)
    write_errors(tmp_path, "model.cif", model, errors)
    assert read_ellipsoids(tmp_path / "model.cif") == {}
    assert not (tmp_path / "model_ellipsoids.bild").exists()
    assert "bild" not in (tmp_path / "model_errors.cxc").read_text()
    assert errors.as_dict(model)["median_axes_angstrom"] is None


def test_a_model_without_errors_says_none(model: Model, tmp_path: Path) -> None:
    write_model(tmp_path / "model.cif", model)
    assert read_errors(tmp_path / "model.cif") == {}


@pytest.mark.slow
def test_twins_give_errors_and_a_resumed_run_the_same(
    particles: Path, start: Path, truth: Path, tmp_path: Path
) -> None:
    whole, again = tmp_path / "whole", tmp_path / "again"
    flags = ("--heldout", 0, "--twin", 2)
    succeed(command(particles, start, whole, *flags))
    metrics = json.loads((whole / "metrics.json").read_text())
    answer, origin = read_model(whole / "model.cif"), read_model(whole / "models" / "cycle_00.cif")
    errors = np.array([row[0] for row in read_errors(whole / "model.cif").values()])
    assert len(errors) == len(answer.residues)
    assert metrics["errors"]["median_angstrom"] == pytest.approx(float(np.median(errors)), abs=2e-3)
    assert metrics["changed"]["moved"][0]["frc_gain"] > 0
    twins = [read_model(whole / "twins" / f"twin_0{number}" / "model.cif") for number in (1, 2)]
    features = error_features(origin, answer, [twin.positions for twin in twins])
    assert ResidueErrors.of(features).total_angstrom == pytest.approx(errors, abs=0.02)
    # Twins were fitted to images, not merely started.
    for twin in twins:
        moved = residue_centres(twin, twin.positions) - residue_centres(origin, origin.positions)
        assert np.linalg.norm(moved, axis=1).mean() > 1
    shutil.copytree(whole, again)
    (again / "metrics.json").unlink()
    (again / "model.cif").unlink()
    shutil.rmtree(again / "twins" / "twin_02")
    succeed(command(particles, start, again, *flags, "--resume"))
    assert (again / "model.cif").read_bytes() == (whole / "model.cif").read_bytes()


def test_a_number_of_twins_that_cannot_be_is_refused(particles: Path, start: Path, tmp_path: Path) -> None:
    assert "--twin 1" in refused(command(particles, start, tmp_path / "run", "--twin", 1))
    assert "too few for halves" in refused(command(particles, start, tmp_path / "run", "--twin", 2, "--first", 12))
    assert not (tmp_path / "run").exists()
