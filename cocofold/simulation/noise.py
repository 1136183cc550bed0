"""Noise of images: white from counting electrons, coloured from the ice."""

from __future__ import annotations

import numpy as np
import torch

from cocofold.imaging import Ctf, contrast_transfer

_ICE_CORRELATION_ANGSTROM = 10.0


class Noise:
    """Noise of standard deviation 1, a share of which has passed the microscope.

    The ice is a random potential whose power falls as ``1 / (1 + (10 Å k)^2)``; like the particle it is seen through
    the image's CTF and envelope. The rest, from counting, is white.

    Parameters
    ----------
    box : int
    pixel_size_angstrom : float
    ice : float
        Share of the variance that comes from the ice, 0 to 1.
    bfactor_a2 : float
        Of the envelope ``exp(-B k^2 / 4)``.
    counting, structural : numpy.random.Generator
    """

    def __init__(
        self,
        box: int,
        pixel_size_angstrom: float,
        ice: float,
        bfactor_a2: float,
        counting: np.random.Generator,
        structural: np.random.Generator,
    ) -> None:
        self._box = box
        self._ice = np.float32(ice)
        self._counting, self._structural = counting, structural
        ky = torch.fft.fftfreq(box, pixel_size_angstrom)
        kx = torch.fft.rfftfreq(box, pixel_size_angstrom)
        self._ky, self._kx = (axis.reshape(-1) for axis in torch.meshgrid(ky, kx, indexing="ij"))
        k2 = self._kx**2 + self._ky**2
        self._colour = torch.exp(-bfactor_a2 * k2 / 4) / torch.sqrt(1 + k2 * _ICE_CORRELATION_ANGSTROM**2)
        # Columns other than the first and the last stand for their Friedel mates too.
        weight = torch.full((box // 2 + 1,), 2.0)
        weight[0] = weight[-1] = 1.0
        self._weight = weight.repeat(box)

    def images(self, ctf: Ctf) -> np.ndarray:
        """Noise of the next images, (n, box, box) float32, whose CTFs are these."""
        count = len(ctf.scale)
        white = self._counting.standard_normal((count, self._box, self._box), dtype=np.float32)
        if not self._ice:
            return white
        return np.sqrt(1 - self._ice) * white + np.sqrt(self._ice) * self._of_ice(ctf, count)

    def _of_ice(self, ctf: Ctf, count: int) -> np.ndarray:
        seen = contrast_transfer(ctf, self._kx, self._ky) * self._colour
        variance = (seen**2 * self._weight).sum(1, keepdim=True) / self._box**2
        white = torch.as_tensor(self._structural.standard_normal((count, self._box, self._box), dtype=np.float32))
        planes = torch.fft.rfft2(white) * (seen / variance.sqrt()).view(count, self._box, -1)
        return torch.fft.irfft2(planes, s=(self._box, self._box)).numpy()
