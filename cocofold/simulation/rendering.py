"""Noise-free images of a model, with each atom's own envelope."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from cocofold.imaging import (
    REFERENCE_WIDTH_ANGSTROM,
    Ctf,
    Poses,
    RingPixels,
    contrast_transfer,
    project,
    rendered_extra_width,
    ring_count,
)
from cocofold.imaging.projection import rendering_grid
from cocofold.structure import Model

_ATOMS_AT_ONCE = 200_000
_GRID_PIXELS_AT_ONCE = 20_000_000
_FINER = 2


class Renderer:
    """Makes images of a model from poses and CTFs.

    ``project`` draws every atom with an extra width s in common, to which the ring correlation is blind but an image
    is not. It is taken out again: each Fourier pixel is multiplied by ``exp(2 pi^2 s^2 k^2)``. For this to leave no
    trace of aliasing, atoms are drawn on a grid twice as fine as fine-tuning's, which makes s half as wide.

    Atoms are Gaussians of paper eq. 2: the atomic number at the peak, the starting width of fine-tuning. Fourier rings
    1 ... box/2 - 1 are filled; the mean and the corners beyond Nyquist are zero.

    Parameters
    ----------
    model : Model
    box : int
        Even.
    pixel_size_angstrom : float
    """

    def __init__(self, model: Model, box: int, pixel_size_angstrom: float) -> None:
        self.box = box
        self._rings = RingPixels.up_to(box, ring_count(box, pixel_size_angstrom))
        # The same Fourier pixels, as those of an image of the same extent and finer pixels.
        self._fine_rings = replace(self._rings, box=_FINER * box, n_rings=_FINER * box // 2 - 1)
        self._fine_pixel_size = pixel_size_angstrom / _FINER
        grid = rendering_grid(self._fine_rings.box, self._fine_rings.n_rings)
        spacing = box * pixel_size_angstrom / grid
        step = 1 / (box * pixel_size_angstrom)
        self._kx, self._ky = self._rings.kx * step, self._rings.ky * step
        widening = 2 * math.pi**2 * rendered_extra_width(spacing) ** 2 * (self._kx**2 + self._ky**2)
        # A transform sums over pixels: of the fine grid there, of the image here.
        self._correction = torch.exp(widening) * (spacing / pixel_size_angstrom) ** 2
        self._positions = torch.as_tensor(model.positions, dtype=torch.float32)
        self._amplitudes = torch.as_tensor(model.atomic_numbers, dtype=torch.float32)
        self._widths = torch.full_like(self._amplitudes, REFERENCE_WIDTH_ANGSTROM)
        self.images_at_once = max(1, min(256, _ATOMS_AT_ONCE // len(model), _GRID_PIXELS_AT_ONCE // grid**2))

    @torch.no_grad()
    def images(self, poses: Poses, ctf: Ctf) -> np.ndarray:
        """Images at these poses and CTFs, (n, box, box) float32; ``images_at_once`` bound the memory."""
        planes = project(
            self._positions, self._amplitudes, self._widths, poses, self._fine_rings, self._fine_pixel_size
        )
        planes = planes * (self._correction * contrast_transfer(ctf, self._kx, self._ky))[..., None]
        filled = torch.zeros(len(planes), self.box * (self.box // 2 + 1), dtype=torch.complex64)
        filled[:, self._rings.positions_in(self.box)] = torch.view_as_complex(planes.contiguous())
        images = torch.fft.irfft2(filled.view(len(planes), self.box, -1), s=(self.box, self.box))
        return images.numpy()
