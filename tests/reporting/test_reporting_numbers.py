"""What the report computes itself: sampling of Fourier space, pictures, contours, and the script for ISOLDE."""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from reports import Page
from scipy.spatial.transform import Rotation

from cocofold.commands.demo import open_state
from cocofold.imaging.fourier import RingPixels
from cocofold.imaging.projection import REFERENCE_WIDTH_ANGSTROM, render_density
from cocofold.likelihood.frc_loss import AtomGaussians
from cocofold.likelihood.particle_optics import ParticleOptics
from cocofold.particles import read_particles
from cocofold.particles.poses import matrices_from_relion, view_directions
from cocofold.reporting.example_images import (
    _observed_pictures,
    _predicted_pictures,
    example_particles,
    read_run_particles,
)
from cocofold.reporting.plots import (
    compensation_factor,
    density_on_mollweide,
    measure_view_sampling,
    round_resolutions,
    shell_sampling,
    smoothing_deg,
)
from cocofold.reporting.run_contents import find_run_map, read_run
from cocofold.reporting.viewer_files import contour_level, viewer_density
from cocofold.structure.geometry import point_group_rotations
from cocofold.structure.read_model import read_model

RANDOM = np.random.default_rng(1)


def random_directions(count: int) -> np.ndarray:
    drawn = RANDOM.normal(size=(count, 3))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def around_an_axis(count: int) -> np.ndarray:
    """Side views: evenly around an oblique axis."""
    angle = np.arange(count) * 2 * np.pi / count
    flat = np.stack([np.cos(angle), np.sin(angle), np.zeros(count)], axis=1)
    return flat @ Rotation.from_rotvec([0.4, 1.1, -0.3]).as_matrix().T


def test_compensation_factor_has_the_published_values() -> None:
    assert compensation_factor(shell_sampling(random_directions(8000))) == pytest.approx(1, abs=0.02)
    # 8 / pi²: the mean of the sine of the angle to the axis, over that of its inverse.
    assert compensation_factor(shell_sampling(around_an_axis(8000))) == pytest.approx(8 / np.pi**2, abs=0.005)


def test_views_from_a_cone_leave_fourier_space_empty() -> None:
    tops = random_directions(20_000)
    tops = tops[tops[:, 2] > np.cos(np.deg2rad(30))]
    found = measure_view_sampling(tops)
    # Their slices reach 30° from the equator: half of the shell.
    assert found.unsampled_fraction == pytest.approx(0.5, abs=0.02)
    assert found.scf < 0.2


def test_symmetry_makes_sampling_more_even() -> None:
    side = around_an_axis(500)
    assert measure_view_sampling(side).scf < 0.82
    found = measure_view_sampling(side, point_group_rotations("O"))
    assert found.scf > 0.9
    assert found.views == 500


def test_points_without_a_view_count_as_in_the_authors_program() -> None:
    # Half sampled evenly by 10 views each, half not: mean 5; SCF of the sampled part 1 / (5 / 10) = 2; q/(1 - q) = 1.
    assert compensation_factor(np.repeat([0, 10], 50)) == pytest.approx(2 / (1 + 1 * 5 * 2 / 2))


def test_few_views_are_compared_with_as_many_random_ones() -> None:
    found = measure_view_sampling(random_directions(300))
    assert found.scf == pytest.approx(found.scf_of_random_views, abs=0.06)
    assert found.scf < 0.9
    assert found.views == 300


def test_directions_are_those_from_which_particles_were_seen() -> None:
    rot, tilt = np.deg2rad(40.0), np.deg2rad(65.0)
    found = view_directions(matrices_from_relion(np.array([40.0]), np.array([65.0]), np.array([-20.0])))
    assert found[0] == pytest.approx([np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)])


def test_mollweide_map_shows_views_where_they_are() -> None:
    x, y, density = density_on_mollweide(random_directions(50_000), 8, 120)
    assert np.nanmean(density) == pytest.approx(1, abs=0.02)
    assert np.isfinite(density).mean() == pytest.approx(np.pi / 4, abs=0.01)
    longitude, latitude = np.deg2rad(90.0), np.deg2rad(45.0)
    seen_from = [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)]
    _, _, density = density_on_mollweide(np.tile(seen_from, (50, 1)), 8, 120)
    lit = density > 0
    centre = (x[np.nonzero(lit)[1]].mean(), y[np.nonzero(lit)[0]].mean())
    # Tables of the projection have latitude 45° at 0.592 of the half axis; a longitude of 90° is half way outwards.
    assert centre == pytest.approx((np.sqrt(1 - 0.592**2), 0.592), abs=0.02)


def test_smoothing_has_enough_views_within() -> None:
    assert smoothing_deg(10) == 25
    assert smoothing_deg(10**6) == 5
    within = 500 * (1 - np.cos(np.deg2rad(smoothing_deg(500)))) / 2
    assert within == pytest.approx(12)


@pytest.mark.slow
@pytest.mark.independent
def test_pictures_show_what_relion_shows(shared_data: Path) -> None:
    """Projections of the structure that RELION projected, CTF applied, beside RELION's noise-free images."""
    folder = shared_data / "adk" / "small300"
    with mrcfile.open(folder / "clean_first10.mrcs", permissive=True) as file:
        clean = torch.as_tensor(np.array(file.data, dtype=np.float32))
    particles = read_particles(folder / "particles.star").subset(np.arange(len(clean)))
    model = read_model(shared_data / "adk" / "truth_open.cif")
    rings = RingPixels.up_to(particles.box, 10)
    optics = ParticleOptics(particles, rings)
    amplitudes = torch.as_tensor(model.atomic_numbers, dtype=torch.float32)
    gaussians = AtomGaussians(amplitudes, torch.full_like(amplitudes, REFERENCE_WIDTH_ANGSTROM))
    positions = torch.as_tensor(model.positions, dtype=torch.float32)
    ours = _predicted_pictures(positions, gaussians, particles, optics, rings)
    planes = torch.fft.fft2(clean)
    frequency = torch.fft.fftfreq(particles.box) * particles.box
    ring = torch.round(torch.sqrt(frequency[:, None] ** 2 + frequency[None] ** 2))
    low = torch.fft.ifft2(planes * (ring <= 8) * (ring > 0)).real.numpy()
    for place in range(len(clean)):
        plane = np.fft.rfft2(ours[place])
        shrunk = np.zeros((particles.box, particles.box // 2 + 1), complex)
        rows = np.r_[0:9, -8:0]
        shrunk[np.ix_(rows, np.arange(9))] = plane[np.ix_(rows, np.arange(9))]
        coarse = np.fft.irfft2(shrunk, s=(particles.box, particles.box))
        assert np.corrcoef(coarse.ravel(), low[place].ravel())[0, 1] > 0.97
    assert _observed_pictures(particles, optics, rings).shape == ours.shape


@pytest.mark.slow
def test_examples_are_of_those_not_fitted(copy_of: Callable[..., Path]) -> None:
    run = read_run(copy_of())
    particles = read_run_particles(run)
    heldout = set((particles.heldout + 1).tolist())
    assert len(heldout) == 6
    # The answer is of the second pass, which fitted all.
    assert {example.number for example in example_particles(run, particles)} != heldout
    one_pass = replace(run, cycles=[{**row, "frc_heldout": 0.5} for row in run.cycles])
    assert {example.number for example in example_particles(one_pass, particles)} == heldout


@pytest.mark.slow
def test_dark_images_are_shown_white(copy_of: Callable[..., Path], project: Path, tmp_path: Path) -> None:
    white = read_run(copy_of())
    expected = example_particles(white, read_run_particles(white))
    shutil.copytree(project / "particles", tmp_path / "dark")
    with mrcfile.open(next((tmp_path / "dark").glob("particles*.mrcs")), "r+", permissive=True) as stack:
        stack.set_data(-stack.data)
    for contrast in ("dark", "auto"):
        options = replace(white.options, contrast=contrast, particles=str(tmp_path / "dark" / "particles.star"))
        dark = replace(white, options=options)
        found = example_particles(dark, read_run_particles(dark))
        assert [example.image for example in found] == [example.image for example in expected]
        assert [example.frc_result for example in found] == pytest.approx([one.frc_result for one in expected])


@pytest.mark.slow
def test_poses_of_a_mirrored_map_are_mirrored(copy_of: Callable[..., Path]) -> None:
    run = read_run(copy_of())
    as_is = read_run_particles(run).used
    mirrored = read_run_particles(replace(run, metrics={**run.metrics, "hand": "mirrored"})).used
    assert view_directions(mirrored.rotations) == pytest.approx(view_directions(as_is.rotations) * [-1, -1, 1])


@pytest.mark.slow
def test_map_in_which_the_run_placed_its_model_is_used(copy_of: Callable[..., Path], tmp_path: Path) -> None:
    run = copy_of()
    assert find_run_map(read_run(run)) is None
    given = tmp_path / "given.mrc"
    shutil.copy(run / "density.mrc", given)
    found = read_run(run)
    options = replace(found.options, map=str(given))
    assert find_run_map(replace(found, options=options)) == given
    # Of the other hand: only the mirrored map, which the run wrote, has the model in it.
    other = replace(found, options=options, metrics={**found.metrics, "hand": "mirrored"})
    assert find_run_map(other) is None
    (run / "placement").mkdir()
    shutil.copy(given, run / "placement" / "mirrored.mrc")
    assert find_run_map(other) == run / "placement" / "mirrored.mrc"
    shutil.rmtree(run / "placement")
    with mrcfile.open(given, "r+") as file:
        file.voxel_size = 1.3
    assert find_run_map(replace(found, options=options)) is None


def test_contour_encloses_the_volume_of_the_model() -> None:
    model = read_model(open_state())
    ones = np.ones(len(model))
    values = render_density(model.positions, model.atomic_numbers * ones, 0.675 * ones, 64, 2.5)
    level = contour_level(values, 2.5**3, model)
    # 1.21 Å³ a dalton; adenylate kinase has 23.6 kDa, of which hydrogens are 7 %.
    assert (values >= level).sum() * 2.5**3 == pytest.approx(1.21 * 23_600 * 0.93, rel=0.02)

    shown = viewer_density(values, np.full(3, 2.5), model)
    grid = np.frombuffer(base64.b64decode(shown["bytes"]), np.uint8).reshape(shown["size"])
    inside = np.argwhere(grid >= shown["level"]) * 2.5 + np.array(shown["origin"])
    assert inside.mean(0) == pytest.approx(model.positions.mean(0), abs=0.5)
    assert len(inside) == pytest.approx((values >= level).sum(), rel=0.05)


def test_large_maps_are_made_coarser_in_place() -> None:
    model = read_model(open_state())
    ones = np.ones(len(model))
    values = render_density(model.positions, model.atomic_numbers * ones, 0.675 * ones, 200, 0.8)
    shown = viewer_density(values, np.full(3, 0.8), model)
    assert np.prod(shown["size"]) <= 80**3
    assert shown["voxel"] == [1.6] * 3
    # The middle of the first block of two voxels.
    assert (np.array(shown["origin"]) / 0.8) % 1 == pytest.approx(0.5)


def commands(script: Path) -> list[str]:
    return [line for line in script.read_text().splitlines() if not line.startswith("#")]


def opened(script: Path) -> list[Path]:
    """Files that ChimeraX opens, from the script's folder."""
    names = [found[1] for found in (re.match(r'open "([^"]+)" name', line) for line in commands(script)) if found]
    return [Path(os.path.normpath(script.parent / name)) for name in names]


@pytest.mark.slow
def test_isolde_script_opens_what_is_there(copy_of: Callable[..., Path], command: Callable[..., int]) -> None:
    run = copy_of()
    assert command("report", run) == 0
    script = run / "isolde" / "open_in_isolde.cxc"
    assert opened(script) == [run / "model.cif", run / "density.mrc", run / "models" / "cycle_00.cif"]
    assert not any(Path(line.split('"')[1]).is_absolute() for line in commands(script) if '"' in line)
    order = [line.split()[:2] for line in commands(script)]
    assert order.index(["addh", "#1"]) < order.index(["isolde", "start"]) < order.index(["clipper", "associate"])
    assert "clipper associate #2 toModel #1" in commands(script)

    elsewhere = run.parent / "my maps; first"
    elsewhere.mkdir()
    shutil.copy(run / "density.mrc", elsewhere / "post'process.mrc")
    assert command("report", run, "--map", elsewhere / "post'process.mrc") == 0
    assert opened(script)[1] == elsewhere / "post'process.mrc"
    assert opened(script)[1].is_file()


def test_isolde_shows_map_and_models_in_another_frame(
    copy_of: Callable[..., Path], command: Callable[..., int]
) -> None:
    run, origin, shift = copy_of(), (-70.0, -75.0, 3.5), (-60.0, -75.0, 3.5)
    shutil.copy(run / "density.mrc", run.parent / "map.mrc")
    words = ["--map", run.parent / "map.mrc", "--map-origin", *origin, "--model-shift", *shift]
    assert command("report", run, *words) == 0
    script = run / "isolde" / "open_in_isolde.cxc"
    result, density, start = opened(script)
    assert density == run.parent / "map.mrc"
    assert "volume #2 origin -70,-75,3.5" in commands(script)
    for shown, own in ((result, run / "model.cif"), (start, run / "models" / "cycle_00.cif")):
        assert np.abs(read_model(shown).positions - read_model(own).positions - shift).max() < 2e-3
    # On the page the map lies where it does in the run's frame: 10 Å lower along x
    here = Page(run / "report.html").data("molecules")["density"]["origin"]
    assert command("report", run, "--map", run.parent / "map.mrc") == 0
    there = Page(run / "report.html").data("molecules")["density"]["origin"]
    assert (np.subtract(here, there) % 3.0)[0] == pytest.approx(2.0)
    assert opened(script)[0] == run / "model.cif"


@pytest.mark.slow
@pytest.mark.parametrize("name", ['a"; exit; ".mrc', "all*.mrc", "line\nbreak.mrc", "[ab].mrc"])
def test_names_that_chimerax_would_misread_are_refused(
    name: str, copy_of: Callable[..., Path], command: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    run = copy_of()
    shutil.copy(run / "density.mrc", run.parent / name)
    assert command("report", run, "--map", run.parent / name) == 2
    assert "rename it" in capsys.readouterr().err
    assert not (run / "report.html").exists()


@pytest.mark.slow
def test_maps_that_are_none_are_refused(
    copy_of: Callable[..., Path], command: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    run = copy_of()
    assert command("report", run, "--map", run / "config.yaml") == 2
    assert "config.yaml: is no MRC or CCP4 map" in capsys.readouterr().err
    assert command("report", run, "--map", run / "absent.mrc") == 2
    assert "absent.mrc" in capsys.readouterr().err


@pytest.mark.parametrize("finest", [5.0, 3.3, 2.4, 1.05])
def test_ticks_are_round_resolutions_apart(finest: float) -> None:
    ticks = round_resolutions(finest)
    assert all(tick >= finest for tick in ticks)
    places = np.array([finest / tick for tick in ticks])
    assert len(ticks) >= 4
    assert np.diff(places).min() > 0.05
    assert all(float(f"{tick:.1f}") == tick for tick in ticks)
