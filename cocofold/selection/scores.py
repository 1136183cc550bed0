"""How well a model explains each image, by rings that are then left out of the fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from cocofold.errors import InputError
from cocofold.finetuning.contrast import find_contrast
from cocofold.finetuning.objective import Gaussians, score
from cocofold.finetuning.observations import Observations
from cocofold.imaging import ring_count
from cocofold.particles import ParticleSet
from cocofold.structure import Model

RESOLUTION_ANGSTROM = 10.0
EVERY_RING = 4
_ATOMS_AT_ONCE = 24_000
_IMAGES_AT_ONCE = 500


@dataclass(frozen=True)
class Scores:
    """Agreement of images with a model.

    Attributes
    ----------
    values : (n,) float64
        Mean Fourier ring correlation with the model's projection at each image's pose and CTF.
    rings : tuple of int
        Over which the mean is taken.
    contrast : str
        white, dark or undecided: how protein appears in the images.
    """

    values: np.ndarray
    rings: tuple[int, ...]
    contrast: str


def scored_rings(particles: ParticleSet) -> tuple[int, ...]:
    """Every fourth ring up to 10 Å: enough to tell images apart, and few enough for a fit to do without.

    Raises
    ------
    InputError
        If there is none.
    """
    box, pixel = particles.box, particles.pixel_size_angstrom
    rings = tuple(range(EVERY_RING, ring_count(box, pixel, RESOLUTION_ANGSTROM) + 1, EVERY_RING))
    if not rings:
        raise InputError(
            f"--by frc: images of {box} pixels of {pixel:g} Å have fewer than {EVERY_RING} Fourier rings up to "
            f"{RESOLUTION_ANGSTROM:g} Å; select by random or views"
        )
    return rings


def score_images(
    particles: ParticleSet,
    model: Model,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score each image by its agreement with a model, as fine-tuning scores them.

    Parameters
    ----------
    particles : ParticleSet
    model : Model
        In the map's frame.
    device
    progress : callable, optional
        Called with the number of images scored, and of all.
    """
    rings = scored_rings(particles)
    # Each image is seen once, so none is kept.
    observations = Observations(particles, rings[-1], device, cache_bytes=0)
    positions = torch.as_tensor(model.positions, dtype=torch.float32, device=device)
    gaussians = Gaussians.at_start(model.atomic_numbers, device)
    try:
        contrast = find_contrast(positions, gaussians, observations).found
        if contrast == "dark":
            observations.flip_contrast()
        chunk = max(1, _ATOMS_AT_ONCE // len(positions))
        parts = []
        for rows in torch.arange(len(particles)).split(_IMAGES_AT_ONCE):
            correlations = score(positions, gaussians, observations, rows, observations.rings(rings[-1]), chunk)
            parts.append(correlations[:, [ring - 1 for ring in rings]].double().mean(1).cpu().numpy())
            if progress is not None:
                progress(int(rows[-1]) + 1, len(particles))
    finally:
        observations.close()
    return Scores(np.concatenate(parts), rings, contrast)
