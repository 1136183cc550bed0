"""``cocofold select``: the STAR, the JSON, bad input."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starfile

from cocofold.particles import read_particles
from cocofold.particles.particle_set import ParticleSet
from cocofold.particles.star_write import write_star
from cocofold.simulation.particle_simulation import SimulationOutput

pytestmark = pytest.mark.slow

Command = Callable[..., int]


@pytest.fixture
def command(command: Command, files: SimulationOutput, tmp_path: Path) -> Command:
    """Run ``cocofold select`` in this process; returns the exit status. Options may be given anew."""

    def run(*options: object) -> int:
        defaults = {
            "--particles": files.star,
            "--count": 40,
            "--by": "frc",
            "--model": files.model,
            "--out": tmp_path / "selected.star",
        }
        given = [word for pair in defaults.items() if pair[0] not in options for word in pair]
        told = [option for option in options if option is not None]
        if None in options:  # an option that is left out
            given = [word for word in given if word != "--model" and word != files.model]
        return command("select", *given, *told)

    return run


def test_star_and_json_say_the_same(
    command: Command, particles: ParticleSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--json", tmp_path / "selected.json") == 0
    found = json.loads((tmp_path / "selected.json").read_text())
    written = read_particles(tmp_path / "selected.star")
    rows = np.sort(found["selected"] + found["held_out"])
    assert (found["by"], found["count"], found["of_particles"], found["seed"]) == ("frc", 40, 80, 0)
    np.testing.assert_array_equal(written.slice_index, particles.slice_index[rows])
    np.testing.assert_array_equal(written.images(np.arange(40)), particles.images(rows))
    assert written.held_out is not None
    np.testing.assert_array_equal(rows[written.held_out], found["held_out"])
    assert list(written.scored_rings) == found["scored_rings"] == [4, 8, 12]
    assert found["statistics"]["resolutions_angstrom"] == [36.0, 18.0, 12.0]
    assert found["statistics"]["selected"]["mean"] > found["statistics"]["all"]["mean"] + 0.1
    told = capsys.readouterr().out
    assert "40 of 80 particles: 32 by frc, 8 held out" in told
    assert "biased" in told


def test_without_a_model(command: Command, tmp_path: Path) -> None:
    assert command("--by", "views", None) == 0
    assert read_particles(tmp_path / "selected.star").scored_rings == ()


def test_every_column_is_kept_as_it_is_written(
    command: Command, files: SimulationOutput, particles: ParticleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = (replace(particles.optics[0], name="early"), replace(particles.optics[0], name="late", voltage_kv=200.0))
    rows = np.arange(len(particles))
    project = tmp_path / "project"
    project.mkdir()
    write_star(project / "all.star", replace(particles, optics=groups, optics_index=rows % 2))
    blocks = starfile.read(project / "all.star", parse_as_string=["rlnImageName"])
    blocks["particles"]["rlnMicrographName"] = [f"mic/{row % 3}.mrc" for row in rows]
    blocks["particles"]["xmippComment"] = ["two words" if row % 2 else "nan" for row in rows]
    blocks["particles"]["rlnLogLikeliContribution"] = [f"{row}.12345678900e+05" for row in rows]
    blocks["particles"]["rlnRandomSubset"] = 1 + rows % 2
    blocks = {"general": {"projectName": "adk"}, **blocks}
    starfile.write(blocks, project / "all.star")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    given = os.path.relpath(project / "all.star")
    assert command("--particles", given, "--by", "random", "--out", "selected.star", "--json", "selected.json") == 0
    found = json.loads(Path("selected.json").read_text())
    chosen = np.sort(found["selected"] + found["held_out"])
    before, after = _as_text(project / "all.star"), _as_text(Path("selected.star"))
    assert list(after) == ["general", "optics", "particles"]
    assert after["general"] == before["general"]
    assert after["optics"].equals(before["optics"])
    table = after["particles"]
    assert list(table.columns) == [*before["particles"].columns, "cocofoldHeldOut"]
    for label in before["particles"].columns:
        if label != "rlnImageName":
            assert table[label].tolist() == before["particles"][label].iloc[chosen].tolist()
    monkeypatch.chdir(tmp_path)
    written = read_particles("elsewhere/selected.star")
    np.testing.assert_array_equal(written.images(np.arange(40)), particles.images(chosen))


def _as_text(path: Path) -> dict:
    labels = [word[1:] for word in path.read_text().split() if word.startswith("_")]
    return starfile.read(path, always_dict=True, parse_as_string=labels)


@pytest.mark.independent
def test_files_of_other_programs(command: Command, shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "adk" / "small300"
    of_others = [
        folder / "star_variants" / "relion30.star",
        folder / "star_variants" / "relion_refined_local_it004_data.star",
        folder / "cs" / "particles.cs",
    ]
    for number, path in enumerate(of_others):
        more = ["--passthrough", folder / "cs" / "particles_passthrough.cs"] if path.suffix == ".cs" else []
        out, facts = tmp_path / f"{number}.star", tmp_path / f"{number}.json"
        source = read_particles(path, passthrough=more[1:])
        assert command("--particles", path, *more, "--by", "views", "--out", out, "--json", facts) == 0
        found = json.loads(facts.read_text())
        chosen = source.subset(np.sort(found["selected"] + found["held_out"]))
        written = read_particles(out)
        assert written.held_out is not None
        assert written.held_out.sum() == 8
        np.testing.assert_array_equal(written.images(np.arange(40)), chosen.images(np.arange(40)))
        np.testing.assert_allclose(written.rotations, chosen.rotations, atol=1e-6)
        np.testing.assert_allclose(written.origins_angstrom, chosen.origins_angstrom, atol=1e-5)
        np.testing.assert_allclose(written.defocus_u_angstrom, chosen.defocus_u_angstrom, atol=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", 81], "--count 81: must be from 1 to 80"),
        (["--count", 0], "--count 0: must be from 1 to 80"),
        (["--by", "beauty"], "--by beauty: give random, frc or views"),
        ([None], "--by frc: images are compared with a model; add --model FILE"),
        (["--seed", -1], "--seed -1: must be from 0"),
        (["--out", "selected.txt"], "give a name that ends in .star"),
        (["--out", "none/selected.star"], "there is no folder"),
        (["--out", "there.star"], "is there already; give another file"),
        (["--json", "."], "is a folder"),
        (["--particles", "nothing.star"], "no such file"),
        (["--model", "nothing.cif"], "nothing.cif"),
        (["--device", "cuda:99"], "--device cuda:99"),
    ],
)
def test_bad_input_is_refused(
    options: list[object],
    message: str,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.star").write_text("as it was")
    assert command(*options) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert os.listdir(tmp_path) == ["there.star"]
    assert Path("there.star").read_text() == "as it was"
