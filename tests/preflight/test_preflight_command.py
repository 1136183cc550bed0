"""The command: exit status, lines, JSON, picture, bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cocofold.imaging.projection import REFERENCE_WIDTH_ANGSTROM, render_density
from cocofold.mapfit.rigid_refinement import RigidMolecule, RigidPoses
from cocofold.mapfit.target_map import TargetMap
from cocofold.particles.particle_set import ParticleSet
from cocofold.particles.star_write import write_star
from cocofold.simulation.particle_simulation import SimulationOutput
from cocofold.structure.model import Model

pytestmark = pytest.mark.slow

Command = Callable[..., int]


@pytest.fixture
def command(command: Command, files: SimulationOutput) -> Command:
    """Run ``cocofold check`` in this process; returns the exit status. Options may be given anew."""

    def run(*options: object) -> int:
        defaults = {"--particles": files.star, "--model": files.model}
        given = [word for pair in defaults.items() if pair[0] not in options for word in pair]
        return command("check", *given, *options)

    return run


@pytest.fixture
def map_file(truth: Model, tmp_path: Path) -> Path:
    """The density of what was imaged."""
    return write_map(truth, tmp_path / "map.mrc", 48, 3.0)


def write_map(model: Model, path: Path, box: int, pixel_size: float) -> Path:
    widths = np.full(len(model), REFERENCE_WIDTH_ANGSTROM)
    values = render_density(model.positions, model.atomic_numbers.astype(float), widths, box, pixel_size)
    values += 0.1 * values.std() * np.random.default_rng(0).standard_normal(values.shape)
    with mrcfile.new(path) as file:
        file.set_data(values.astype(np.float32))
        file.voxel_size = pixel_size
    return path


def test_all_agrees(command: Command, map_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "check.png"
    assert command("--map", map_file, "--json", tmp_path / "check.json", "--picture", picture, "--count", 30) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads((tmp_path / "check.json").read_text())
    assert found["particles"] == 30
    assert found["of_particles"] == 40
    assert found["contradictions"] == []
    assert [one["line"] for one in found["questions"]] == lines
    names = [one["question"] for one in found["questions"]]
    assert names[:7] == ["identity", "contrast", "poses", "hand", "shifts", "CTF", "pixel size"]
    assert names[7:] == ["map", "model in map", "hand of map"]
    assert {one["verdict"] for one in found["questions"]} == {"agrees"}
    given, transposed = found["questions"][1]["alternatives"]
    assert given["score"] > transposed["score"] + 4 * transposed["error"]
    assert transposed["margin_standard_errors"] < -4
    assert f"{given['score']:.2f} as given, and {transposed['score']:.2f} for the alternative" in lines[1]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_something_wrong(
    command: Command, particles: ParticleSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_star(tmp_path / "wrong.star", replace(particles, origins_angstrom=-particles.origins_angstrom))
    assert command("--particles", tmp_path / "wrong.star", "--json", tmp_path / "check.json") == 1
    found = json.loads((tmp_path / "check.json").read_text())
    assert len(found["contradictions"]) == 1
    assert "rlnOriginXAngst" in found["contradictions"][0]
    assert found["contradictions"][0] in capsys.readouterr().out


def test_contrast_is_wrong_only_if_it_is_said(command: Command, particles: ParticleSet, tmp_path: Path) -> None:
    stack = tmp_path / "dark.mrcs"
    mrcfile.write(stack, -particles.images(np.arange(len(particles))))
    write_star(tmp_path / "dark.star", replace(particles, stacks=(stack,)))
    expected = {"white": 1, "dark": 0, "auto": 0}
    given = ("--particles", tmp_path / "dark.star", "--count", 20)
    assert {said: command(*given, "--contrast", said) for said in expected} == expected


def test_a_mirrored_map(
    command: Command,
    truth: Model,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The search everywhere, by which this is confirmed, is tested where it belongs."""
    asked = []

    def find(atoms: RigidMolecule, targets: list[TargetMap]) -> list[RigidPoses]:
        asked.append(len(targets))
        return [RigidPoses(np.eye(3)[None], atoms.centroid[None], np.zeros(1))] * 2

    monkeypatch.setattr("cocofold.preflight.check_inputs.find_placements", find)
    path = write_map(truth, tmp_path / "map.mrc", 48, 3.0)
    with mrcfile.open(path, "r+") as file:
        file.set_data(np.roll(np.flip(file.data, 0), 1, 0))
    assert command("--map", path, "--count", 20) == 1
    assert "hand of map: the map looks mirrored" in capsys.readouterr().out
    assert asked == [2]


@pytest.mark.parametrize(("box", "pixel_size", "said"), [(64, 3.0, "cut or padded"), (48, 3.3, "pixel size")])
def test_a_map_of_another_frame(
    command: Command,
    truth: Model,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    box: int,
    pixel_size: float,
    said: str,
) -> None:
    path = write_map(truth, tmp_path / "map.mrc", box, pixel_size)
    assert command("--map", path, "--count", 20) == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("map:"))
    assert said in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--particles", "none.star"), "no such file"),
        (("--model", "none.cif"), "no such file"),
        (("--map", "none.mrc"), "no such file"),
        (("--count", 2), "--count 2"),
        (("--contrast", "grey"), "white, dark or auto"),
        (("--json", "nowhere/check.json"), "there is no folder"),
        (("--picture", "check.svg"), "only PNG"),
        (("--device", "tpu"), "--device tpu"),
    ],
)
def test_bad_input(
    command: Command, capsys: pytest.CaptureFixture[str], options: tuple[object, ...], said: str
) -> None:
    assert command(*options) == 2
    assert said in capsys.readouterr().err
