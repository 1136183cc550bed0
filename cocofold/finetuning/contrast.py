"""Whether protein is white or dark in the images, found by correlation with the start model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cocofold.finetuning.objective import Gaussians, score
from cocofold.finetuning.observations import Observations
from cocofold.imaging import ring_count

_IMAGES = 300
_RESOLUTION_ANGSTROM = 20.0
_CLEAR_IN_ERRORS = 5.0
_ATOMS_AT_ONCE = 24_000


@dataclass(frozen=True)
class Contrast:
    """What the images say: mean low-resolution correlation with the model, and its standard error."""

    correlation: float
    error: float
    images: int

    @property
    def found(self) -> str:
        """white, dark or undecided."""
        if abs(self.correlation) <= _CLEAR_IN_ERRORS * self.error:
            return "undecided"
        return "white" if self.correlation > 0 else "dark"

    def __str__(self) -> str:
        return (
            f"correlation with the start to {_RESOLUTION_ANGSTROM:g} Å {self.correlation:.3f} ± {self.error:.3f} "
            f"over {self.images} images"
        )


def find_contrast(positions: torch.Tensor, gaussians: Gaussians, observations: Observations) -> Contrast:
    """Mean ring correlation to 20 Å of up to 300 images, spread over the set, with the start model.

    Parameters
    ----------
    positions : (n_atoms, 3) float
    gaussians : Gaussians
    observations : Observations
    """
    count = min(_IMAGES, len(observations))
    rows = torch.linspace(0, len(observations) - 1, count).round().long()
    wanted = ring_count(observations.particles.box, observations.pixel_size_angstrom, _RESOLUTION_ANGSTROM)
    rings = observations.rings(min(wanted, observations.finest_rings))
    chunk = max(1, _ATOMS_AT_ONCE // len(positions))
    of_images = score(positions, gaussians, observations, rows, rings, chunk).mean(1).double()
    error = float(of_images.std(unbiased=True)) / count**0.5 if count > 1 else float("inf")
    return Contrast(float(of_images.mean()), error, count)
