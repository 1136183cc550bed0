"""Fine-tuning judges by the particles that a selection holds out, and leaves out the rings that it used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from cocofold.finetuning.holdout import split_into_passes
from cocofold.finetuning.options import Options
from cocofold.finetuning.preparation import apply_particle_options
from cocofold.finetuning.run import finetune
from cocofold.likelihood.frc_loss import AtomGaussians, correlate_in_chunks, mean_correlation_gradient
from cocofold.likelihood.observed_images import Observations
from cocofold.particles import read_particles
from cocofold.particles.particle_set import ParticleSet
from cocofold.particles.star_write import write_star
from cocofold.structure.model import Model
from cocofold.system.errors import InputError

SCORED = (4, 8, 12)


def gradient_of(particles: ParticleSet, model: Model) -> tuple[float, torch.Tensor]:
    observations = Observations(particles, 16)
    positions = torch.as_tensor(model.positions, dtype=torch.float32)
    gaussians = AtomGaussians.from_elements(model.atomic_numbers)
    rows, rings = torch.arange(8), observations.rings(16)
    value, gradient, _, _ = mean_correlation_gradient(positions, gaussians, observations, rows, rings, 8)
    return value, gradient


@pytest.mark.slow
def test_scored_rings_are_not_fitted(particles: ParticleSet, truth: Model, tmp_path: Path) -> None:
    some = particles.subset(np.arange(8))
    scored = replace(some, scored_rings=SCORED)
    value, gradient = gradient_of(scored, truth)
    observations = Observations(some, 16)
    positions = torch.as_tensor(truth.positions, dtype=torch.float32)
    gaussians = AtomGaussians.from_elements(truth.atomic_numbers)
    every = correlate_in_chunks(positions, gaussians, observations, torch.arange(8), observations.rings(16), 8)
    others = [ring - 1 for ring in range(1, 17) if ring not in SCORED]
    assert value == pytest.approx(float(every[:, others].mean()), abs=1e-6)
    # Whatever the images have in these rings, the fit does not see it.
    images = some.images(np.arange(8))
    transforms = np.fft.fft2(images)
    frequency = np.fft.fftfreq(48, 1 / 48)
    ring = np.round(np.hypot(frequency[:, None], frequency))
    transforms[:, np.isin(ring, SCORED)] *= -1
    with mrcfile.new(tmp_path / "changed.mrcs") as stack:
        stack.set_data(np.fft.ifft2(transforms).real.astype(np.float32))
    elsewhere = {"stacks": (tmp_path / "changed.mrcs",), "slice_index": np.arange(8)}
    other_value, other_gradient = gradient_of(replace(scored, **elsewhere), truth)
    assert other_value == pytest.approx(value, abs=1e-5)
    torch.testing.assert_close(other_gradient, gradient, rtol=0, atol=1e-4 * float(gradient.abs().max()))
    # That of all rings is another one.
    assert gradient_of(replace(some, **elsewhere), truth)[0] < gradient_of(some, truth)[0] - 0.05


def test_those_marked_are_held_out() -> None:
    marked = np.zeros(60, dtype=bool)
    marked[[3, 17, 18, 40, 59]] = True
    first, second = split_into_passes(60, 0, marked=marked)
    assert first.heldout.tolist() == [3, 17, 18, 40, 59]
    assert sorted(first.work.tolist() + first.heldout.tolist()) == list(range(60))
    assert (len(second.work), len(second.heldout)) == (60, 0)
    assert len(split_into_passes(600, 0, marked=np.arange(600) < 30)) == 1


@pytest.mark.slow
def test_a_run_judges_by_those_marked(particles: ParticleSet, truth: Model, tmp_path: Path) -> None:
    """Those that are marked are noise, so nothing is seen of the model in what is held out, and much in the rest."""
    marked = np.arange(len(particles)) % 5 == 0
    images = particles.images(np.arange(len(particles)))
    images[marked] = np.random.default_rng(0).normal(size=images[marked].shape)
    with mrcfile.new(tmp_path / "images.mrcs") as stack:
        stack.set_data(images)
    somewhere = {"stacks": (tmp_path / "images.mrcs",), "slice_index": np.arange(len(particles))}
    write_star(tmp_path / "all.star", replace(particles, **somewhere, held_out=marked, scored_rings=SCORED))
    model = tmp_path / "model.cif"
    truth.structure.make_mmcif_document().write_file(str(model))
    given = {"particles": str(tmp_path / "all.star"), "model": str(model), "check": False, "contrast": "white"}
    metrics = finetune(Options(**given, effort=0.02, cycles=2), tmp_path / "run")
    assert metrics["heldout_particles"] == marked.sum() == 16
    assert metrics["passes"] == 2
    assert abs(metrics["frc_heldout_start"]) < 0.03
    assert metrics["frc_work_start"] > 0.15
    assert "rings 4, 8, 12 are not fitted" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"heldout": 0.1}, "--heldout 0.1: .* says itself which particles are held out"),
        ({"first": 2}, "1 of 2 particles are marked as held out"),
    ],
)
def test_marks_that_cannot_be_followed(changed: dict, message: str, particles: ParticleSet) -> None:
    marked = replace(particles, held_out=np.arange(len(particles)) % 5 == 0)
    options = Options(particles="p.star", model="m.cif")
    np.testing.assert_array_equal(apply_particle_options(marked, options).held_out, marked.held_out)
    with pytest.raises(InputError, match=message):
        apply_particle_options(marked, replace(options, **changed))


@pytest.mark.slow
def test_marks_are_read_as_they_are_written(particles: ParticleSet, tmp_path: Path) -> None:
    path = tmp_path / "marked.star"
    marked = np.arange(len(particles)) % 3 == 0
    write_star(path, replace(particles, held_out=marked, scored_rings=SCORED))
    again = read_particles(path)
    assert again.held_out is not None
    np.testing.assert_array_equal(again.held_out, marked)
    assert again.scored_rings == SCORED
    np.testing.assert_array_equal(again.subset(np.arange(4)).held_out, marked[:4])
    write_star(path, particles)
    assert "cocofold" not in path.read_text()
    # Sets may have been joined.
    write_star(path, replace(particles, scored_rings=SCORED))
    text = path.read_text()
    path.write_text(text.replace("[4,8,12]", "[8,16]", 5))
    assert read_particles(path).scored_rings == (4, 8, 12, 16)
    path.write_text(text.replace("[4,8,12]", "[1,8]", 1))
    with pytest.raises(InputError, match="whole numbers from 2 on"):
        read_particles(path)
