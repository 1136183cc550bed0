"""Image formation and its gradient against the paper's equations written plainly (``benchmarks.literal``)."""

from __future__ import annotations

import numpy as np
import pytest
import roma
import torch

from benchmarks import literal
from cocofold.imaging import projection
from cocofold.imaging.fourier import (
    Ctf,
    RingPixels,
    contrast_transfer,
    electron_wavelength_angstrom,
    normalise_rings,
    ring_correlations,
)
from cocofold.imaging.projection import Poses, added_width_angstrom, project, rendering_grid

BOX, PIXEL = 32, 1.9


@pytest.fixture
def case() -> dict:
    generator = torch.Generator().manual_seed(3)
    return {
        "positions": 31 + 7 * torch.randn(60, 3, generator=generator, dtype=torch.float64),
        "amplitudes": 5 + 4 * torch.rand(60, generator=generator, dtype=torch.float64),
        "widths": 0.5 + 0.3 * torch.rand(60, generator=generator, dtype=torch.float64),
        "rotation": roma.rotvec_to_rotmat(torch.tensor([0.4, -1.2, 0.9], dtype=torch.float64)),
        "origin": torch.tensor([1.3, -2.4], dtype=torch.float64),
        "image": torch.randn(BOX, BOX, generator=generator, dtype=torch.float64),
    }


def _ctf() -> Ctf:
    defocus, angle, contrast = [9000.0, 6000.0], 0.7, 0.1
    values = [*defocus, angle, 0.0, contrast, electron_wavelength_angstrom(300), 2.7e7, 0.0, 1.0, 0.0, 0.0]
    return Ctf(*(torch.tensor([value], dtype=torch.float64) for value in values))


def _plane(rings: RingPixels, values: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(torch.fft.rfft2(values).reshape(1, -1)[:, rings.flat_indices_in(BOX)])


def _ours(case: dict) -> torch.Tensor:
    rings = RingPixels.up_to(BOX, BOX // 2 - 1)
    step = 1 / (BOX * PIXEL)
    transfer = contrast_transfer(_ctf(), rings.kx.double() * step, rings.ky.double() * step)[..., None]
    observed = normalise_rings(_plane(rings, case["image"]), rings)
    poses = Poses(case["rotation"][None], case["origin"][None])
    predicted = project(case["positions"], case["amplitudes"], case["widths"], poses, rings, PIXEL)
    return ring_correlations(predicted * transfer, observed, rings)[0]


def _literal(case: dict) -> torch.Tensor:
    frequency = torch.fft.fftfreq(BOX, PIXEL, dtype=torch.float64)
    ky, kx = (values.reshape(-1) for values in torch.meshgrid(frequency, frequency, indexing="ij"))
    ctf = contrast_transfer(_ctf(), kx, ky).view(BOX, BOX)
    view = literal.View(case["rotation"], case["origin"], ctf, case["image"])
    grid = rendering_grid(BOX // 2 - 1)
    extra = added_width_angstrom(BOX * PIXEL / grid)
    atoms = case["positions"], case["amplitudes"], case["widths"]
    return literal.correlate(*atoms, view, PIXEL, extra, grid, atoms_at_once=23)


def _compared(case: dict) -> tuple[torch.Tensor, list[float]]:
    """Differences of the ring correlations, and relative ones of the gradients by positions, amplitudes and widths."""
    gradients = []
    values = []
    for correlate in (_ours, _literal):
        leaves = {name: case[name].clone().requires_grad_() for name in ("positions", "amplitudes", "widths")}
        correlations = correlate({**case, **leaves})
        correlations.mean().backward()
        values.append(correlations.detach())
        gradients.append([leaf.grad for leaf in leaves.values()])
    return values[0] - values[1], [float((ours - plain).norm() / plain.norm()) for ours, plain in zip(*gradients)]


def test_values_and_gradients_are_those_of_the_plain_equations(case: dict) -> None:
    differences, gradients = _compared(case)
    # The only difference are the Gaussians' tails, which we cut.
    assert 0 < float(differences.abs().max()) < 1e-5
    assert max(gradients) < 1e-4


def test_a_cut_at_two_widths_would_not_do(case: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "CUTOFF_IN_SIGMAS", 2.0)
    assert max(_compared(case)[1]) > 1e-4


def test_without_a_cut_nothing_differs(case: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "CUTOFF_IN_SIGMAS", 8.0)
    differences, gradients = _compared(case)
    assert float(differences.abs().max()) < 1e-10
    assert max(gradients) < 1e-9


def test_floor_takes_other_pixels(case: dict) -> None:
    plane = torch.fft.fft2(case["image"])
    other = torch.fft.fft2(case["image"].flip(0))
    nearest = literal.ring_correlations(plane, other)
    assert len(nearest) == BOX // 2 - 1
    assert not np.allclose(nearest, literal.ring_correlations(plane, other, literal.FLOOR))
