"""A run that is resumed knows its input by what it holds, wherever it lies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cocofold.commands.demo import closed_state, open_state
from cocofold.finetuning import run_folder
from cocofold.finetuning.options import Options
from cocofold.finetuning.run import finetune
from cocofold.finetuning.run_folder import RunFolder
from cocofold.particles import read_particles
from cocofold.particles.star_write import write_star
from cocofold.simulation.particle_simulation import simulate
from cocofold.simulation.simulation_settings import SimulationSettings
from cocofold.system.errors import InputError


def options_in(folder: Path) -> Options:
    star, model = folder / "set" / "particles.star", folder / "m.cif"
    return Options(str(star), model=str(model), check=False, contrast="white", effort=0.01, cycles=2)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a run that has a checkpoint and no end."""
    folder = tmp_path_factory.mktemp("begun")
    simulate(SimulationSettings(model=str(open_state()), box=32, pixel_size=5, count=30, snr=1, seed=3), folder / "set")
    shutil.copy(closed_state(), folder / "m.cif")
    finetune(options_in(folder), folder / "run")
    (folder / "run" / "metrics.json").unlink()
    return folder


@pytest.fixture
def project(begun: Path, tmp_path: Path) -> Path:
    """The project, moved to another place."""
    shutil.copytree(begun, tmp_path / "moved")
    return tmp_path / "moved"


def resume(project: Path) -> str:
    finetune(options_in(project), project / "run", resume=True)
    return (project / "run" / "log.txt").read_text()


@pytest.mark.slow
def test_a_moved_project_goes_on(project: Path) -> None:
    assert "resumed at step" in resume(project)


def change_rows(rows: np.ndarray) -> Callable[[Path], None]:
    def change(project: Path) -> None:
        star = project / "set" / "particles.star"
        write_star(star, read_particles(star).subset(rows))

    return change


def change_poses(project: Path) -> None:
    star = project / "set" / "particles.star"
    particles = read_particles(star)
    write_star(star, replace(particles, origins_angstrom=particles.origins_angstrom + 0.5))


def change_images(project: Path) -> None:
    stack = next((project / "set").glob("*.mrcs"))
    with mrcfile.mmap(stack, "r+", permissive=True) as file:
        file.data[:] = file.data[::-1].copy()


def change_model(project: Path) -> None:
    shutil.copy(open_state(), project / "m.cif")


@pytest.mark.parametrize(
    ("change", "named", "said"),
    [
        (change_rows(np.arange(20)), "particles.star", r"\(20 particles are used now, 30 then\)"),
        (change_rows(np.arange(40) % 30), "particles.star", r"\(40 particles are used now, 30 then\)"),
        (change_rows(np.arange(30)[::-1]), "particles.star", "than when the run was started"),
        (change_poses, "particles.star", "than when the run was started"),
        (change_images, ".mrcs", "than when the run was started"),
        (change_model, "m.cif", "than when the run was started"),
    ],
)
def test_changed_input_is_refused_by_name(project: Path, change: Callable[[Path], None], named: str, said: str) -> None:
    change(project)
    with pytest.raises(InputError, match=said) as refused:
        resume(project)
    assert str(refused.value).split(":")[0].endswith(named)
    assert (project / "run" / "checkpoints" / "latest.safetensors").is_file()


def test_a_run_of_an_older_version_goes_on_and_says_so(begun: Path, project: Path) -> None:
    (project / "run" / "inputs.json").unlink()
    with pytest.raises(InputError, match="other settings"):
        resume(project)
    shutil.copy(begun / "run" / "config.yaml", project / "run" / "config.yaml")
    finetune(options_in(begun), project / "run", resume=True)
    assert "whether its input changed is not known" in (project / "run" / "log.txt").read_text()


def test_the_last_bits_of_poses_are_nobodys_business(begun: Path) -> None:
    """Processors differ in them; a pose that differs in the fourth decimal is another one."""
    particles = read_particles(begun / "set" / "particles.star")
    noise = np.random.default_rng(0).normal(0, 1e-13, particles.rotations.shape)
    known = particles.metadata_digests()
    assert replace(particles, rotations=particles.rotations + noise).metadata_digests() == known
    assert (
        replace(particles, origins_angstrom=-0.0 - particles.origins_angstrom * 0).metadata_digests()[
            "origins_angstrom"
        ]
        == (replace(particles, origins_angstrom=particles.origins_angstrom * 0).metadata_digests()["origins_angstrom"])
    )
    assert replace(particles, slice_index=particles.slice_index.astype(np.int32)).metadata_digests() == known
    marked = replace(particles, held_out=np.arange(len(particles)) < 5).metadata_digests()
    assert [name for name in known if marked[name] != known[name]] == ["held_out"]
    moved = replace(particles, rotations=particles.rotations + 1e-4).metadata_digests()
    assert [name for name in known if moved[name] != known[name]] == ["rotations"]


def test_what_only_one_version_notes_is_not_compared(project: Path) -> None:
    record = project / "run" / "inputs.json"
    known = json.loads(record.read_text())
    del known["particles"]["half_set"], known["prediction"]
    known["particles"]["of_another_version"] = known["of_another_version"] = "something"
    record.write_text(json.dumps(known))
    assert "resumed at step" in resume(project)


def test_a_file_that_is_gone_is_said_to_be_gone(project: Path) -> None:
    (project / "m.cif").unlink()
    with pytest.raises(InputError, match=r"m\.cif: is gone since the run was started"):
        resume(project)


def test_input_that_cannot_be_read_is_not_said_to_be_unwritable(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(project / "run", options_in(project), resume=True)
    assert "cannot be read" in folder.explain(PermissionError(13, "Permission denied", str(project / "m.cif")))
    for name in ("run", "run/model.cif"):
        assert "cannot be written" in folder.explain(PermissionError(13, "Permission denied", str(project / name)))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(project / "m.cif"))

    monkeypatch.setattr(run_folder, "open", refuse, raising=False)
    with pytest.raises(InputError, match=r"m\.cif: cannot be read \(Permission denied\)"):
        run_folder._digest_of_file(str(project / "m.cif"))


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 100_000, "null"])
def test_a_damaged_record_is_refused(content: str, project: Path) -> None:
    (project / "run" / "inputs.json").write_text(content)
    with pytest.raises(InputError, match=r"inputs\.json"):
        resume(project)


def test_a_stack_overwritten_in_mid_run_is_noticed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cocofold.finetuning import run

    def overwrite(*arguments: object, **named: object) -> object:
        change_images(project)
        return prepare(*arguments, **named)  # type: ignore[arg-type]

    prepare = run.prepare_run
    monkeypatch.setattr(run, "prepare_run", overwrite)
    with pytest.raises(InputError, match="was overwritten while the run was reading it"):
        finetune(options_in(project), project / "again")
    assert not (project / "again" / "metrics.json").exists()


def test_empty_images_are_counted_and_said(project: Path) -> None:
    stack = next((project / "set").glob("*.mrcs"))
    with mrcfile.mmap(stack, "r+", permissive=True) as file:
        file.data[4:7] = 0.1
    metrics = finetune(options_in(project), project / "again")
    assert "at least 3 images are empty and weigh nothing" in (project / "again" / "log.txt").read_text()
    assert "NaN" not in (project / "again" / "metrics.json").read_text()
    assert metrics["particles"] == 30


def test_the_record_names_no_folder(begun: Path) -> None:
    text = (begun / "run" / "inputs.json").read_text()
    assert str(begun) not in text
    assert json.loads(text)["rows"] == 30
