"""Image formation against direct sums in double precision, and its invariants."""

from __future__ import annotations

import math

import numpy as np
import pytest
import roma
import torch

from cocofold.imaging.fourier import (
    Ctf,
    RingPixels,
    contrast_transfer,
    electron_wavelength_angstrom,
    normalise_rings,
    ring_correlations,
    ring_count,
    ring_sums,
)
from cocofold.imaging.projection import Poses, Splat, added_width_angstrom, project, render_density, rendering_grid

BOX, PIXEL = 64, 1.7


def _atoms(count: int = 40, spread: float = 12.0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    centre = (BOX // 2) * PIXEL
    positions = centre + spread * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    amplitudes = 1 + 15 * torch.rand(count, generator=generator, dtype=torch.float64)
    widths = 0.35 + 0.5 * torch.rand(count, generator=generator, dtype=torch.float64)
    return positions.to(dtype), amplitudes.to(dtype), widths.to(dtype)


def _poses(count: int = 3, dtype: torch.dtype = torch.float32) -> Poses:
    torch.manual_seed(2)
    origins = torch.tensor([[0.37, -4.1], [6.03, 2.22], [0.0, 0.0]], dtype=dtype)[:count]
    return Poses(roma.random_rotmat(count, dtype=torch.float64).to(dtype), origins)


def _direct(atoms: tuple[torch.Tensor, ...], poses: Poses, rings: RingPixels) -> np.ndarray:
    """Sum over atoms of their Gaussians' transforms, without a grid."""
    positions, amplitudes, widths = (values.double().numpy() for values in atoms)
    centre = (BOX // 2) * PIXEL
    frequency = np.stack([rings.kx.numpy(), rings.ky.numpy()]) / (BOX * PIXEL)
    planes = []
    for rotation, origin in zip(poses.rotations.double().numpy(), poses.origins_angstrom.double().numpy()):
        planar = ((positions - centre) @ rotation.T)[:, :2] + centre - origin
        form = 2 * np.pi * widths**2 * np.exp(-2 * np.pi**2 * widths**2 * (frequency**2).sum(0)[:, None])
        planes.append((form * amplitudes * np.exp(-2j * np.pi * (planar @ frequency).T)).sum(1))
    return np.array(planes)


@pytest.mark.parametrize("n_rings", [3, 10, 31])
def test_projection_is_the_direct_sum(n_rings: int) -> None:
    atoms, poses = _atoms(), _poses()
    rings = RingPixels.up_to(BOX, n_rings)
    ours = torch.view_as_complex(project(*atoms, poses, rings, PIXEL)).numpy()
    # Undo the width that all atoms are given for rendering, and the grid's scale.
    spacing = BOX * PIXEL / rendering_grid(n_rings)
    k2 = (rings.kx.numpy() ** 2 + rings.ky.numpy() ** 2) / (BOX * PIXEL) ** 2
    ours = ours * spacing**2 * np.exp(2 * np.pi**2 * added_width_angstrom(spacing) ** 2 * k2)
    theirs = _direct(atoms, poses, rings)
    error, power = (np.bincount(rings.ring.numpy(), (np.abs(values) ** 2).sum(0)) for values in (ours - theirs, theirs))
    relative = np.sqrt(error / power)
    assert relative[: math.ceil(0.7 * n_rings)].max() < 0.01
    assert relative.max() < 0.05


def test_atoms_outside_the_image_are_left_out() -> None:
    atoms, poses, rings = _atoms(), _poses(), RingPixels.up_to(BOX, 20)
    far = torch.cat([atoms[0], atoms[0][:5] + 10 * BOX * PIXEL])
    extended = (far, torch.cat([atoms[1], atoms[1][:5]]), torch.cat([atoms[2], atoms[2][:5]]))
    torch.testing.assert_close(project(*extended, poses, rings, PIXEL), project(*atoms, poses, rings, PIXEL))


def test_a_turned_model_under_turned_poses_gives_the_same_images() -> None:
    atoms, poses, rings = _atoms(), _poses(), RingPixels.up_to(BOX, 20)
    turn = roma.rotvec_to_rotmat(torch.tensor([0.3, -1.1, 0.7]))
    centre = (BOX // 2) * PIXEL
    turned = (atoms[0] - centre) @ turn.T + centre
    counter = Poses(poses.rotations @ turn.T, poses.origins_angstrom)
    first = project(*atoms, poses, rings, PIXEL)
    second = project(turned, atoms[1], atoms[2], counter, rings, PIXEL)
    assert (first - second).abs().max() < 1e-4 * first.abs().max()


def test_gradients_agree_with_finite_differences() -> None:
    atoms = tuple(values.requires_grad_() for values in _atoms(12, 8.0, torch.float64))
    poses, rings = _poses(2, torch.float64), RingPixels.up_to(BOX, 12)
    torch.manual_seed(5)
    observed = normalise_rings(torch.randn(2, len(rings), 2, dtype=torch.float64), rings)

    def value(*values: torch.Tensor) -> torch.Tensor:
        return ring_correlations(project(*values, poses, rings, PIXEL), observed, rings).mean()

    assert torch.autograd.gradcheck(value, atoms, eps=1e-5, atol=1e-7, rtol=1e-4)


def test_splat_gradient_at_and_beyond_the_borders() -> None:
    torch.manual_seed(0)
    x, y = ((torch.rand(2, 6, dtype=torch.float64) * 16 - 3).requires_grad_() for _ in range(2))
    peak = torch.rand(2, 6, dtype=torch.float64).requires_grad_()
    exponent = (0.5 + 0.3 * torch.rand(6, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda *values: Splat.apply(*values, 10, 3), (x, y, peak, exponent))


def test_rings_are_nearest_integers_and_cover_the_plane() -> None:
    rings = RingPixels.up_to(BOX, 31)
    k = torch.sqrt((rings.kx**2 + rings.ky**2).double())
    assert (k - (rings.ring + 1)).abs().max() <= 0.5
    frequency = np.fft.fftfreq(BOX, 1 / BOX)
    whole = np.round(np.hypot(*np.meshgrid(frequency, frequency))).astype(int)
    counts = np.bincount(whole.ravel())[1:32]
    weights = ring_sums(rings.weight[None], rings)[0].numpy()
    np.testing.assert_array_equal(weights, counts)


def test_ring_count_follows_resolution() -> None:
    assert ring_count(64, 2.5) == 31
    assert ring_count(64, 2.5, 10.0) == 16
    assert ring_count(64, 2.5, 1.0) == 31
    assert ring_count(64, 2.5, 1e4) == 1


def test_an_image_correlates_with_itself_fully_and_ring_factors_cancel() -> None:
    atoms, poses, rings = _atoms(), _poses(), RingPixels.up_to(BOX, 25)
    images = project(*atoms, poses, rings, PIXEL)
    envelope = torch.exp(-0.1 * (rings.ring + 1.0))[None, :, None]
    ones = torch.ones(3, 25)
    torch.testing.assert_close(ring_correlations(images, normalise_rings(images, rings), rings), ones)
    torch.testing.assert_close(ring_correlations(images * envelope, normalise_rings(images, rings), rings), ones)
    assert (ring_correlations(-images, normalise_rings(images, rings), rings) < -0.999).all()
    dark = torch.zeros_like(images).requires_grad_()
    empty = ring_correlations(dark, normalise_rings(images, rings), rings)
    assert (empty == 0).all()
    (slope,) = torch.autograd.grad(empty.sum(), dark)
    assert (slope == 0).all()


def _ctf(**changes: float) -> Ctf:
    values = {
        "defocus_u_angstrom": 17000.0,
        "defocus_v_angstrom": 12000.0,
        "defocus_angle_rad": 0.6,
        "phase_shift_rad": 0.4,
        "amplitude_contrast": 0.1,
        "wavelength_angstrom": electron_wavelength_angstrom(300),
        "cs_angstrom": 2.7e7,
        "bfactor_a2": 30.0,
        "scale": 0.8,
        "flipped": 0.0,
        "premultiplied": 0.0,
    }
    return Ctf(**{name: torch.tensor([value], dtype=torch.float64) for name, value in {**values, **changes}.items()})


def test_ctf_with_strong_astigmatism_follows_the_stated_formula() -> None:
    generator = np.random.default_rng(0)
    kx, ky = generator.uniform(-0.2, 0.2, (2, 200))
    wavelength = 0.019687
    theta = np.arctan2(ky, kx)
    defocus = 14500 + 2500 * np.cos(2 * (theta - 0.6))
    k2 = kx**2 + ky**2
    phase = np.pi * wavelength * defocus * k2 - np.pi / 2 * 2.7e7 * wavelength**3 * k2**2 + np.arcsin(0.1) + 0.4
    expected = 0.8 * np.exp(-30 * k2 / 4) * np.sin(phase)
    ours = contrast_transfer(_ctf(), torch.as_tensor(kx), torch.as_tensor(ky))[0].numpy()
    assert np.abs(ours - expected).max() < 2e-3
    other_way = contrast_transfer(_ctf(defocus_angle_rad=-0.6), torch.as_tensor(kx), torch.as_tensor(ky))[0].numpy()
    assert np.corrcoef(other_way, expected)[0, 1] < 0.9
    flipped = contrast_transfer(_ctf(flipped=1.0), torch.as_tensor(kx), torch.as_tensor(ky))[0].numpy()
    np.testing.assert_allclose(flipped, np.abs(ours))
    squared = contrast_transfer(_ctf(premultiplied=1.0, scale=1.0), torch.as_tensor(kx), torch.as_tensor(ky))[0]
    np.testing.assert_allclose(squared.numpy(), (ours / 0.8) ** 2 * np.exp(30 * k2 / 4), rtol=1e-6)


def test_wavelength() -> None:
    assert electron_wavelength_angstrom(300) == pytest.approx(0.019687, abs=1e-6)
    assert electron_wavelength_angstrom(200) == pytest.approx(0.025079, abs=1e-6)


def test_density_map_puts_atoms_in_place() -> None:
    position = np.array([[30.3, 41.7, 52.2]])
    volume = render_density(position, np.array([6.0]), np.array([0.6]), 48, 2.0)
    z, y, x = (np.arange(48) * 2.0 for _ in range(3))
    total = volume.sum()
    centre = [
        (volume.sum((0, 1)) * x).sum() / total,
        (volume.sum((0, 2)) * y).sum() / total,
        (volume.sum((1, 2)) * z).sum() / total,
    ]
    np.testing.assert_allclose(centre, position[0], atol=0.02)
    assert total * 8 == pytest.approx(6.0 * (2 * math.pi * 0.36) ** 1.5, rel=0.01)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_what_the_cpu_gives() -> None:
    def run(device: str) -> list[torch.Tensor]:
        leaves = [values.to(device).requires_grad_() for values in _atoms()]
        rings = RingPixels.up_to(BOX, 25, device)
        torch.manual_seed(3)
        observed = normalise_rings(torch.randn(3, len(rings), 2).to(device), rings)
        value = ring_correlations(project(*leaves, _poses().to(device), rings, PIXEL), observed, rings).mean()
        value.backward()
        return [value.detach().cpu(), *(leaf.grad.cpu() for leaf in leaves if leaf.grad is not None)]

    for ours, theirs in zip(run("cuda"), run("cpu")):
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()
