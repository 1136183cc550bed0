"""What each image shows: the particle or junk, and neighbours that reach into it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from cocofold.imaging import Poses
from cocofold.optics import ctf_of, poses_of
from cocofold.particles import ParticleSet
from cocofold.simulation.gaussians import Gaussians, blob, reach_angstrom
from cocofold.simulation.rendering import Renderer
from cocofold.simulation.settings import Settings
from cocofold.simulation.views import draw_rotations
from cocofold.structure import Model

PARTICLE, EMPTY, BLOB = 0, 1, 2


@dataclass(frozen=True)
class Neighbours:
    """Other particles that reach into images: row of the image, ascending, rotation, place from its centre (Å)."""

    image: np.ndarray
    rotations: np.ndarray
    offsets_angstrom: np.ndarray

    def layers(self, images: np.ndarray) -> list[np.ndarray]:
        """Rows of the neighbours in a run of images, in groups in which no image occurs twice."""
        first, end = np.searchsorted(self.image, [images[0], images[-1] + 1])
        rows = np.arange(first, end)
        place = rows - np.searchsorted(self.image, self.image[rows])
        return [rows[place == layer] for layer in np.unique(place)]


def draw_neighbours(settings: Settings, reach: float, rng: np.random.Generator) -> Neighbours:
    """Neighbours that do not overlap the particle and still reach into the image, anywhere there alike.

    Parameters
    ----------
    settings : Settings
        ``neighbours`` is their mean number in an image; the number is Poisson distributed.
    reach : float
        Radius (Å) of a particle about the centre of the box.
    rng : numpy.random.Generator
    """
    image = np.repeat(np.arange(settings.count), rng.poisson(settings.neighbours, settings.count))
    nearest, farthest = 2 * reach, settings.extent_angstrom / np.sqrt(2) + reach
    distance = np.sqrt(rng.uniform(nearest**2, max(farthest, nearest) ** 2, len(image)))
    angle = rng.uniform(0, 2 * np.pi, len(image))
    offsets = distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return Neighbours(image, draw_rotations(len(image), 0.0, rng), offsets)


def shown(settings: Settings, rng: np.random.Generator) -> np.ndarray:
    """What each image shows: PARTICLE, or junk: EMPTY or BLOB; (count,) int."""
    shows = np.zeros(settings.count, dtype=int)
    rows = rng.permutation(settings.count)[: round(settings.junk * settings.count)]
    shows[rows] = np.where(np.arange(len(rows)) % 2, BLOB, EMPTY)
    return shows


class Scenes:
    """Noise-free images: the particle or junk, and neighbours.

    Parameters
    ----------
    model : Model
    parts : list of Gaussians
        Of the particle, in the frame of the box.
    truth : ParticleSet
        Poses and CTFs that are imaged.
    shows : (count,) int
        PARTICLE, EMPTY or BLOB.
    settings : Settings
    of_neighbours, of_junk : numpy.random.Generator
    """

    def __init__(
        self,
        model: Model,
        parts: list[Gaussians],
        truth: ParticleSet,
        shows: np.ndarray,
        settings: Settings,
        of_neighbours: np.random.Generator,
        of_junk: np.random.Generator,
    ) -> None:
        box, pixel = settings.box, settings.pixel_size
        self._poses, self.ctf = poses_of(truth), ctf_of(truth)
        self._particle = Renderer(parts, box, pixel, settings.bfactor)
        # Twice as wide, so that what lies beyond the border blurs into the image, and nothing comes in across from it.
        self._margin = box // 2
        wide = [replace(part, positions=part.positions + self._margin * pixel) for part in parts]
        self._wide = Renderer(wide, 2 * box, pixel, settings.bfactor)
        self._blob = Renderer([blob(model, of_junk)], box, pixel, settings.bfactor)
        self._neighbours = draw_neighbours(settings, reach_angstrom(parts, box // 2 * pixel), of_neighbours)
        self._shows = shows
        self.at_once = self._particle.images_at_once

    def particle(self, rows: np.ndarray) -> np.ndarray:
        """The particle alone, (n, box, box) float32."""
        return self._images(self._particle, self._poses[torch.as_tensor(rows)], rows)

    def _images(self, renderer: Renderer, poses: Poses, rows: np.ndarray) -> np.ndarray:
        return renderer.images(poses, self.ctf[torch.as_tensor(rows)])

    def add_surroundings(self, images: np.ndarray, rows: np.ndarray) -> None:
        """Replace the particle by junk where there is none, and add neighbours, in place."""
        images[self._shows[rows] != PARTICLE] = 0
        blobs = rows[self._shows[rows] == BLOB]
        if len(blobs):
            images[blobs - rows[0]] = self._images(self._blob, self._poses[torch.as_tensor(blobs)], blobs)
        for layer in self._neighbours.layers(rows):
            image = self._neighbours.image[layer]
            poses = Poses(
                torch.as_tensor(self._neighbours.rotations[layer], dtype=torch.float32),
                torch.as_tensor(-self._neighbours.offsets_angstrom[layer], dtype=torch.float32),
            )
            inner = slice(self._margin, self._margin + images.shape[-1])
            images[image - rows[0]] += self._images(self._wide, poses, image)[:, inner, inner]
