"""Runs of fine-tuning: what they write, that they repeat, resume and refuse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest
import torch

from cocofold.assessment import assess
from cocofold.finetuning import Options, finetune
from cocofold.finetuning.folder import RunFolder
from cocofold.finetuning.objective import Gaussians, mean_correlation_gradient
from cocofold.finetuning.observations import Observations
from cocofold.finetuning.passes import split_into_passes
from cocofold.imaging import REFERENCE_WIDTH_ANGSTROM
from cocofold.particles import read_particles
from cocofold.structure import Backbone, read_model

EFFORT = 0.06


def _command(particles: Path, start: Path, out: Path, *more: object) -> list[str]:
    # Seven cycles end in the midst of stages, so that a checkpoint needs all that the optimiser knows.
    arguments = ["--particles", particles, "--model", start, "--out", out, "--effort", EFFORT, "--seed", 1]
    arguments += ["--cycles", 7, *more]
    return [sys.executable, "-m", "cocofold", "finetune", *map(str, arguments)]


def _log(out: Path) -> str:
    return (out / "log.txt").read_text() if (out / "log.txt").is_file() else ""


def _refused(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def finished(particles: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    subprocess.run(_command(particles, start, out), check=True, capture_output=True)
    return out


def test_a_run_comes_closer_and_writes_what_it_should(finished: Path, start: Path, truth: Path) -> None:
    before = assess(read_model(start), read_model(truth)).as_dict()
    model = read_model(finished / "model.cif")
    after = assess(model, read_model(truth)).as_dict()
    assert after["ca_rmsd"] < 0.6 * before["ca_rmsd"]
    assert model.residues == read_model(start).residues
    for name in ("density.mrc", "metrics.csv", "config.yaml", "log.txt", "frc.png", "checkpoints/latest.safetensors"):
        assert (finished / name).stat().st_size > 0, name
    metrics = json.loads((finished / "metrics.json").read_text())
    for key in ("seconds", "peak_memory_gb", "steps", "images", "frc_work", "frc_heldout", "versions"):
        assert metrics[key], key
    assert metrics["verdict"] == "supported"
    assert metrics["frc_heldout"] > metrics["frc_heldout_start"]
    cycles = sorted(path.name for path in (finished / "models").iterdir())
    assert cycles[-1] == f"cycle_{metrics['best_cycle']:02d}.cif"
    assert len((finished / "log.txt").read_text().splitlines()) > len(cycles)
    with mrcfile.open(finished / "density.mrc") as density:
        assert density.data.shape == (64, 64, 64)
        assert density.voxel_size.x == pytest.approx(2.5)


def test_gaussians_are_kept_apart_from_b_factors(finished: Path, start: Path) -> None:
    answer, given = read_model(finished / "model.cif"), read_model(start)
    b_factors = [[atom.b_iso for c in m.structure[0] for r in c for atom in r] for m in (answer, given)]
    assert b_factors[0] == b_factors[1]
    block = gemmi.cif.read(str(finished / "model.cif")).sole_block()
    amplitudes = np.array(list(block.find_values("_cocofold_gaussian.amplitude")), dtype=float)
    widths = np.array(list(block.find_values("_cocofold_gaussian.width_angstrom")), dtype=float)
    assert np.std(amplitudes - given.atomic_numbers) > 0
    assert amplitudes.min() > 0.9
    assert amplitudes.max() < 20.1
    assert widths.min() ** 2 > 0.09
    assert widths.max() ** 2 < 0.81


@pytest.mark.parametrize(("ending", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_an_interrupted_run_resumes_to_the_same_model(
    finished: Path, particles: Path, start: Path, tmp_path: Path, ending: signal.Signals, status: int
) -> None:
    out = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(_command(particles, start, out), stdout=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 120
    # In the second pass, which gives the answer.
    while "cycle  3" not in _log(out).partition("pass 2 of 2")[2]:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(ending)
    assert process.wait(timeout=20) == status
    assert not (out / "metrics.json").exists()
    subprocess.run(_command(particles, start, out, "--resume"), check=True, capture_output=True)
    assert (out / "model.cif").read_bytes() == (finished / "model.cif").read_bytes()
    assert not list(out.rglob("*.part"))
    # Once more finds nothing to do.
    again = subprocess.run(_command(particles, start, out, "--resume"), check=True, capture_output=True, text=True)
    assert "finished already" in again.stdout


def test_a_folder_in_use_full_or_of_other_settings_is_refused(
    finished: Path, particles: Path, start: Path, tmp_path: Path
) -> None:
    assert "not empty" in _refused(_command(particles, start, finished))
    message = _refused([*_command(particles, start, finished, "--resume"), "--seed", "2"])
    assert "seed (1 then, 2 now)" in message
    assert "holds no run" in _refused(_command(particles, start, tmp_path / "none", "--resume"))
    options = Options(particles=str(particles), model=str(start))
    with RunFolder(tmp_path / "held", options, resume=False):
        (tmp_path / "held/checkpoints/latest.safetensors").write_bytes(b"x")
        message = _refused(_command(particles, start, tmp_path / "held", "--resume"))
    assert "another run" in message
    (tmp_path / "file").write_text("")
    assert "is a file" in _refused(_command(particles, start, tmp_path / "file"))


def test_bad_input_leaves_nothing_behind(particles: Path, start: Path, tmp_path: Path) -> None:
    structure = gemmi.read_structure(str(start))
    for chain in structure[0]:
        for residue in chain:
            for atom in residue:
                atom.pos = gemmi.Position(atom.pos.x + 500, atom.pos.y, atom.pos.z)
    structure.make_mmcif_document().write_file(str(tmp_path / "away.cif"))
    out = tmp_path / "run"
    assert "outside the particles' box" in _refused(_command(particles, tmp_path / "away.cif", out))
    assert "no such file" in _refused(_command(particles, tmp_path / "none.cif", out))
    _refused(_command(tmp_path / "none.star", start, out))
    for option, value in (
        ("--cycles", 31), ("--cycles", 0), ("--batch-size", 0), ("--resolution", -1), ("--effort", 0),
        ("--first", 0), ("--max-particles", 0), ("--device", "tpu"), ("--device", "cuda:99"),
    ):  # fmt: skip
        assert option in _refused(_command(particles, start, out, option, value))
    assert not out.exists()


def test_noise_supports_nothing(particles: Path, start: Path, tmp_path: Path) -> None:
    (tmp_path / "particles.star").write_text(particles.read_text())
    with mrcfile.new(tmp_path / "particles.mrcs") as stack:
        stack.set_data(np.random.default_rng(0).normal(size=(80, 64, 64)).astype(np.float32))
    options = Options(particles=str(tmp_path / "particles.star"), model=str(start), effort=EFFORT, contrast="white")
    metrics = finetune(options, tmp_path / "run")
    assert metrics["verdict"] != "supported"
    if metrics["verdict"] == "not supported":
        moved = read_model(tmp_path / "run/model.cif").positions - read_model(start).positions
        assert np.abs(moved).max() < 2e-3


@pytest.mark.parametrize(("count", "heldout"), [(10, 0), (50, 10), (300, 60), (500, 50), (4000, 200)])
def test_held_out_particles_are_never_fitted(count: int, heldout: int) -> None:
    passes = split_into_passes(count, seed=4)
    judged = passes[0]
    assert len(judged.heldout) == heldout
    assert not set(judged.heldout.tolist()) & set(judged.work.tolist())
    assert len(judged.heldout) + len(judged.work) == count
    assert len(passes) == (2 if 20 <= count < 500 else 1)
    assert len(passes[-1].work) == (count if len(passes) == 2 else count - heldout)


def test_chunks_do_not_change_the_gradient(particles: Path, start: Path) -> None:
    observations = Observations(read_particles(particles), 20)
    model = read_model(start)
    positions = torch.as_tensor(model.positions, dtype=torch.float32)
    amplitudes = torch.as_tensor(model.atomic_numbers, dtype=torch.float32)
    gaussians = Gaussians(amplitudes, torch.full_like(amplitudes, REFERENCE_WIDTH_ANGSTROM))
    rows, rings = torch.arange(16), observations.rings(20)
    whole, *gradients = mean_correlation_gradient(positions, gaussians, observations, rows, rings, 16)
    parts, *others = mean_correlation_gradient(positions, gaussians, observations, rows, rings, 3)
    assert whole == pytest.approx(parts, rel=1e-5)
    for ours, theirs in zip(gradients, others):
        assert (ours - theirs).abs().max() < 1e-4 * ours.abs().max()
    observations.close()


def test_every_particle_comes_once_before_any_comes_again(particles: Path, start: Path, tmp_path: Path) -> None:
    from cocofold.deformation import DeformationSource
    from cocofold.finetuning.loop import Loop
    from cocofold.structure import Restraints

    model = read_model(start)
    backbone = Backbone.of(model)
    observations = Observations(read_particles(particles), 5)
    work = torch.arange(3, 75)
    options = Options(particles=str(particles), model=str(start), batch_size=10)
    amplitudes = torch.ones(len(model))
    loop = Loop(
        DeformationSource(model),
        Restraints(model, backbone, 0.0),
        Gaussians(amplitudes, amplitudes),
        amplitudes > 0,
        observations,
        work,
        options,
    )
    seen = torch.cat([loop._batch(step) for step in range(36)]).tolist()
    assert len(seen) == 360
    for epoch in range(5):
        assert sorted(seen[72 * epoch : 72 * (epoch + 1)]) == work.tolist()
    assert seen[:72] != seen[72:144]
    observations.close()


def test_hinges_act_outside_their_ranges_only() -> None:
    counted = torch.tensor([True, True, True, False])
    inside = Gaussians(torch.tensor([6.0, 1.0, 20.0, 50.0]), torch.tensor([0.675, 0.33, 0.89, 3.0]))
    assert float(inside.penalty(counted)) == pytest.approx(0, abs=1e-6)
    outside = Gaussians(torch.tensor([0.5, 22.0, 6.0, 6.0]), torch.tensor([0.675, 0.675, 1.0, 0.675]))
    assert float(outside.penalty(counted)) == pytest.approx(0.5 + 2.0 + 0.2)
