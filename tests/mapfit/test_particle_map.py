"""``cocofold reconstruct``: its files, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from typer.testing import CliRunner

from cocofold import read_particles, reconstruct
from cocofold.__main__ import app
from cocofold.commands.demo import open_state
from cocofold.simulation.particle_simulation import SimulationOutput, simulate
from cocofold.simulation.simulation_settings import SimulationSettings
from cocofold.system.errors import InputError

BOX, PIXEL = 32, 4.0


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> SimulationOutput:
    settings = SimulationSettings(
        model=str(open_state()), box=BOX, pixel_size=PIXEL, count=60, snr=1.0, seed=1, centre=True
    )
    return simulate(settings, tmp_path_factory.mktemp("reconstruct") / "particles")


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["reconstruct", *map(str, arguments)])
    return done.exit_code, done.output if done.exception is None else f"{done.output}{done.exception}"


def test_maps_and_resolution_are_written(simulated: SimulationOutput, tmp_path: Path) -> None:
    status, text = run("--particles", simulated.star, "--half-maps", "--first", 50, "--out", tmp_path / "out")
    assert status == 0
    assert text.startswith("50 images; resolution ")
    names = {"reconstruction.mrc", "reconstruction.json", "half1.mrc", "half2.mrc"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    facts = json.loads((tmp_path / "out" / "reconstruction.json").read_text())
    assert facts["images"] == 50 == sum(facts["images_of_halves"])
    assert 8 < facts["resolution_angstrom"] < 25
    assert f"{facts['resolution_angstrom']:.2f} Å" in text
    assert facts["fsc"][0][1] > 0.9
    with mrcfile.open(tmp_path / "out" / "reconstruction.mrc") as file:
        assert float(file.voxel_size.x) == pytest.approx(PIXEL)
        whole = file.data.copy()
    halves = [mrcfile.read(tmp_path / "out" / f"half{half}.mrc") for half in (1, 2)]
    assert np.corrcoef(whole.ravel(), np.mean(halves, axis=0).ravel())[0, 1] > 0.95


@pytest.mark.slow
def test_the_api_gives_what_the_command_writes(simulated: SimulationOutput, tmp_path: Path) -> None:
    status, text = run("--particles", simulated.star, "--model", simulated.model, "--out", tmp_path / "out")
    assert status == 0
    assert "missing mass" in text
    found = reconstruct(read_particles(simulated.star), simulated.model)
    facts = json.loads((tmp_path / "out" / "reconstruction.json").read_text())
    assert found.unexplained is not None
    assert facts["unexplained"] == json.loads(json.dumps(found.unexplained.as_dict()))
    assert abs(found.unexplained.missing_mass) < 0.1
    written = mrcfile.read(tmp_path / "out" / "unexplained.mrc")
    np.testing.assert_array_equal(written, found.unexplained.map)
    assert not (tmp_path / "out" / "half1.mrc").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--symmetry", "Q3"], "--symmetry Q3"),
        (["--first", 0], "--first 0"),
        (["--max-particles", 1], "two images or more"),
        (["--model", "nothing.cif"], "no such file"),
        (["--threads", 0], "--threads 0"),
        (["--seed", -1], "--seed -1"),
        (["--device", "abacus"], "--device abacus"),
    ],
)
def test_bad_input_writes_nothing(
    simulated: SimulationOutput, tmp_path: Path, arguments: list[object], message: str
) -> None:
    status, text = run("--particles", simulated.star, "--out", tmp_path / "out", *arguments)
    assert status != 0
    assert message in text
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_left_alone(simulated: SimulationOutput, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InputError, match=r"the folder holds note\.txt"):
        reconstruct(simulated.star, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
