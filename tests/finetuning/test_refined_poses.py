"""Runs that refine poses: what they find and write, how they are judged, and that they resume bit by bit."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from running import command, log, refused, run_here
from scipy.spatial.transform import Rotation

from cocofold.commands.demo import open_state
from cocofold.finetuning.options import Options
from cocofold.finetuning.run import finetune
from cocofold.finetuning.run_folder import RunFolder
from cocofold.likelihood.particle_optics import with_pose_errors
from cocofold.particles import read_particles
from cocofold.particles.star_write import write_star
from cocofold.system.errors import InputError

SHORT = ("--effort", 0.02, "--first", 40, "--refine-poses", "on")


@pytest.fixture(scope="module")
def disturbed(particles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The particles with poses off by 4° and 1 Å."""
    read = read_particles(particles)
    errors = np.random.default_rng(7).normal(size=(len(read), 5)) * np.repeat([np.deg2rad(4) / 3**0.5, 1.0], [3, 2])
    star = tmp_path_factory.mktemp("disturbed") / "particles.star"
    write_star(star, with_pose_errors(read, errors))
    return star


@pytest.fixture(scope="module")
def refined(disturbed: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "refined"
    assert run_here(command(disturbed, start, out, *SHORT))[0] == 0
    return out


def angle_deg(first: Path, second: Path) -> float:
    turns = [read_particles(path).rotations[:40] for path in (first, second)]
    return float(np.rad2deg(Rotation.from_matrix(turns[0] @ turns[1].transpose(0, 2, 1)).magnitude().mean()))


@pytest.mark.slow
def test_refined_poses_are_written_and_judged(refined: Path, disturbed: Path) -> None:
    metrics = json.loads((refined / "metrics.json").read_text())
    poses = metrics["poses"]
    assert poses["refined"]
    assert poses["judging_rings"] == list(range(4, 32, 4))
    assert poses["prior_turn_deg"] > 2
    assert "rings that were not asked judge" in log(refined)
    given, written = read_particles(disturbed), read_particles(refined / poses["particles"])
    np.testing.assert_array_equal(written.images(np.arange(3)), given.images(np.arange(3)))
    np.testing.assert_allclose(written.defocus_u_angstrom, given.defocus_u_angstrom[:40], rtol=1e-6)
    assert angle_deg(refined / "particles.star", disturbed) > 1


@pytest.mark.slow
def test_a_right_model_refines_poses_though_it_does_not_move(disturbed: Path, particles: Path, tmp_path: Path) -> None:
    found = finetune(
        Options(
            particles=str(disturbed), first=40, model=str(open_state()), effort=0.01, check=False, refine_poses="auto"
        ),
        tmp_path / "run",
    )
    assert found["poses"]["refined"]
    before, after = (angle_deg(path, particles) for path in (disturbed, tmp_path / "run" / "particles.star"))
    assert after < before / 2


@pytest.mark.slow
def test_right_poses_are_left_alone(particles: Path, tmp_path: Path) -> None:
    """And the run is that without the option, bit by bit."""
    given = {"particles": str(particles), "model": str(open_state()), "effort": 0.01, "check": False, "heldout": 0.0}
    found = finetune(Options(**given, refine_poses="auto"), tmp_path / "auto")  # type: ignore[arg-type]
    assert found["poses"] == {"refined": False}
    assert not (tmp_path / "auto" / "particles.star").exists()
    plain = finetune(Options(**given), tmp_path / "plain")  # type: ignore[arg-type]
    assert plain["poses"] is None
    assert (tmp_path / "auto" / "model.cif").read_bytes() == (tmp_path / "plain" / "model.cif").read_bytes()


@pytest.mark.slow
def test_a_run_resumes_with_its_poses(
    refined: Path, disturbed: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended by a full disk, in the midst of the stages whose poses were refined, and again where it writes its end."""
    out = tmp_path / "run"
    write_cycles = RunFolder.write_cycles

    def full_at_cycle_six(self: RunFolder, rows: list) -> None:
        write_cycles(self, rows)
        if rows[-1]["number"] == 6 and rows[-1]["pass"] == 1:
            raise OSError(28, "No space left on device", "metrics.csv")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "density.mrc")

    options = Options(
        particles=str(disturbed),
        first=40,
        model=str(start),
        effort=0.02,
        seed=1,
        cycles=7,
        check=False,
        refine_poses="on",
    )
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_cycles", full_at_cycle_six)
        with pytest.raises(InputError, match="--resume"):
            finetune(options, out)
    assert "poses are off" in log(out)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_density", full)
        with pytest.raises(InputError, match=r"density\.mrc.*--resume"):
            finetune(options, out, resume=True)
    finetune(options, out, resume=True)
    for name in ("model.cif", "particles.star"):
        first, second = ((folder / name).read_text().split("\n", 1)[1] for folder in (refined, out))
        assert first == second, name


@pytest.mark.slow
def test_two_processes_refine_as_one(refined: Path, disturbed: Path, start: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        command(disturbed, start, tmp_path / "run", *SHORT, "--processes", 2), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in ("model.cif", "particles.star"):
        first, second = ((folder / name).read_text().split("\n", 1)[1] for folder in (refined, tmp_path / "run"))
        assert first == second, name


def test_what_cannot_work_is_refused(particles: Path, start: Path, tmp_path: Path) -> None:
    message = refused(command(particles, start, tmp_path / "run", "--refine-poses", "auto", "--resolution", 25))
    assert "--refine-poses auto: 6 rings are compared, and poses take at least 8" in message
    assert not (tmp_path / "run").exists()
    assert "give off, on or auto" in refused(command(particles, start, tmp_path / "run", "--refine-poses", "yes"))
    paper = command(particles, start, tmp_path / "run", "--refine-poses", "auto", "--preset", "paper")
    assert "--refine-poses" in refused(paper) or "--preset" in refused(paper)
