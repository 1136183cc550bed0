"""Several states of one set of particles: told apart, fitted by themselves, written, gone on with, refused."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gemmi
import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
import torch
from running import PROGRAM, refused, succeed

from cocofold.assessment.comparison import assess
from cocofold.commands.demo import closed_state, open_state
from cocofold.finetuning import preparation
from cocofold.finetuning.options import Options
from cocofold.finetuning.preparation import choose_particles
from cocofold.finetuning.run_folder import RunFolder
from cocofold.finetuning.state_files import ParticleClasses, are_same, metrics_of_states, start_as_fitted
from cocofold.finetuning.states import _Fit, _States
from cocofold.imaging.fourier import ring_count
from cocofold.likelihood.image_likelihood import (
    Mixture,
    NoiseModel,
    RingSums,
    _smooth_motions,
    numbers_in_rings,
    pull_apart,
)
from cocofold.likelihood.observed_images import Observations
from cocofold.particles import read_particles
from cocofold.particles.star_write import write_star_subset
from cocofold.simulation.particle_simulation import simulate
from cocofold.simulation.simulation_settings import SimulationSettings
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model
from cocofold.system.errors import InputError

EACH = 60
OUTPUTS = ("model_1.cif", "model_2.cif", "reconstruction_1.mrc", "reconstruction_2.mrc", "particles.star")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """STAR of 60 particles of the open state, then 60 of the closed one."""
    folder = tmp_path_factory.mktemp("mixed")
    tables = []
    for name, state in (("open", open_state()), ("closed", closed_state())):
        simulate(
            SimulationSettings(model=str(state), box=48, pixel_size=3.4, count=EACH, snr=0.2, seed=len(name)),
            folder / name,
        )
        blocks = starfile.read(folder / name / "particles.star")
        blocks["particles"]["rlnImageName"] = blocks["particles"]["rlnImageName"].str.replace("@", f"@{name}/")
        tables.append(blocks)
    table = pd.concat([blocks["particles"] for blocks in tables])
    starfile.write({"optics": tables[0]["optics"], "particles": table}, folder / "particles.star")
    return folder / "particles.star"


def states_of(particles: Path, out: Path, *more: object) -> list[str]:
    arguments = ["--particles", particles, "--model", closed_state(), "--out", out, "--effort", 0.04, "--no-check"]
    return [*PROGRAM, "finetune", *map(str, [*arguments, *more])]


@pytest.fixture(scope="module")
def parted(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that starts from both states."""
    out = tmp_path_factory.mktemp("runs") / "parted"
    succeed(states_of(mixed, out, "--model", open_state(), "--junk", "auto"))
    return out


@pytest.mark.slow
def test_each_state_has_its_model_map_and_particles(parted: Path) -> None:
    metrics = json.loads((parted / "metrics.json").read_text())
    assert [one["model"] for one in metrics["states"]] == ["model_1.cif", "model_2.cif"]
    assert sum(one["share"] for one in metrics["states"]) == pytest.approx(1, abs=1e-3)
    for one in metrics["states"]:
        assert abs(one["share"] - 0.5) < 3 * one["share_error"] < 0.2
    assert all((parted / name).is_file() for name in OUTPUTS)
    assert (parted / "model.cif").read_bytes() == (parted / "model_1.cif").read_bytes()
    table = starfile.read(parted / "particles.star")["particles"]
    numbers = table["rlnClassNumber"].to_numpy()
    assert set(numbers[:EACH]) | set(numbers[EACH:]) <= {0, 1, 2}
    of_open, of_closed = (np.bincount(part, minlength=3)[1:].argmax() + 1 for part in (numbers[:EACH], numbers[EACH:]))
    assert {of_open, of_closed} == {1, 2}
    assert (numbers[:EACH] == of_open).mean() > 0.95
    assert (numbers[EACH:] == of_closed).mean() > 0.95
    assert (table["cocofoldStateProbability"] > 0.9).mean() > 0.9
    assert (table["cocofoldJunkProbability"] < 0.5).mean() > 0.95
    assert metrics["differences"][0]["ca_rmsd"] > 5
    assert any("°" in sentence for sentence in metrics["differences"][0]["sentences"])
    assert metrics["particles"] == 2 * EACH
    assert sum(metrics["certainty"]["particles"]) == (numbers > 0).sum()
    assert assess(read_model(parted / f"model_{of_open}.cif"), read_model(open_state())).ca_rmsd < 1.0
    assert assess(read_model(parted / f"model_{of_closed}.cif"), read_model(closed_state())).ca_rmsd < 1.0


@pytest.mark.slow
def test_the_report_shows_all_states(parted: Path) -> None:
    succeed([*PROGRAM, "report", str(parted)])
    page = (parted / "report.html").read_text()
    for number in (1, 2):
        assert f"view 3 of model_{number}.cif" in page
    assert "How sure particles are" in page
    assert "Particles beside projections" in page
    assert "particles could not be read" not in page


@pytest.mark.slow
def test_a_run_goes_on_bit_by_bit(mixed: Path, parted: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    shutil.copytree(parted, out)
    (out / "metrics.json").unlink()
    (out / "particles.star").unlink()
    second = out / "states" / "round_1_state_2"
    for name in ("metrics.json", "model.cif"):
        (second / name).unlink()
    succeed(states_of(mixed, out, "--model", open_state(), "--junk", "auto", "--resume"))
    for name in (*OUTPUTS, "model.cif"):
        assert _content(out / name) == _content(parted / name), name


def _content(path: Path) -> bytes:
    """Without the header of a map and the first line of a STAR, which say when they were written."""
    content = path.read_bytes()
    return content[1024:] if path.suffix == ".mrc" else content.partition(b"\n")[2]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--states", "0"), "--states 0: give a number from 1 to 9, or auto"),
        (("--states", "many"), "--states many: give a number from 1 to 9, or auto"),
        (("--states", "3"), "120 particles, and 3 states need 150"),
        (("--states", "2", "--first", "60"), "60 particles, and 2 states need 100"),
        (("--junk", "perhaps"), "--junk perhaps: give off or auto"),
    ],
)
def test_states_that_cannot_be(mixed: Path, tmp_path: Path, more: tuple[str, ...], message: str) -> None:
    assert message in refused(states_of(mixed, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


def test_nothing_is_left_of_states_whose_first_run_is_refused(mixed: Path, tmp_path: Path) -> None:
    model = read_model(closed_state())
    write_model(tmp_path / "far.cif", model.moved_to(model.positions + 500))
    asked = states_of(mixed, tmp_path / "out", "--model", tmp_path / "far.cif", "--junk", "auto")
    del asked[asked.index("--model") : asked.index("--model") + 2]
    assert "lie outside the particles' box" in refused(asked)
    assert not (tmp_path / "out").exists()


def test_several_starts_are_checked_and_have_all_copies(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parting by one copy of what the runs fit with all of them would say little."""
    checked: list[bool] = []
    monkeypatch.setattr(preparation, "check_before_run", lambda options, *_: checked.append(options.check))
    paths = [str(tmp_path / name) for name in ("closed.cif", "open.cif", "far.cif")]
    for path, source, away in zip(paths, (closed_state(), open_state(), open_state()), (40, 40, 500)):
        model = read_model(source)
        moved = model.moved_to(model.positions + np.array([away, 0, 0]))
        write_model(Path(path), moved, placed_as={"hand": "mirrored"})
    options = Options(str(mixed), model=paths[0], other_models=paths[1:2], symmetry="C2", device="cpu")
    particles = read_particles(mixed)
    with RunFolder(tmp_path / "out", options, False) as folder:
        given = particles, folder, lambda *_: {}
        first, second = (start_as_fitted(options, path, *given) for path in paths[:2])
        assert len(first) == len(second) == 2 * len(model)
        assert first.in_mirror_image
        assert not are_same(first, second)
        with pytest.raises(InputError, match="lie outside the particles' box"):
            start_as_fitted(replace(options, symmetry=None), paths[2], *given)
    assert checked == [True, False]


def test_starts_in_maps_of_two_hands_are_refused(mixed: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "a.cif", read_model(open_state()), placed_as={"hand": "mirrored"})
    said = refused(states_of(mixed, tmp_path / "out", "--model", tmp_path / "a.cif"))
    assert "placed in a map of the other hand" in said


def test_other_starts_are_known_by_what_they_hold(mixed: Path, tmp_path: Path) -> None:
    particles, other = read_particles(mixed), tmp_path / "open.cif"
    shutil.copy(open_state(), other)
    options = Options(str(mixed), model=str(closed_state()), other_models=[str(other)])
    with RunFolder(tmp_path / "out", options, False) as folder:
        folder.settle_inputs(particles)
    shutil.copy(other, tmp_path / "moved.cif")
    with RunFolder(tmp_path / "out", replace(options, other_models=[str(tmp_path / "moved.cif")]), True) as folder:
        folder.settle_inputs(particles)
    with (
        pytest.raises(InputError, match="other_models"),
        RunFolder(tmp_path / "out", replace(options, other_models=[]), True),
    ):
        pass
    shutil.copy(closed_state(), other)
    with (
        RunFolder(tmp_path / "out", options, True) as folder,
        pytest.raises(InputError, match=r"open\.cif: holds some"),
    ):
        folder.settle_inputs(particles)


def test_starts_of_other_molecules_are_refused(mixed: Path, tmp_path: Path) -> None:
    short = gemmi.read_structure(str(open_state()))
    del short[0][0][-5:]
    short.make_mmcif_document().write_file(str(tmp_path / "short.cif"))
    said = refused(states_of(mixed, tmp_path / "out", "--model", tmp_path / "short.cif"))
    assert "has 209 residues" in said
    assert "give starts with the same chains, numbers and atoms" in said


def test_an_option_given_once_more_is_another_start(mixed: Path) -> None:
    options = Options(particles=str(mixed), model="a.cif", other_models=["b.cif"])
    assert options.tells_particles_apart
    assert options.most_states == 2
    of_state = options.for_state(Path("some.star"), "b.cif", None, 1.0, False, True)
    assert (of_state.model, of_state.other_models, of_state.states) == ("b.cif", [], "1")
    assert (of_state.particles, of_state.effort, of_state.second_pass) == ("some.star", 1.0, False)
    assert not of_state.tells_particles_apart


def test_a_single_residue_has_no_states(mixed: Path, tmp_path: Path) -> None:
    structure = gemmi.read_structure(str(open_state()))
    while len(structure[0][0]) > 1:
        del structure[0][0][-1]
    structure.make_mmcif_document().write_file(str(tmp_path / "one.cif"))
    asked = states_of(mixed, tmp_path / "run", "--model", tmp_path / "one.cif", "--states", "2")
    del asked[asked.index("--model") : asked.index("--model") + 2]
    assert "1 residues have a backbone" in refused(asked)
    assert not (tmp_path / "run").exists()


def test_one_state_and_no_junk_is_a_plain_run(mixed: Path) -> None:
    assert not Options(particles=str(mixed), model="a.cif").tells_particles_apart


def test_classes_by_probability() -> None:
    chances = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.0, 0.9, 0.1]], dtype=torch.float64)
    noise = NoiseModel(torch.ones(2), torch.ones(2), torch.ones(2))
    found = Mixture(chances.mean(0), chances, noise)
    aside, kept = ParticleClasses.of(found, 2, True), ParticleClasses.of(found, 2, False)
    assert aside.number.tolist() == [1, 0, 2]
    assert kept.number.tolist() == [1, 2, 2]
    np.testing.assert_allclose(aside.probability, [7 / 9, 2 / 3, 1])
    np.testing.assert_allclose(aside.junk, [0.1, 0.7, 0.1])
    assert kept.junk.tolist() == [0, 0, 0]


def test_a_loop_that_moves_is_no_state() -> None:
    model = read_model(closed_state())
    places = model.positions.copy()
    loop = np.isin(model.residue_of_atom, np.arange(100, 115))
    places[loop] += 6
    assert are_same(model, model.moved_to(places))
    assert not are_same(model, read_model(open_state()))


def test_states_of_rna_and_of_models_that_lack_residues() -> None:
    rna = read_model(Path(__file__).parents[1] / "data" / "6zu5_5s.cif.gz")
    half = rna.residue_of_atom < len(rna.residues) // 2
    moved = rna.moved_to(rna.positions + 8 * half[:, None])
    assert are_same(rna, rna)
    assert not are_same(rna, moved)
    fields, of_body = _smooth_motions(rna, 6)
    assert (len(fields), of_body.shape) == (18, (6, 18))
    shown = read_model(closed_state())
    kept = np.arange(len(shown.residues)) < len(shown.residues) - 10
    assert are_same(shown, shown.only(kept))
    assert not are_same(read_model(open_state()), shown.only(kept))


@pytest.mark.slow
def test_single_images_pull_a_model_of_both_states_apart(mixed: Path) -> None:
    """From the mean of both, which no image shows."""
    first, second = read_model(open_state()), read_model(closed_state())
    mean = first.moved_to((first.positions + second.positions) / 2)
    particles = read_particles(mixed)
    with Observations(particles, ring_count(48, 3.4)) as observations:
        rings = observations.rings(ring_count(48, 3.4, 12.0))
        pair, ratio = pull_apart(mean, observations, torch.arange(2 * EACH), rings, numbers_in_rings(rings), 0)
        one_state = torch.arange(EACH)
        _, of_one = pull_apart(first, observations, one_state, rings, numbers_in_rings(rings), 0)
    assert ratio > 5
    assert of_one < ratio / 2
    away = (pair[0].positions - pair[1].positions).ravel()
    expected = (first.positions - second.positions).ravel()
    assert abs(away @ expected) > 0.3 * np.linalg.norm(away) * np.linalg.norm(expected)


def test_rows_are_those_of_images_that_are_kept(mixed: Path, tmp_path: Path) -> None:
    shutil.copytree(mixed.parent, tmp_path / "some")
    with mrcfile.open(next((tmp_path / "some" / "open").rglob("*.mrcs")), "r+") as stack:
        stack.data[[1, 5]] = 0.5
    star = tmp_path / "some" / "particles.star"
    every = read_particles(star)
    options = Options(str(star), model="m.cif", states="2", first=100, skip_bad_images=True)
    particles, rows = choose_particles(every, options)
    assert rows.tolist() == [row for row in range(100) if row not in (1, 5)]
    np.testing.assert_array_equal(particles.rotations, every.rotations[rows])
    write_star_subset(tmp_path / "some" / "again.star", particles, star, rows)
    np.testing.assert_array_equal(read_particles(tmp_path / "some" / "again.star").rotations, particles.rotations)


def test_the_first_run_is_gone_on_with_as_it_was_begun(mixed: Path, tmp_path: Path) -> None:
    """What it has placed meanwhile is for the runs after it; its own settings stay, and nobody asks for its errors."""
    asked: list[Options] = []

    def inside(own: Options, run: Path) -> dict:
        asked.append(own)
        (run / "placement").mkdir(parents=True, exist_ok=True)
        (run / "placement" / "placement.json").touch()
        return {}

    options = Options(str(mixed), model="m.cif", map="v.mrc", states="2", twin=2, device="cpu")
    particles = read_particles(mixed)
    with RunFolder(tmp_path / "out", options, False) as folder, contextlib.ExitStack() as at_end:
        (folder.path / "states").mkdir()
        states = _States(options, folder, particles, np.arange(len(particles)), inside, at_end)
        everything, first = np.ones(len(particles), bool), folder.path / "states" / "first"
        for name in (first, first, folder.path / "states" / "round_1_state_1"):
            states._run(name, everything, None, 1.0, first=name == first)
    begun, again, after = asked
    assert begun == again
    assert (begun.map, begun.placement, begun.twin) == ("v.mrc", None, None)
    assert (after.map, after.placement, after.twin) == (None, str(first / "placement" / "placement.json"), 2)


def test_a_state_of_few_particles_is_not_parted_further() -> None:
    """Of one particle the spread of pulls is not a number."""
    model, pulled = read_model(closed_state()), []
    chances = torch.tensor([[0.9, 0.1, 0.0]] * 59 + [[0.1, 0.9, 0.0]], dtype=torch.float64)

    def pull(one: Model, mine: np.ndarray) -> list[Model]:
        pulled.append(int(mine.sum()))
        return [one, one]

    run = SimpleNamespace(
        mixture=lambda fits: SimpleNamespace(chances=chances),
        heldout=np.zeros(60, dtype=bool),
        _starts={None: model},
        _pulled_apart=pull,
    )
    fit = _Fit(None, None, model, RingSums(torch.zeros(60, 1), torch.zeros(60, 1)), {})
    assert _States._part_further(run, [fit, fit]) is None  # type: ignore[arg-type]
    assert pulled == [59]


def test_states_are_written_only_if_they_are_supported_after_the_last_fit(tmp_path: Path) -> None:
    fits = ["a", "b"]
    supported = iter([fits, fits[:1]])
    run = SimpleNamespace(
        folder=SimpleNamespace(path=tmp_path),
        options=SimpleNamespace(most_states=2),
        _first_models=lambda: fits,
        _fit_parts=lambda parts, level: parts,
        _supported=lambda parts: next(supported),
        _finish=lambda parts, began: parts,
    )
    assert _States.execute(run, 0.0) == ["a"]  # type: ignore[arg-type]


def test_what_is_said_of_a_state_that_all_held_out_particles_support() -> None:
    run = {"run": "states/a", "verdict": "undecided", "verdict_headline": "The particles do not decide."}
    run |= {"verdict_explanation": "The model is the start.", "steps": 1, "images": 2, "peak_memory_gb": 0.1}
    one = {"model": "model_1.cif", "share": 0.6, "share_error": 0.1, "verdict": "supported", "run": "states/a"}
    told = {"states": [one, {**one, "model": "model_2.cif"}], "junk": None, "verdict": "supported"}
    said = metrics_of_states(told, [run], np.zeros(4, bool), 1.0)["verdict_explanation"]
    assert "all held-out particles together support it" in said
    assert "is the start" not in said
    told["states"][0] = {**one, "verdict": "undecided"}
    assert "is the start" in metrics_of_states(told, [run], np.zeros(4, bool), 1.0)["verdict_explanation"]


def test_columns_go_into_a_star_and_marks_of_the_file_away(mixed: Path, tmp_path: Path) -> None:
    particles = read_particles(mixed)
    rows = np.array([3, 70])
    marked = np.zeros(len(particles), bool)
    marked[3] = True
    write_star_subset(tmp_path / "a.star", replace(particles, held_out=marked), mixed, np.arange(len(particles)))
    again = read_particles(tmp_path / "a.star")
    assert again.held_out is not None
    some = replace(again.subset(rows), held_out=None)
    write_star_subset(tmp_path / "b.star", some, tmp_path / "a.star", rows, {"rlnClassNumber": np.array([2, 1])})
    written = starfile.read(tmp_path / "b.star")["particles"]
    assert written["rlnClassNumber"].tolist() == [2, 1]
    assert "cocofoldHeldOut" not in written
