"""Dark protein: found from the images and the start model, or told."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from cocofold.finetuning.options import Options
from cocofold.finetuning.run import finetune
from cocofold.imaging.projection import REFERENCE_WIDTH_ANGSTROM
from cocofold.likelihood.frc_loss import AtomGaussians, ContrastEstimate, find_contrast
from cocofold.likelihood.observed_images import Observations
from cocofold.particles import read_particles
from cocofold.particles.particle_set import ParticleSet
from cocofold.structure.read_model import read_model
from cocofold.system.errors import InputError


def with_images(star: Path, folder: Path, images: np.ndarray) -> Path:
    """The STAR beside another stack."""
    folder.mkdir()
    (folder / "particles.star").write_text(star.read_text())
    with mrcfile.new(folder / "particles.mrcs") as file:
        file.set_data(images.astype(np.float32))
    return folder / "particles.star"


@pytest.fixture
def data(shared_data: Path) -> tuple[Path, Path, ParticleSet]:
    star = shared_data / "adk/two_optics/particles.star"
    return star, shared_data / "adk/start_closed.cif", read_particles(star)


def found(particles: ParticleSet, model_path: Path) -> str:
    model = read_model(str(model_path))
    amplitudes = torch.as_tensor(model.atomic_numbers, dtype=torch.float32)
    gaussians = AtomGaussians(amplitudes, torch.full_like(amplitudes, REFERENCE_WIDTH_ANGSTROM))
    observations = Observations(particles, 31)
    return find_contrast(torch.as_tensor(model.positions, dtype=torch.float32), gaussians, observations).verdict


@pytest.mark.slow
def test_white_dark_and_undecided_images(data: tuple[Path, Path, ParticleSet], tmp_path: Path) -> None:
    star, model, particles = data
    images = particles.images(np.arange(300))
    noise = np.random.default_rng(0).normal(size=images.shape)
    rows = np.arange(0, 300, 5)
    assert found(particles.subset(rows), model) == "white"
    assert found(read_particles(with_images(star, tmp_path / "dark", -images)).subset(rows), model) == "dark"
    assert found(read_particles(with_images(star, tmp_path / "noise", noise)).subset(rows), model) == "undecided"
    assert found(particles.subset(rows[:1]), model) == "undecided"


@pytest.mark.slow
def test_a_run_on_dark_images_is_the_run_on_white_ones(data: tuple[Path, Path, ParticleSet], tmp_path: Path) -> None:
    star, model, particles = data
    dark = with_images(star, tmp_path / "data", -particles.images(np.arange(300)))
    answers = {}
    for name, path, contrast in (
        ("white", star, "white"),
        ("found", dark, "auto"),
        ("told", dark, "dark"),
    ):
        options = Options(
            particles=str(path), model=str(model), contrast=contrast, first=24, effort=0.01, seed=3, check=False
        )
        finetune(options, tmp_path / name)
        answers[name] = (tmp_path / name / "models/cycle_09.cif").read_text()
    assert answers["found"] == answers["told"] == answers["white"]
    log = (tmp_path / "found/log.txt").read_text()
    assert log.count("protein is dark in the images") == 1
    assert "dark" not in (tmp_path / "white/log.txt").read_text()


@pytest.mark.parametrize(
    ("errors", "expected"), [(5.5, "white"), (4.5, "undecided"), (-4.5, "undecided"), (-5.5, "dark")]
)
def test_a_contrast_is_clear_from_five_standard_errors_on(errors: float, expected: str) -> None:
    assert ContrastEstimate(0.01 * errors, 0.01, 300).verdict == expected


def test_other_words_are_refused() -> None:
    with pytest.raises(InputError, match="--contrast black: give auto, white or dark"):
        Options(particles="a.star", model="b.cif", contrast="black")
