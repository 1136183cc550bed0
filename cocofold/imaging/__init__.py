"""Image formation: Gaussians of atoms, projection, CTF, Fourier rings (paper eq. 1-3).

Knows nothing of where atoms come from.
"""

from cocofold.imaging.aberrations import antisymmetric_phase, magnified, symmetric_phase
from cocofold.imaging.correlation import normalise_rings, ring_correlations, ring_sums
from cocofold.imaging.ctf import Ctf, contrast_transfer, electron_wavelength_angstrom
from cocofold.imaging.projection import (
    REFERENCE_WIDTH_ANGSTROM,
    Poses,
    bytes_per_image,
    project,
    rendered_extra_width,
)
from cocofold.imaging.rings import RingPixels, ring_count

__all__ = [
    "REFERENCE_WIDTH_ANGSTROM",
    "Ctf",
    "Poses",
    "RingPixels",
    "antisymmetric_phase",
    "bytes_per_image",
    "contrast_transfer",
    "electron_wavelength_angstrom",
    "magnified",
    "normalise_rings",
    "project",
    "rendered_extra_width",
    "ring_correlations",
    "ring_count",
    "ring_sums",
    "symmetric_phase",
]
