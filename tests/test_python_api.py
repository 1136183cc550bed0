"""The Python API: loaded when it is used, paths of either kind, errors that name arguments, docs/python.md executed."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import cocofold
from cocofold import api
from cocofold.commands.demo import closed_state, open_state
from cocofold.particles.star_write import write_star
from cocofold.relaxation import minimization
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model

DOCUMENT = Path(__file__).parents[1] / "docs" / "python.md"


def test_names_are_those_of_the_documents() -> None:
    assert set(cocofold.API) <= set(dir(cocofold))
    in_table = re.findall(r"^\| `(\w+)\(", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted([*in_table, "InputError"]) == sorted(cocofold.API)
    assert all(callable(getattr(cocofold, name)) for name in cocofold.API)
    with pytest.raises(AttributeError, match="no attribute 'fine_tune'"):
        cocofold.fine_tune  # noqa: B018


def test_paths_may_be_text() -> None:
    by_text, by_path = cocofold.read_model(str(open_state())), cocofold.read_model(open_state())
    assert (by_text.positions == by_path.positions).all()
    # Of the same state, since to superpose another one takes seconds
    assert cocofold.assess(str(open_state()), by_path).ca_rmsd == pytest.approx(0, abs=1e-6)
    assert cocofold.assess(by_path, open_state()).matched_residues == 214


def test_errors_name_arguments(tmp_path: Path) -> None:
    """As Python has them, not as the command line has them."""
    with pytest.raises(cocofold.InputError, match=r"count 3: must be from 10") as error:
        cocofold.check(tmp_path / "none.star", open_state(), count=3)
    assert "--" not in str(error.value)
    with pytest.raises(cocofold.InputError, match=r"max_particles -1") as error:
        cocofold.finetune(tmp_path / "none.star", closed_state(), tmp_path / "run", max_particles=-1)
    assert "--" not in str(error.value)
    with pytest.raises(TypeError, match="unknown argument max_particle; known are"):
        cocofold.finetune(tmp_path / "none.star", closed_state(), tmp_path / "run", max_particle=1)
    with pytest.raises(cocofold.InputError, match=r"none\.star: no such file"):
        cocofold.read_particles(tmp_path / "none.star")


def test_errors_leave_paths_and_other_options_alone(tmp_path: Path) -> None:
    missing = tmp_path / "run--count" / "--seed" / "a--count.star"
    with pytest.raises(cocofold.InputError) as error:
        cocofold.check(missing, open_state(), count=20)
    assert str(missing) in str(error.value)
    known = {function: api._arguments_by_option(function) for function in (api.finetune, api.check)}

    def said(function: Callable[..., object], text: str) -> str:
        return api._OPTION.sub(lambda found: known[function].get(found[0], found[0]), text)

    assert said(api.finetune, "with --no-check, --max-particles 5.") == "with check=False, max_particles 5."
    assert said(api.finetune, "--no-additions; --no-penalty") == "single_rate=0 and pair_rate=0; penalty=False"
    assert said(api.finetune, "fewer --processes, --resume goes on") == "fewer --processes, resume goes on"
    for path in ("/data/run--count", "run--count: no such file", "/--count/x.star", "--count.star", "/data/--count"):
        assert said(api.check, path) == path
    assert said(api.check, "--max-particles and --count") == "--max-particles and count"


def test_a_folder_that_is_not_free_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path, tmp_path / "file", tmp_path / "file" / "beneath"):
        with pytest.raises(cocofold.InputError, match=rf"^out {out}: "):
            cocofold.fit_in_map(tmp_path / "none.cif", tmp_path / "none.mrc", out)


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of particles whose map has the wrong hand, and of a model that lies in the map's mirror image."""
    folder = tmp_path_factory.mktemp("mirrored")
    data = cocofold.simulate(open_state(), folder / "set", box=32, pixel_size=5.0, count=40, snr=2.0, seed=3)
    write_star(folder / "set" / "wrong_hand.star", cocofold.read_particles(data.star).mirrored())
    for name, hand in (("mirrored", "mirrored"), ("as_is", "as-is")):
        write_model(folder / f"{name}.cif", cocofold.read_model(open_state()), placed_as={"hand": hand})
    return folder


def test_a_model_keeps_how_it_was_placed(mirrored: Path) -> None:
    model = cocofold.read_model(mirrored / "mirrored.cif")
    assert model.placed_as == {"hand": "mirrored"}
    assert model.in_mirror_image
    assert model.moved_to(model.positions + 1).only(np.arange(len(model.residues)) < 50).in_mirror_image
    assert not cocofold.read_model(mirrored / "as_is.cif").in_mirror_image
    assert cocofold.read_model(open_state()).placed_as == {}


def test_check_follows_the_hand_of_a_model(mirrored: Path) -> None:
    particles = cocofold.read_particles(mirrored / "set" / "wrong_hand.star")
    told = cocofold.check(particles, cocofold.read_model(mirrored / "mirrored.cif"), count=20)
    assert told.lines == cocofold.check(particles.mirrored(), mirrored / "as_is.cif", count=20).lines
    assert told.lines != cocofold.check(particles, mirrored / "as_is.cif", count=20).lines


def test_relax_follows_the_hand_of_a_model(mirrored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def relaxed(model: Model, *_: object) -> minimization.RelaxedModel:
        figures = minimization.Stereochemistry((), 0, (), 0.0)
        return minimization.RelaxedModel(model, figures, figures, 0, 0.0, "none", ())

    monkeypatch.setattr(minimization, "relax", relaxed)
    star, frc = mirrored / "set" / "wrong_hand.star", {}
    for name in ("mirrored", "as_is"):
        model = cocofold.read_model(mirrored / f"{name}.cif")
        found = cocofold.relax(model, tmp_path / f"{name}.cif", particles=star)
        assert found.frc is not None
        frc[name] = found.frc["before"]
        assert cocofold.read_model(tmp_path / f"{name}.cif").placed_as == model.placed_as
    assert frc["mirrored"] > frc["as_is"] + 0.05


@pytest.mark.slow
def test_the_examples_of_the_document_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> None:
    """In an empty folder; what the run tells is logged, and only what the examples print is printed."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, object] = {}
    with caplog.at_level(logging.INFO, logger="cocofold"):
        for block in blocks:
            exec(compile(block, str(DOCUMENT), "exec"), names)
    printed = capsys.readouterr().out
    assert re.search(r"^supported in part 0\.\d+ 0\.\d+$", printed, flags=re.MULTILINE)
    assert re.search(r"verdict: supported in part\b", caplog.text)
    assert "cycle" in caplog.text
    assert "cycle" not in printed
