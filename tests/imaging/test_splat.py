"""Gaussians drawn in tiles: each atom once, wherever it lies, whatever else is drawn."""

from __future__ import annotations

import pytest
import torch

from cocofold.imaging import projection
from cocofold.imaging.projection import Splat, tile_window_side

GRID, REACH = 30, 4


def _atoms(count: int, images: int = 2, crowded: bool = False) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(4)
    spread = 3.0 if crowded else 3.0 * GRID
    x, y = (spread * (torch.rand(images, count, generator=generator, dtype=torch.float64) - 0.3) for _ in range(2))
    peak = torch.rand(images, count, generator=generator, dtype=torch.float64)
    return x, y, peak, 0.8 + 0.5 * torch.rand(count, generator=generator, dtype=torch.float64)


def _written_out(x: torch.Tensor, y: torch.Tensor, peak: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    """Each atom on the whole grid and its copies all around."""
    places = torch.arange(-5 * GRID, 6 * GRID, dtype=x.dtype)
    along = [torch.exp(-exponent[:, None] * (places - centre[..., None]) ** 2) for centre in (x, y)]
    along = [profile.unflatten(-1, (-1, GRID)).sum(-2) for profile in along]
    return torch.einsum("ia,iay,iax->iyx", peak, along[1], along[0])


@pytest.mark.parametrize(("count", "crowded"), [(1, False), (50, False), (200, True), (300, False)])
def test_images_are_the_sums_written_out(count: int, crowded: bool) -> None:
    """Also where tiles have more atoms than a row, or atoms lie far outside and come in at the other side."""
    atoms = _atoms(count, crowded=crowded)
    found, expected = Splat.apply(*atoms, GRID, REACH), _written_out(*atoms)
    # What is cut lies more than 4.5 pixels away.
    assert float((found - expected).abs().max()) < count * float(torch.exp(torch.tensor(-0.8 * 4.5**2)))
    torch.testing.assert_close(Splat.apply(*atoms, GRID, 9), expected, rtol=1e-9, atol=1e-12)


def test_an_atom_is_drawn_alike_wherever_it_lies_in_its_tile() -> None:
    """At least as far as asked for."""
    width = tile_window_side(REACH) - 2 * REACH
    for place in torch.linspace(0, 2 * width, 41, dtype=torch.float64):
        x = place[None, None]
        one = torch.ones(1, 1, dtype=torch.float64)
        image = Splat.apply(x, x, one, 0.1 * one[0], GRID, REACH)[0]
        near = (torch.arange(GRID) - place).abs() <= REACH + 0.5
        assert (image[near][:, near] > 0).all()


def test_what_is_drawn_does_not_depend_on_other_images_or_the_order_of_atoms() -> None:
    x, y, peak, exponent = _atoms(100, images=3)
    together = Splat.apply(x, y, peak, exponent, GRID, REACH)
    for row in range(3):
        alone = Splat.apply(x[row : row + 1], y[row : row + 1], peak[row : row + 1], exponent, GRID, REACH)
        torch.testing.assert_close(alone[0], together[row], rtol=1e-12, atol=1e-12)
    back = Splat.apply(x.flip(1), y.flip(1), peak.flip(1), exponent.flip(0), GRID, REACH)
    torch.testing.assert_close(back, together, rtol=1e-12, atol=1e-12)


def test_the_order_of_rows_is_that_of_torch() -> None:
    key = torch.randint(0, 50, (1000,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(projection._stable_argsort(key), key.argsort(stable=True))
    # More than 16 bits hold
    large = key * 5000
    assert torch.equal(projection._stable_argsort(large), large.argsort(stable=True))


def test_gradients_where_a_tile_fills_several_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "_ATOMS_PER_ROW", 2)
    atoms = [values.requires_grad_() for values in _atoms(7, crowded=True)]
    assert torch.autograd.gradcheck(lambda *values: Splat.apply(*values, GRID, REACH), atoms)


def test_positions_that_are_no_numbers_give_an_image_that_is_none() -> None:
    x, y, peak, exponent = _atoms(5)
    x[0, 2] = float("nan")
    image = Splat.apply(x, y, peak, exponent, GRID, REACH)
    assert image[0].isnan().any()
    assert image[1].isfinite().all()
