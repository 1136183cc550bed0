"""A map reconstructed from particles: RELION's of the same particles, and that of the atoms that were imaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from literal_images import BOX, PIXEL, Scene
from scipy.ndimage import gaussian_filter

from cocofold.imaging.fourier import RingPixels
from cocofold.imaging.projection import render_density
from cocofold.likelihood import reconstruction
from cocofold.likelihood.frc_loss import AtomGaussians, correlate_in_chunks
from cocofold.likelihood.particle_optics import ParticleOptics
from cocofold.likelihood.reconstruction import MapProjections, Reconstruction, reconstruct, split_into_halves
from cocofold.particles import read_particles
from cocofold.particles.particle_set import ParticleSet
from cocofold.structure.geometry import point_group_rotations
from cocofold.structure.read_model import read_model
from cocofold.system.errors import InputError

TILT = (1.2, -0.7)
ODD = {(1, -1): 8.0, (3, -3): 20.0, (3, 3): 25.0}
MATRIX = ((1.05, 0.012), (0.035, 0.96))


def shells(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fourier shell correlation and the scale of the second map on the first, shells 0 to box / 2 - 1."""
    box = len(one)
    a, b = np.fft.fftn(one), np.fft.fftn(other)
    k = np.fft.fftfreq(box) * box
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).astype(int).ravel()
    cross, first, second = (
        np.bincount(shell, values.ravel())[: box // 2] for values in ((a * b.conj()).real, abs(a) ** 2, abs(b) ** 2)
    )
    return cross / np.sqrt(first * second), cross / first


@pytest.fixture(scope="module")
def particles(shared_data: Path) -> ParticleSet:
    return read_particles(shared_data / "adk" / "small300" / "particles.star")


@pytest.fixture(scope="module")
def found(particles: ParticleSet) -> Reconstruction:
    return reconstruct(particles)


@pytest.mark.independent
def test_projections_of_the_atoms_density_are_those_of_the_atoms(particles: ParticleSet, shared_data: Path) -> None:
    """At poses with shifts, and without the images' CTFs; another pose's are not."""
    model = read_model(shared_data / "adk" / "truth_open.cif")
    gaussians, rows = AtomGaussians.of_model(model), torch.arange(24)
    widths = gaussians.widths_angstrom.double().numpy()
    amplitudes, pixel = gaussians.amplitudes.double().numpy(), particles.pixel_size_angstrom
    density = render_density(model.positions, amplitudes, widths, particles.box, pixel)
    projections = MapProjections(particles, density, 31)
    positions = torch.as_tensor(model.positions, dtype=torch.float32)
    found = correlate_in_chunks(positions, gaussians, projections, rows, projections.rings(31), 5)
    assert found[:, :28].min() > 0.99
    assert found.min() > 0.9
    turned = correlate_in_chunks(positions.flip(1), gaussians, projections, rows, projections.rings(31), 5)
    assert turned[:, 8:].mean() < 0.3


@pytest.mark.independent
def test_maps_are_relions(shared_data: Path, found: Reconstruction) -> None:
    """In scale, sign and frame; the shell at Nyquist is left out here, and partly there."""
    for ours, name in zip((found.map, *found.half_maps), ("reconstruction", "half1", "half2")):
        correlation, scale = shells(ours, mrcfile.read(shared_data / "adk" / "small300" / f"{name}.mrc"))
        # Noise of voxels that few of 150 images reach is what differs.
        assert correlation[1:31].min() > 0.65, name
        assert correlation[1:8].min() > 0.98, name
        np.testing.assert_allclose(scale[1:8], 1, atol=0.05, err_msg=name)


def test_halves_are_of_the_half_sets(particles: ParticleSet, found: Reconstruction) -> None:
    assert found.images == (300, *(int((particles.half_set == half).sum()) for half in (1, 2)))
    first = reconstruct(particles.subset(particles.half_set == 1))
    np.testing.assert_allclose(first.map, found.half_maps[0], atol=1e-5 * np.abs(first.map).max())


def test_all_rows_of_an_image_are_in_one_half(particles: ParticleSet) -> None:
    rows = np.repeat(np.arange(20), 3)
    expanded = replace(particles, half_set=None).subset(rows)
    halves = split_into_halves(expanded, seed=3)
    assert sorted(np.concatenate(halves)) == list(range(60))
    assert len(halves[0]) == len(halves[1]) == 30
    assert not set(rows[halves[0]]) & set(rows[halves[1]])
    assert set(halves[0]) != set(split_into_halves(expanded, seed=4)[0])


def image_set(
    folder: Path, done: dict, told: dict, count: int = 150, square: bool = False
) -> tuple[Scene, ParticleSet]:
    """Noise-free images of atoms with some optics."""
    scene = Scene(count)
    planes, ctf = scene.transforms(**done)
    path = scene.write(folder, planes * ctf * (ctf if square else 1), [told], [1] * count)
    return scene, read_particles(path)


def agreement(scene: Scene, particles: ParticleSet) -> float:
    """Least correlation of shells with the atoms, to 3.3 Å."""
    found = reconstruct(particles).map
    widths = np.full(len(scene.charges), np.sqrt(0.456))
    return float(shells(found, render_density(scene.positions, scene.charges, widths, BOX, PIXEL))[0][1:25].min())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("done", "told"),
    [
        ({"tilt": TILT}, {"rlnBeamTiltX": TILT[0], "rlnBeamTiltY": TILT[1]}),
        (
            {"matrix": MATRIX},
            {f"rlnMagMat{row}{column}": MATRIX[row][column] for row in (0, 1) for column in (0, 1)},
        ),
        ({"odd": ODD}, {"rlnOddZernike": "[8,0,20,0,0,25]"}),
    ],
)
def test_optics_are_taken_out(tmp_path: Path, done: dict, told: dict) -> None:
    scene, particles = image_set(tmp_path, done, told)
    plain = replace(
        particles,
        optics=tuple(
            replace(group, beam_tilt_mrad=(0.0, 0.0), odd_zernike=(), magnification_matrix=((1.0, 0.0), (0.0, 1.0)))
            for group in particles.optics
        ),
    )
    right, wrong = agreement(scene, particles), agreement(scene, plain)
    assert right > 0.9
    assert wrong < right - 0.3


@pytest.mark.slow
def test_premultiplied_images_give_the_same_map(tmp_path: Path) -> None:
    """Their numerator is what the others' becomes."""
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    _, plain = image_set(tmp_path / "one", {}, {}, 20)
    _, multiplied = image_set(tmp_path / "other", {}, {"rlnCtfDataAreCtfPremultiplied": 1}, 20, square=True)
    one, other = reconstruct(plain), reconstruct(multiplied)
    np.testing.assert_allclose(one.map, other.map, atol=1e-4 * one.map.max())
    np.testing.assert_allclose(one.weights, other.weights, rtol=1e-4, atol=1e-5)


def test_a_symmetric_map_is_its_own_copy(particles: ParticleSet) -> None:
    found = reconstruct(particles.subset(np.arange(40)), point_group_rotations("C2")).map
    turned = np.roll(found[:, ::-1, ::-1], (1, 1), axis=(1, 2))
    np.testing.assert_allclose(found[:, 1:, 1:], turned[:, 1:, 1:], atol=1e-4 * np.abs(found).max())


def test_what_no_image_shows_is_not_trusted(particles: ParticleSet) -> None:
    """One view along z gives the plane z = 0 alone."""
    one = particles.subset(np.arange(1))
    share = reconstruct(replace(one, rotations=np.eye(3)[None])).trusted_share
    # Of a voxel and its 26 neighbours in the padded volume, weighted as far as they count, an eighth lies in the plane
    # where pixels are; there zeros of the CTF are an exception.
    assert np.median(share[0, 1:10, 1:10]) == pytest.approx(1 / 8)
    assert (share[3:-3] == 0).all()
    assert share.max() <= 1


def test_each_pixel_counts_once(particles: ParticleSet) -> None:
    """Also those of the column kx = 0, which holds each together with its Friedel mate."""
    one = particles.subset(np.arange(1))
    one = replace(one, rotations=np.eye(3)[None])
    rings = RingPixels.up_to(one.box, one.box // 2 - 1)
    squared = ParticleOptics(one, rings).transfer(torch.tensor([0]), rings)[0].numpy() ** 2
    # An eighth of what is around a frequency is at it.
    plane = 8 * reconstruct(one).weights[0]
    np.testing.assert_allclose(plane.ravel()[rings.flat_indices_in(one.box)], squared, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_atoms_far_out_are_as_dense_as_at_the_centre(tmp_path: Path) -> None:
    scene = Scene(200)
    out = 20 * PIXEL
    scene.atoms, scene.charges = np.array([[0.0, 0, 0], [out, 0, 0], [0, -out, 0]]), np.full(3, 8.0)
    planes, ctf = scene.transforms()
    found = reconstruct(read_particles(scene.write(tmp_path, planes * ctf, [{}], [1] * 200))).map
    smooth = gaussian_filter(found, 1.5)
    middle = BOX // 2
    heights = [smooth[middle, middle, middle], smooth[middle, middle, middle + 20], smooth[middle, middle - 20, middle]]
    np.testing.assert_allclose(np.array(heights) / heights[0], 1, atol=0.04)


@pytest.mark.parametrize(
    "error", [torch.cuda.OutOfMemoryError("CUDA out of memory"), RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED")]
)
@pytest.mark.parametrize("free", [0, 1 << 40])
def test_what_a_gpu_leaves_to_the_processor_must_fit_there(
    free: int, error: RuntimeError, particles: ParticleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU that says to have room, and then has none."""
    asked = []

    def fail(device: torch.device, *_: object) -> str:
        asked.append(device.type)
        if device.type == "cuda":
            raise error
        return "map"

    monkeypatch.setattr(reconstruction, "_reconstruct_on", fail)
    monkeypatch.setattr(reconstruction, "free_bytes", lambda device: free if device.type == "cpu" else 1 << 40)
    if free:
        assert reconstruct(particles, device="cuda") == "map"
        assert asked == ["cuda", "cpu"]
    else:
        with pytest.raises(InputError, match="more memory"):
            reconstruct(particles, device="cuda")
        assert asked == ["cuda"]
