"""What disturbs real images: each disturbance is in the images, or in the STAR, as it was asked for."""

from __future__ import annotations

import json
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from cocofold.commands.demo import open_state
from cocofold.imaging.fourier import Ctf
from cocofold.particles import read_particles
from cocofold.simulation.particle_simulation import NoiseGenerator
from cocofold.simulation.scene import atom_cloud, draw_neighbours, particle_clouds
from cocofold.simulation.simulation_settings import SimulationSettings
from cocofold.structure.read_model import read_model

FEW = ("--count", 400, "--box", 16, "--pixel-size", 9)


def stack_of(path: Path) -> np.ndarray:
    with mrcfile.open(path) as file:
        return file.data.astype(float)


def rings(box: int) -> np.ndarray:
    frequency = np.fft.fftfreq(box) * box
    return np.rint(np.hypot(*np.meshgrid(frequency, frequency))).astype(int)


def power(images: np.ndarray) -> np.ndarray:
    """Mean power in each Fourier ring."""
    of_pixels = (np.abs(np.fft.fft2(images)) ** 2).mean(0)
    ring = rings(images.shape[-1])
    return (
        np.bincount(ring.ravel(), of_pixels.ravel())[: images.shape[-1] // 2]
        / np.bincount(ring.ravel())[: images.shape[-1] // 2]
    )


def settings(**changed: object) -> SimulationSettings:
    return SimulationSettings(**{"model": "m.cif", "box": 64, "pixel_size": 2.5, "count": 2000, "snr": 0.1, **changed})


def in_focus(count: int, defocus: float) -> Ctf:
    zero, one = torch.zeros(count), torch.ones(count)
    return Ctf(defocus * one, defocus * one, zero, zero, 0.1 * one, 0.0197 * one, 2.7e7 * one, zero, one, zero, zero)


def test_noise_of_the_ice_is_coloured_and_seen_through_the_ctf() -> None:
    streams = [np.random.default_rng(seed) for seed in range(2)]
    noise = NoiseGenerator(64, 2.5, 1.0, 0.0, *streams).images(in_focus(300, 15000))
    assert noise.std(axis=(1, 2)) == pytest.approx(np.ones(300), rel=0.15)
    k2 = (np.arange(32) / 160) ** 2
    phase = np.pi * 0.0197 * 15000 * k2 - np.pi / 2 * 2.7e7 * 0.0197**3 * k2**2 + np.arcsin(0.1)
    expected = np.sin(phase) ** 2 / (1 + 100 * k2)
    assert np.corrcoef(power(noise)[1:], expected[1:])[0, 1] > 0.97
    # White noise has no such rings.
    white = NoiseGenerator(64, 2.5, 0.0, 0.0, *streams).images(in_focus(300, 15000))
    assert power(white)[1:] == pytest.approx(np.full(31, 4096), rel=0.05)


def test_a_share_of_the_noise_is_from_the_ice() -> None:
    streams = [np.random.default_rng(seed) for seed in range(2)]
    mixed = NoiseGenerator(64, 2.5, 0.4, 0.0, *streams).images(in_focus(300, 15000))
    assert mixed.std() == pytest.approx(1, rel=0.02)
    # Near a zero of the CTF little more than the white share is left.
    phase = np.pi * 0.0197 * 15000 * (np.arange(32) / 160) ** 2 + np.arcsin(0.1)
    zero = int(np.argmin(np.abs(np.sin(phase[8:14])))) + 8
    assert 0.6 < power(mixed)[zero] / 4096 < 0.75
    assert power(mixed)[zero - 5 : zero].max() / 4096 > 1.3


def test_images_fade_with_the_b_factor(simulate) -> None:
    sharp, faded = (
        stack_of(simulate("--clean", "--bfactor", b, "--count", 20, name=f"b{b}") / "clean.mrcs") for b in (0, 200)
    )
    ratio = power(faded)[1:] / power(sharp)[1:]
    k2 = (np.arange(1, 24) / 144) ** 2
    # Power fades with the square of the envelope; the SNR, and so the scale, is the same.
    slope = np.polyfit(k2, np.log(ratio), 1)[0]
    assert slope == pytest.approx(-200 / 2, rel=0.05)


def test_solvent_takes_away_contrast_where_atoms_are() -> None:
    model = read_model(open_state())
    atoms, solvent = particle_clouds(model, settings(solvent=True))
    mass, missing = (float((part.amplitudes * part.widths_angstrom**3).sum()) for part in (atoms, solvent))
    # Mean inner potentials of ice and of protein differ by some 40 %.
    assert -missing / mass == pytest.approx(0.65, abs=0.05)
    assert (solvent.widths_angstrom > atoms.widths_angstrom.max()).all()


def test_belt_lies_around_the_middle_and_leaves_the_protein_free() -> None:
    model = read_model(open_state())
    belt = particle_clouds(model, settings(belt=24.0))[-1]
    centre = model.positions.mean(0)
    longest = np.linalg.svd(model.positions - centre, full_matrices=False)[2][0]
    assert np.abs((belt.positions - centre) @ longest).max() < 12.1
    distance = np.linalg.norm(belt.positions[:, None] - model.positions[None], axis=2).min(1)
    assert distance.min() > 3
    assert distance.max() < 30
    assert belt.amplitudes.min() > 0


def test_neighbours_touch_neither_the_particle_nor_come_from_nowhere() -> None:
    reach = 30.0
    found = draw_neighbours(settings(neighbours=1.5), reach, np.random.default_rng(0))
    distance = np.linalg.norm(found.offsets_angstrom, axis=1)
    assert len(found.image) / 2000 == pytest.approx(1.5, rel=0.06)
    assert distance.min() >= 2 * reach
    assert distance.max() <= 160 / np.sqrt(2) + reach
    images = np.arange(500, 700)
    layers = found.groups_without_repeats(images)
    assert sorted(np.concatenate(layers)) == np.flatnonzero(np.isin(found.image, images)).tolist()
    assert all(len(np.unique(found.image[layer])) == len(layer) for layer in layers)


def test_neighbours_are_in_the_images(simulate) -> None:
    alone, crowded = (
        stack_of(simulate("--clean", "--neighbours", n, "--box", 64, name=f"n{n}") / "clean.mrcs") for n in (0, 2)
    )
    added = (crowded - alone).var(0)
    middle = slice(24, 40)
    assert added[:8].mean() > 3 * added[middle, middle].mean()
    assert (np.abs(crowded - alone).max(axis=(1, 2)) > 0.1).sum() > 35


def test_junk_is_empty_or_shapeless(simulate) -> None:
    out = simulate("--clean", "--junk", 0.4)
    junk = json.loads((out / "truth.json").read_text())["junk"]
    images, intact = stack_of(out / "clean.mrcs"), stack_of(simulate("--clean", name="intact") / "clean.mrcs")
    changed = np.flatnonzero(np.abs(images - intact).max(axis=(1, 2)) > 0)
    assert junk == changed.tolist()
    assert len(junk) == 24
    assert (np.abs(images[junk]).max(axis=(1, 2)) == 0).sum() == 12
    blobs = [row for row in junk if np.abs(images[row]).max() > 0]
    likeness = [np.corrcoef(images[row].ravel(), intact[row].ravel())[0, 1] for row in blobs]
    assert np.mean(likeness) < 0.85
    assert np.array_equal(np.delete(images, junk, 0), np.delete(intact, junk, 0))


def test_preferred_views_lie_about_the_poles(simulate) -> None:
    out = simulate(*FEW, "--preferred", 10, "--preferred-share", 0.5)
    from_axis = np.degrees(np.arccos(np.abs(read_particles(out / "particles.star").rotations[:, 2, 2])))
    # Half of the views within a Rayleigh distribution of 10°, of the uniform half 13 % within 30°.
    assert (from_axis < 30).mean() == pytest.approx(0.5 * 0.989 + 0.5 * 0.134, abs=0.06)
    assert (from_axis < 10).mean() == pytest.approx(0.5 * 0.393 + 0.5 * 0.015, abs=0.06)
    above = read_particles(out / "particles.star").rotations[:, 2, 2] > 0
    assert above.mean() == pytest.approx(0.5, abs=0.08)


def test_errors_of_defocus_are_in_the_star_and_not_in_the_images(simulate) -> None:
    exact, off = simulate(*FEW, name="exact"), simulate(*FEW, "--defocus-noise", 300, name="off")
    assert (exact / "particles.mrcs").read_bytes() == (off / "particles.mrcs").read_bytes()
    told, truth = read_particles(off / "particles.star"), read_particles(off / "true_poses.star")
    assert (told.defocus_u_angstrom - truth.defocus_u_angstrom).std() == pytest.approx(300, rel=0.12)
    assert (told.defocus_v_angstrom - truth.defocus_v_angstrom).std() == pytest.approx(300, rel=0.12)
    assert np.array_equal(told.rotations, truth.rotations)


def test_life_like_is_all_of_it_and_options_replace_its_parts(simulate) -> None:
    out = simulate("--life-like", "--junk", 0, "--box", 64, "--count", 4)
    used = json.loads((out / "truth.json").read_text())["settings"]
    assert used["junk"] == 0
    assert used["ice"] > 0
    assert used["solvent"] is True
    assert min(used[name] for name in ("belt", "neighbours", "bfactor", "pose_noise", "defocus_noise")) > 0
    assert used["preferred"] > 0
    cone = simulate("--life-like", "--missing-cone", 60, "--box", 64, "--count", 4, name="cone")
    assert json.loads((cone / "truth.json").read_text())["settings"]["preferred"] is None


def test_each_disturbance_leaves_the_draws_of_the_others_alone(simulate) -> None:
    plain, disturbed = simulate(name="plain"), simulate("--junk", 0.3, "--ice", 0.5, name="disturbed")
    first, second = (read_particles(folder / "true_poses.star") for folder in (plain, disturbed))
    assert np.array_equal(first.rotations, second.rotations)
    assert np.array_equal(first.defocus_u_angstrom, second.defocus_u_angstrom)
    assert np.array_equal(atom_cloud(read_model(plain / "truth.cif")).positions,
                          atom_cloud(read_model(disturbed / "truth.cif")).positions)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--ice", 1.1), ["--ice 1.1", "to 1"]),
        (("--bfactor", -1), ["--bfactor -1", "from 0"]),
        (("--belt", -1), ["--belt -1", "from 0"]),
        (("--belt", 60, "--box", 32), ["atoms and the belt reach", "--box"]),
        (("--neighbours", 21), ["--neighbours 21", "to 20"]),
        (("--junk", 0.95), ["--junk 0.95", "to 0.9"]),
        (("--defocus-noise", -1), ["--defocus-noise -1", "from 0"]),
        (("--preferred", 91), ["--preferred 91", "to 90"]),
        (("--preferred", 20, "--preferred-share", 1.2), ["--preferred-share 1.2", "to 1"]),
        (("--preferred", 20, "--missing-cone", 20), ["contradict"]),
        (("--views", "preferred"), ["--preferred DEG"]),
        (("--views", "uniform", "--preferred", 20), ["contradict"]),
    ],
)
def test_what_cannot_work_is_refused(simulate, options: tuple, words: list[str], capsys: pytest.CaptureFixture) -> None:
    out = simulate(*options, status=2)
    message = capsys.readouterr().err
    for word in words:
        assert word in message
    assert not out.exists()
