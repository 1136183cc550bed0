"""The density of Gaussian atoms on a map's grid."""

from __future__ import annotations

import math

import numpy as np

from cocofold.imaging.projection import CUT_IN_WIDTHS, rendered_extra_width

_VOXELS_AT_ONCE = 2_000_000


def density_map(
    positions: np.ndarray,
    amplitudes: np.ndarray,
    widths_angstrom: np.ndarray,
    box: int,
    pixel_size_angstrom: float,
) -> np.ndarray:
    """Sum of the atoms' Gaussians, drawn with the same extra width as in projections.

    Parameters
    ----------
    positions : (n_atoms, 3) float
        Å; voxel (0, 0, 0) is at 0 Å.
    amplitudes, widths_angstrom : (n_atoms,) float
    box : int
    pixel_size_angstrom : float

    Returns
    -------
    (box, box, box) float32
        Indexed z, y, x. What lies outside is left out.
    """
    variance = widths_angstrom**2
    rendered = (variance + rendered_extra_width(pixel_size_angstrom) ** 2) / pixel_size_angstrom**2
    reach = math.ceil(CUT_IN_WIDTHS * math.sqrt(rendered.max()) - 0.5)
    steps = np.arange(-reach, reach + 1)
    volume = np.zeros(box**3, dtype=np.float32)
    peak = amplitudes * (variance / (rendered * pixel_size_angstrom**2)) ** 1.5
    at_once = max(1, _VOXELS_AT_ONCE // len(steps) ** 3)
    for start in range(0, len(positions), at_once):
        some = slice(start, start + at_once)
        centre = positions[some] / pixel_size_angstrom
        voxel = np.round(centre)[:, :, None].astype(int) + steps
        value = np.exp(-0.5 * (voxel - centre[:, :, None]) ** 2 / rendered[some, None, None])
        value *= (voxel >= 0) & (voxel < box)
        x, y, z = np.clip(voxel, 0, box - 1).transpose(1, 0, 2)
        index = (z[:, :, None, None] * box + y[:, None, :, None]) * box + x[:, None, None, :]
        patch = np.einsum("a,az,ay,ax->azyx", peak[some], value[:, 2], value[:, 1], value[:, 0])
        np.add.at(volume, index.reshape(-1), patch.reshape(-1).astype(np.float32))
    return volume.reshape(box, box, box)
