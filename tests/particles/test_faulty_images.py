"""Images with pixels that are no signal are refused by name; what real images have is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from particle_project import Project

import cocofold
from cocofold.commands.demo import closed_state, open_state
from cocofold.likelihood.frc_loss import ContrastEstimate
from cocofold.particles import read_particles, without_bad_images
from cocofold.particles.mrc import require_usable_images
from cocofold.particles.star_write import write_star_subset
from cocofold.relaxation import minimization
from cocofold.simulation.particle_simulation import simulate
from cocofold.simulation.simulation_settings import SimulationSettings
from cocofold.structure.model import Model
from cocofold.system.errors import InputError

SIDE = 64


def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(3.0, 2.0, size=(5, SIDE, SIDE)).astype(np.float32)


def refuse(images: np.ndarray) -> None:
    require_usable_images(images, Path("stack.mrcs"), np.arange(10, 10 + len(images)))


@pytest.mark.parametrize("value", [3e38, -3e38, 1e20, 1e6, -1e5])
def test_one_pixel_that_is_no_signal_is_refused(value: float) -> None:
    images = noise()
    images[3, 10, 10] = value
    with pytest.raises(InputError, match=r"stack\.mrcs: image 14 \(counted from 1\) has pixels from"):
        refuse(images)


def test_a_saturated_row_is_refused() -> None:
    images = noise()
    images[3, 10] = 1e6
    with pytest.raises(InputError, match="image 14"):
        refuse(images)


def test_an_image_whose_power_is_no_float32_is_refused() -> None:
    images = noise()
    images[2] *= 1e17
    with pytest.raises(InputError, match="image 13"):
        refuse(images)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_what_real_images_have_is_not_refused(scale: float) -> None:
    """Hot pixels, gold, dead rows, masked and quantised images, of any detector's scale."""
    images = noise()
    y, x = np.mgrid[:SIDE, :SIDE]
    images[0, 5, 7] = 2000
    images[1, (y - 20) ** 2 + (x - 20) ** 2 < 25] = -600
    images[2, 9] = 0
    images[3, (y - 32) ** 2 + (x - 32) ** 2 > 20**2] = 0
    images[3, 32, 32] = 200
    images[4] = np.random.default_rng(1).poisson(0.03, size=(SIDE, SIDE))
    refuse((images * scale).astype(np.float32))
    refuse(np.round(images).astype(np.float32))
    refuse(np.zeros_like(images))
    refuse(np.full_like(images, 7.0))


def test_images_without_noise_are_not_refused() -> None:
    """A small molecule on what the Fourier transforms of a simulation leave of zero, or of a constant."""
    y, x = np.mgrid[:SIDE, :SIDE]
    molecule = 20 * np.exp(-((y - 30) ** 2 + (x - 34) ** 2) / (2 * 5.0**2))
    rounding = np.random.default_rng(0).normal(0, 2e-7, (SIDE, SIDE))
    refuse(np.stack([molecule + rounding, molecule + rounding + 100, -molecule + rounding]).astype(np.float32))


def test_the_sample_of_pixels_visits_all_columns() -> None:
    """What the spread of an image is, if two of three columns are masked, shows in the others alone."""
    image = np.zeros((1, 96, 96), np.float32)
    image[:, :, 1::3] = np.random.default_rng(0).normal(size=(1, 96, 32))
    refuse(image)
    image[0, 5, 1] = 1e6
    with pytest.raises(InputError, match="image 11"):
        refuse(image)


def test_reading_names_stack_and_image(tmp_path: Path) -> None:
    project = Project(tmp_path)
    star = project.star()
    with mrcfile.open(tmp_path / "stacks" / "a.mrcs", "r+") as stack:
        stack.data[2, 3, 3] = 3e38
    with pytest.raises(InputError, match=r"a\.mrcs: image 3 \(counted from 1\) has pixels"):
        read_particles(star).images(np.arange(3))


def test_an_image_of_one_value_has_no_signal(tmp_path: Path) -> None:
    project = Project(tmp_path)
    star = project.star()
    with mrcfile.open(tmp_path / "stacks" / "a.mrcs", "r+") as stack:
        stack.data[1] = 0.1
    particles = read_particles(star)
    images = particles.images(np.arange(3))
    assert not images[0].any()
    assert particles.reader.empty == {(tmp_path / "stacks" / "a.mrcs", 1)}
    assert np.array_equal(images[2], project.a[2])


def damage(folder: Path) -> None:
    """Image 2 of stack a is empty, image 3 has a pixel that is no signal."""
    with mrcfile.open(folder / "stacks" / "a.mrcs", "r+") as stack:
        stack.data[1] = 0.1
        stack.data[2, 3, 3] = np.nan


def test_bad_images_are_left_out_and_listed(tmp_path: Path) -> None:
    star = Project(tmp_path).star()
    whole, kept = without_bad_images(read_particles(star))
    assert len(whole) == 3
    damage(tmp_path)
    left, kept = without_bad_images(read_particles(star))
    assert kept.tolist() == [1]
    assert [path.name for path in left.stacks] == ["b.mrcs"]
    assert f"2 of 3 particles are left out for their images (--skip-bad-images): images (from 1) of {tmp_path}" in str(
        left.notes[-1]
    )
    assert left.notes[-1].endswith("a.mrcs: 2-3")
    with mrcfile.open(tmp_path / "stacks" / "b.mrcs", "r+") as stack:
        stack.data[:] = 3
    with pytest.raises(InputError, match="all 3 images are empty or no signal"):
        without_bad_images(read_particles(star))


def test_select_leaves_bad_images_out(tmp_path: Path, command: Callable[..., int]) -> None:
    star = Project(tmp_path).star()
    damage(tmp_path)
    one, two = tmp_path / "one.star", tmp_path / "two.star"
    arguments = ["select", "--particles", star, "--by", "random", "--skip-bad-images"]
    assert command(*arguments, "--count", 1, "--out", one) == 0
    assert [path.name for path in read_particles(one).stacks] == ["b.mrcs"]
    assert command(*arguments, "--count", 2, "--out", two) == 2
    assert not two.exists()


@pytest.fixture
def damaged_set(tmp_path: Path) -> Path:
    """STAR of 12 images, the third of which is empty and the fourth of which has a pixel that is no signal."""
    settings = SimulationSettings(model=str(open_state()), box=40, pixel_size=4.0, count=12, snr=1.0, seed=3)
    simulate(settings, tmp_path / "set")
    with mrcfile.open(tmp_path / "set" / "particles.mrcs", "r+") as stack:
        stack.data[2] = 0.1
        stack.data[3, 3, 3] = np.nan
    return tmp_path / "set" / "particles.star"


def test_assess_leaves_bad_images_out(
    damaged_set: Path, tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """With the figures of a STAR that never had them."""

    def assessed(star: Path, *more: str) -> dict:
        words = ["--model", closed_state(), "--particles", star, "--device", "cpu", "--json", tmp_path / "a.json"]
        assert command("assess", *words, *more) == 0
        return json.loads((tmp_path / "a.json").read_text())

    assert command("assess", "--model", closed_state(), "--particles", damaged_set, "--device", "cpu") == 2
    assert "leave such images out with --skip-bad-images" in capsys.readouterr().err
    found = assessed(damaged_set, "--skip-bad-images")
    assert found["images_left_out"].endswith("particles.mrcs: 3-4")
    assert found["images_left_out"] in capsys.readouterr().out
    rows = np.array([row for row in range(12) if row not in (2, 3)])
    good = damaged_set.parent / "good.star"
    write_star_subset(good, read_particles(damaged_set).subset(rows), damaged_set, rows)
    known = assessed(good)
    assert known["images_left_out"] is None
    assert (found["frc"], found["support"]) == (known["frc"], known["support"])


def test_relax_leaves_bad_images_out(
    damaged_set: Path, tmp_path: Path, command: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images' gradient is asked for; the mechanics are left out."""

    def relaxed(model: Model, settings: object, gradient: Callable, *_: object) -> minimization.RelaxedModel:
        assert np.isfinite(gradient(model.positions)).all()
        figures = minimization.Stereochemistry((), 0, (), 0.0)
        return minimization.RelaxedModel(model, figures, figures, 0, 0.0, "none", ("held",))

    monkeypatch.setattr(minimization, "relax", relaxed)
    out, record = tmp_path / "relaxed.cif", tmp_path / "r.json"
    words = ["relax", "--model", closed_state(), "--particles", damaged_set, "--device", "cpu", "--out", out]
    assert command(*words) == 2
    assert not out.exists()
    assert command(*words, "--json", record, "--skip-bad-images") == 0
    held, left_out = json.loads(record.read_text())["notes"]
    assert held == "held"
    assert left_out.endswith("particles.mrcs: 3-4")
    found = cocofold.relax(closed_state(), particles=damaged_set, skip_bad_images=True, device="cpu")
    assert found.notes == (held, left_out)


def test_what_is_no_number_decides_no_contrast() -> None:
    for correlation, error in ((np.nan, 0.1), (0.5, np.nan), (np.nan, np.nan)):
        assert ContrastEstimate(correlation, error, 60).verdict == "undecided"


@pytest.mark.independent
def test_a_flipped_bit_in_a_real_set_is_found(shared_data: Path, tmp_path: Path) -> None:
    for name in ("particles.star", "particles.mrcs"):
        shutil.copyfile(shared_data / "adk" / "small300" / name, tmp_path / name)
    particles = read_particles(tmp_path / "particles.star")
    everything = np.arange(len(particles))
    assert torch.isfinite(torch.as_tensor(particles.images(everything))).all()
    with mrcfile.mmap(tmp_path / "particles.mrcs", "r+", permissive=True) as stack:
        stack.data[3, 10, 10] = 3e38
    with pytest.raises(InputError, match=r"particles\.mrcs: image 4 "):
        particles.images(everything)
