"""What each simulated image shows, and its rendering without noise.

Contents (the particle or junk, and neighbours that reach into the image), the renderer, clouds of Gaussians (atoms, the
solvent that they displace, a detergent belt, junk), and the drawing of views.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from cocofold.imaging.fourier import Ctf, RingPixels, contrast_transfer, ring_count
from cocofold.imaging.projection import REFERENCE_WIDTH_ANGSTROM, Poses, added_width_angstrom, project, rendering_grid
from cocofold.likelihood.particle_optics import ctf_of, poses_of
from cocofold.mapfit.rigid_refinement import VOLUME_PER_ATOM_A3
from cocofold.particles.particle_set import ParticleSet
from cocofold.particles.poses import matrices_from_relion
from cocofold.simulation.simulation_settings import SimulationSettings
from cocofold.structure.model import Model

# What an image may show; the last two are junk.
PARTICLE, EMPTY, BLOB = 0, 1, 2


@dataclass(frozen=True)
class Neighbours:
    """Other particles that reach into images: row of the image, ascending, rotation, place from its centre (Å)."""

    image: np.ndarray
    rotations: np.ndarray
    offsets_angstrom: np.ndarray

    def groups_without_repeats(self, images: np.ndarray) -> list[np.ndarray]:
        """Rows of the neighbours in a run of images, in groups in which no image occurs twice."""
        first, end = np.searchsorted(self.image, [images[0], images[-1] + 1])
        rows = np.arange(first, end)
        place = rows - np.searchsorted(self.image, self.image[rows])
        return [rows[place == turn] for turn in np.unique(place)]


def draw_neighbours(settings: SimulationSettings, reach: float, rng: np.random.Generator) -> Neighbours:
    """Neighbours that do not overlap the particle and still reach into the image, anywhere there alike.

    Parameters
    ----------
    settings : SimulationSettings
        ``neighbours`` is their mean number in an image; the number is Poisson distributed.
    reach : float
        Radius (Å) of a particle about the centre of the box.
    rng : numpy.random.Generator
    """
    image = np.repeat(np.arange(settings.images), rng.poisson(settings.neighbours, settings.images))
    nearest, farthest = 2 * reach, settings.extent_angstrom / np.sqrt(2) + reach
    distance = np.sqrt(rng.uniform(nearest**2, max(farthest, nearest) ** 2, len(image)))
    angle = rng.uniform(0, 2 * np.pi, len(image))
    offsets = distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return Neighbours(image, draw_rotations(len(image), 0.0, rng), offsets)


def draw_image_contents(settings: SimulationSettings, rng: np.random.Generator) -> np.ndarray:
    """What each image shows: PARTICLE, or junk: EMPTY or BLOB; (count,) int."""
    shows = np.zeros(settings.images, dtype=int)
    rows = rng.permutation(settings.images)[: round(settings.junk * settings.images)]
    shows[rows] = np.where(np.arange(len(rows)) % 2, BLOB, EMPTY)
    return shows


@dataclass(frozen=True)
class NoiseFreeImages:
    """Noise-free images: the particle or junk, and neighbours.

    Attributes
    ----------
    poses, ctf : Poses, Ctf
        Of all images.
    shows : (count,) int
        PARTICLE, EMPTY or BLOB.
    neighbours : Neighbours
    particle, blob : ImageRenderer
    wide_particle : ImageRenderer
        The particle in images twice as wide, so that what lies beyond the border blurs into the image, and nothing
        comes in across from it.
    """

    poses: Poses
    ctf: Ctf
    shows: np.ndarray
    neighbours: Neighbours
    particle: ImageRenderer
    blob: ImageRenderer
    wide_particle: ImageRenderer

    @classmethod
    def prepare(
        cls,
        model: Model,
        parts: list[GaussianCloud],
        truth: ParticleSet,
        shows: np.ndarray,
        settings: SimulationSettings,
        of_neighbours: np.random.Generator,
        of_junk: np.random.Generator,
    ) -> NoiseFreeImages:
        """Draw the neighbours and the shape of junk, and prepare to render.

        Parameters
        ----------
        model : Model
        parts : list of GaussianCloud
            Of the particle, in the frame of the box.
        truth : ParticleSet
            Poses and CTFs that are imaged.
        shows : (count,) int
            PARTICLE, EMPTY or BLOB.
        settings : SimulationSettings
        of_neighbours, of_junk : numpy.random.Generator
        """
        box, pixel, bfactor = settings.box, settings.pixel_size, settings.bfactor
        wide = [replace(part, positions=part.positions + box // 2 * pixel) for part in parts]
        radius = largest_radius_angstrom(parts, box // 2 * pixel)
        return cls(
            poses=poses_of(truth),
            ctf=ctf_of(truth),
            shows=shows,
            neighbours=draw_neighbours(settings, radius, of_neighbours),
            particle=ImageRenderer(parts, box, pixel, bfactor),
            blob=ImageRenderer([junk_cloud(model, of_junk)], box, pixel, bfactor),
            wide_particle=ImageRenderer(wide, 2 * box, pixel, bfactor),
        )

    @property
    def images_at_once(self) -> int:
        """Number of images that bounds the memory of rendering."""
        return self.particle.images_at_once

    def particle_images(self, rows: np.ndarray) -> np.ndarray:
        """The particle alone, (n, box, box) float32."""
        return self._images(self.particle, self.poses[torch.as_tensor(rows)], rows)

    def _images(self, renderer: ImageRenderer, poses: Poses, rows: np.ndarray) -> np.ndarray:
        return renderer.images(poses, self.ctf[torch.as_tensor(rows)])

    def add_surroundings(self, images: np.ndarray, rows: np.ndarray) -> None:
        """Replace the particle by junk where there is none, and add neighbours, in place."""
        images[self.shows[rows] != PARTICLE] = 0
        blobs = rows[self.shows[rows] == BLOB]
        if len(blobs):
            images[blobs - rows[0]] = self._images(self.blob, self.poses[torch.as_tensor(blobs)], blobs)
        for group in self.neighbours.groups_without_repeats(rows):
            image = self.neighbours.image[group]
            poses = Poses(
                torch.as_tensor(self.neighbours.rotations[group], dtype=torch.float32),
                torch.as_tensor(-self.neighbours.offsets_angstrom[group], dtype=torch.float32),
            )
            margin = images.shape[-1] // 2
            inner = slice(margin, margin + images.shape[-1])
            images[image - rows[0]] += self._images(self.wide_particle, poses, image)[:, inner, inner]


# Bounds on what is rendered at a time, in atoms times images and in pixels times images: they bound the memory, and the
# result does not depend on them but for rounding.
_MAX_PROJECTED_ATOMS = 200_000
_MAX_GRID_PIXELS = 20_000_000
_MAX_IMAGES = 256
# Pixels of the grid on which Gaussians are drawn, along a pixel of fine-tuning's: see ``ImageRenderer``.
_GRID_REFINEMENT = 2


class ImageRenderer:
    """Makes images of clouds of Gaussians from poses and CTFs.

    ``project`` draws every Gaussian with an extra width s in common, which changes no ring correlation but does change
    an image. It is taken out again: each Fourier pixel is multiplied by ``exp(2 pi^2 s^2 k^2)``. For this to leave
    no trace of aliasing, they are drawn on a grid twice as fine as fine-tuning's, which makes s half as wide.

    Fourier rings 1 ... box/2 - 1 are filled; the mean and the corners beyond Nyquist are zero.

    Parameters
    ----------
    parts : list of GaussianCloud
        Drawn one after the other, so that few wide Gaussians do not slow down many narrow ones.
    box : int
        Even.
    pixel_size_angstrom : float
    bfactor_a2 : float
        Of an envelope ``exp(-B k^2 / 4)``.
    """

    def __init__(
        self, parts: list[GaussianCloud], box: int, pixel_size_angstrom: float, bfactor_a2: float = 0.0
    ) -> None:
        self.box = box
        self._rings = RingPixels.up_to(box, ring_count(box, pixel_size_angstrom))
        # The same Fourier pixels, as those of an image of the same extent and finer pixels.
        self._fine_rings = replace(self._rings, box=_GRID_REFINEMENT * box, n_rings=_GRID_REFINEMENT * box // 2 - 1)
        self._fine_pixel_size = pixel_size_angstrom / _GRID_REFINEMENT
        grid = rendering_grid(self._fine_rings.n_rings)
        spacing = box * pixel_size_angstrom / grid
        step = 1 / (box * pixel_size_angstrom)
        self._kx, self._ky = self._rings.kx * step, self._rings.ky * step
        widening = 2 * math.pi**2 * added_width_angstrom(spacing) ** 2 * (self._kx**2 + self._ky**2)
        # A transform sums over pixels: of the fine grid there, of the image here.
        envelope = torch.exp(-bfactor_a2 * (self._kx**2 + self._ky**2) / 4)
        self._correction = envelope * torch.exp(widening) * (spacing / pixel_size_angstrom) ** 2
        self._parts = [
            (_tensor(part.positions), _tensor(part.amplitudes), _tensor(part.widths_angstrom)) for part in parts
        ]
        largest = max(len(part.positions) for part in parts)
        self.images_at_once = max(1, min(_MAX_IMAGES, _MAX_PROJECTED_ATOMS // largest, _MAX_GRID_PIXELS // grid**2))

    @torch.no_grad()
    def images(self, poses: Poses, ctf: Ctf) -> np.ndarray:
        """Images at these poses and CTFs, (n, box, box) float32; ``images_at_once`` bound the memory."""
        drawn = [project(*part, poses, self._fine_rings, self._fine_pixel_size) for part in self._parts]
        planes = torch.stack(drawn).sum(0)
        planes = planes * (self._correction * contrast_transfer(ctf, self._kx, self._ky))[..., None]
        filled = torch.zeros(len(planes), self.box * (self.box // 2 + 1), dtype=torch.complex64)
        filled[:, self._rings.flat_indices_in(self.box)] = torch.view_as_complex(planes.contiguous())
        images = torch.fft.irfft2(filled.view(len(planes), self.box, -1), s=(self.box, self.box))
        return images.numpy()


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float32)


# Per water molecule (an oxygen, Z = 8).
_WATER_VOLUME_A3 = 29.9
_OXYGEN = 8.0

# The belt is a grid of Gaussians so wide beside their spacing that their sum is flat.
_BELT_SPACING_ANGSTROM = 3.0
_BELT_WIDTH_ANGSTROM = 2.0
# How far the belt reaches beyond the protein, about the length of a detergent molecule.
_BELT_THICKNESS_ANGSTROM = 15.0
# Density of the belt above water's, in units of protein's above water's: larger makes the belt disturb more.
_BELT_DENSITY_OF_PROTEIN = 0.4
# No Gaussian of the belt is nearer than this, a contact distance, to an atom.
_MIN_BELT_TO_PROTEIN_ANGSTROM = 3.0
# Mean over the atoms of proteins other than hydrogen.
_MEAN_ATOMIC_NUMBER = 6.7


@dataclass(frozen=True)
class GaussianCloud:
    """A cloud of Gaussians: ``(n, 3)`` Å, amplitude at the peak and width (Å), both ``(n,)``."""

    positions: np.ndarray
    amplitudes: np.ndarray
    widths_angstrom: np.ndarray


def atom_cloud(model: Model) -> GaussianCloud:
    """Atoms as fine-tuning starts with them: the atomic number at the peak, the paper's width."""
    return _cloud_of_equal_width(model.positions, model.atomic_numbers.astype(float), REFERENCE_WIDTH_ANGSTROM)


def particle_clouds(model: Model, settings: SimulationSettings) -> list[GaussianCloud]:
    """All that moves rigidly with the particle: its atoms, the solvent they displace, a detergent belt."""
    parts = [atom_cloud(model)]
    if settings.solvent:
        parts.append(_displaced_solvent(model))
    if settings.belt:
        parts.append(_detergent_belt(model, settings.belt))
    return parts


def junk_cloud(model: Model, rng: np.random.Generator) -> GaussianCloud:
    """Junk of the particle's mass and size: each atom in a random direction, as far from their centre as it was."""
    centre = model.positions.mean(0)
    distance = np.linalg.norm(model.positions - centre, axis=1, keepdims=True)
    direction = rng.standard_normal((len(model), 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return _cloud_of_equal_width(
        centre + distance * direction, model.atomic_numbers.astype(float), REFERENCE_WIDTH_ANGSTROM
    )


def largest_radius_angstrom(parts: list[GaussianCloud], centre: float) -> float:
    """Largest distance of a Gaussian from the centre of the box."""
    return max(float(np.linalg.norm(part.positions - centre, axis=1).max()) for part in parts)


def _cloud_of_equal_width(positions: np.ndarray, amplitudes: np.ndarray, width: float) -> GaussianCloud:
    return GaussianCloud(positions, amplitudes, np.full(len(positions), width))


def _integral(amplitude: float, width: float) -> float:
    return amplitude * (2 * np.pi) ** 1.5 * width**3


def _displaced_solvent(model: Model) -> GaussianCloud:
    """Flat solvent, taken out where atoms are (Fraser, MacRae & Suzuki, J. Appl. Cryst. 11, 693, 1978).

    Each atom other than hydrogen displaces water from a Gaussian ``exp(-pi r^2 / V^(2/3))`` of its volume V.
    """
    heavy = model.atomic_numbers > 1
    density = _integral(_OXYGEN, REFERENCE_WIDTH_ANGSTROM) / _WATER_VOLUME_A3
    width = VOLUME_PER_ATOM_A3 ** (1 / 3) / np.sqrt(2 * np.pi)
    return _cloud_of_equal_width(model.positions[heavy], np.full(int(heavy.sum()), -density), width)


def _detergent_belt(model: Model, height: float) -> GaussianCloud:
    """A belt of detergent about the middle of the model's longest axis, 0.4 times as dense as protein above water."""
    centre = model.positions.mean(0)
    axes = np.linalg.svd(model.positions - centre, full_matrices=False)[2]
    along = (model.positions - centre) @ axes.T
    inside = np.abs(along[:, 0]) < height / 2
    half_widths = np.abs(along[inside if inside.any() else slice(None), 1:]).max(0) + _BELT_THICKNESS_ANGSTROM
    ranges = [np.arange(-half, half + 1e-6, _BELT_SPACING_ANGSTROM) for half in (height / 2, *half_widths)]
    grid = np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 3)
    grid = grid[((grid[:, 1:] / half_widths) ** 2).sum(1) <= 1]
    positions = centre + grid @ axes
    positions = positions[cKDTree(model.positions).query(positions)[0] > _MIN_BELT_TO_PROTEIN_ANGSTROM]
    protein = _integral(_MEAN_ATOMIC_NUMBER, REFERENCE_WIDTH_ANGSTROM) / VOLUME_PER_ATOM_A3
    water = _integral(_OXYGEN, REFERENCE_WIDTH_ANGSTROM) / _WATER_VOLUME_A3
    mass = _BELT_DENSITY_OF_PROTEIN * (protein - water) * _BELT_SPACING_ANGSTROM**3
    peak = mass / _integral(1.0, _BELT_WIDTH_ANGSTROM)
    return _cloud_of_equal_width(positions, np.full(len(positions), peak), _BELT_WIDTH_ANGSTROM)


def draw_rotations(count: int, missing_cone_deg: float, rng: np.random.Generator) -> np.ndarray:
    """Rotations spread evenly over all whose view lies outside a cone around the map's z axis.

    The view is the axis along which the map is projected, and the cone takes it from above and from below: RELION's
    tilt lies between the cone's angle and 180° less that. In the plane of the image every angle is as likely.

    Parameters
    ----------
    count : int
    missing_cone_deg : float
        0 for all rotations, below 90.
    rng : numpy.random.Generator

    Returns
    -------
    (count, 3, 3) float64
        A: ``u = A @ (x - centre)``.
    """
    if count == 0:
        return np.empty((0, 3, 3))
    highest = np.cos(np.deg2rad(missing_cone_deg))
    rot, psi = rng.uniform(-180, 180, (2, count))
    tilt = np.degrees(np.arccos(rng.uniform(-highest, highest, count)))
    return matrices_from_relion(rot, tilt, psi)


def prefer_poles(rotations: np.ndarray, spread_deg: float, share: float, rng: np.random.Generator) -> np.ndarray:
    """Turn some of the views to the poles, as particles lie that stick to the surface of the ice.

    Parameters
    ----------
    rotations : (n, 3, 3) float
    spread_deg : float
        Views that are turned lie this far (standard deviation in each of two directions) from the map's z axis, seen
        from above or below.
    share : float
        Of the views that are turned, 0 to 1.
    rng : numpy.random.Generator

    Returns
    -------
    (n, 3, 3) float64
    """
    chosen = rng.uniform(size=len(rotations)) < share
    rot, psi = rng.uniform(-180, 180, (2, len(rotations)))
    from_pole = np.hypot(*rng.normal(0, spread_deg, (2, len(rotations))))
    tilt = np.where(rng.uniform(size=len(rotations)) < 0.5, from_pole, 180 - from_pole)
    return np.where(chosen[:, None, None], matrices_from_relion(rot, tilt, psi), rotations)


def disturb_rotations(rotations: np.ndarray, rms_deg: float, rng: np.random.Generator) -> np.ndarray:
    """Turn each rotation about an axis of its own, all axes as likely, by a normal angle.

    Parameters
    ----------
    rotations : (n, 3, 3) float
    rms_deg : float
        Standard deviation of the angle.
    rng : numpy.random.Generator

    Returns
    -------
    (n, 3, 3) float64
    """
    axes = rng.standard_normal((len(rotations), 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    angles = np.deg2rad(rms_deg) * rng.standard_normal(len(rotations))
    return Rotation.from_rotvec(axes * angles[:, None]).as_matrix() @ rotations
