"""Noise-free images of Gaussians, each with its own envelope."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from cocofold.imaging import (
    Ctf,
    Poses,
    RingPixels,
    contrast_transfer,
    project,
    rendered_extra_width,
    ring_count,
)
from cocofold.imaging.projection import rendering_grid
from cocofold.simulation.gaussians import Gaussians

_ATOMS_AT_ONCE = 200_000
_GRID_PIXELS_AT_ONCE = 20_000_000
_FINER = 2


class Renderer:
    """Makes images of clouds of Gaussians from poses and CTFs.

    ``project`` draws every Gaussian with an extra width s in common, to which the ring correlation is blind but an
    image is not. It is taken out again: each Fourier pixel is multiplied by ``exp(2 pi^2 s^2 k^2)``. For this to leave
    no trace of aliasing, they are drawn on a grid twice as fine as fine-tuning's, which makes s half as wide.

    Fourier rings 1 ... box/2 - 1 are filled; the mean and the corners beyond Nyquist are zero.

    Parameters
    ----------
    parts : list of Gaussians
        Drawn one after the other, so that few wide Gaussians do not slow down many narrow ones.
    box : int
        Even.
    pixel_size_angstrom : float
    bfactor_a2 : float
        Of an envelope ``exp(-B k^2 / 4)``.
    """

    def __init__(self, parts: list[Gaussians], box: int, pixel_size_angstrom: float, bfactor_a2: float = 0.0) -> None:
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
        envelope = torch.exp(-bfactor_a2 * (self._kx**2 + self._ky**2) / 4)
        self._correction = envelope * torch.exp(widening) * (spacing / pixel_size_angstrom) ** 2
        self._parts = [
            (_tensor(part.positions), _tensor(part.amplitudes), _tensor(part.widths_angstrom)) for part in parts
        ]
        largest = max(len(part.positions) for part in parts)
        self.images_at_once = max(1, min(256, _ATOMS_AT_ONCE // largest, _GRID_PIXELS_AT_ONCE // grid**2))

    @torch.no_grad()
    def images(self, poses: Poses, ctf: Ctf) -> np.ndarray:
        """Images at these poses and CTFs, (n, box, box) float32; ``images_at_once`` bound the memory."""
        drawn = [project(*part, poses, self._fine_rings, self._fine_pixel_size) for part in self._parts]
        planes = torch.stack(drawn).sum(0)
        planes = planes * (self._correction * contrast_transfer(ctf, self._kx, self._ky))[..., None]
        filled = torch.zeros(len(planes), self.box * (self.box // 2 + 1), dtype=torch.complex64)
        filled[:, self._rings.positions_in(self.box)] = torch.view_as_complex(planes.contiguous())
        images = torch.fft.irfft2(filled.view(len(planes), self.box, -1), s=(self.box, self.box))
        return images.numpy()


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float32)
