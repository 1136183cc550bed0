"""How well a model explains particle images when these are taken in another way."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from cocofold.imaging.fourier import RingPixels, normalise_rings, ring_count, ring_sums
from cocofold.imaging.projection import REFERENCE_WIDTH_ANGSTROM, Poses, project
from cocofold.likelihood.observed_images import ring_transforms
from cocofold.likelihood.particle_optics import ParticleOptics, magnified_poses
from cocofold.particles.particle_set import ParticleSet
from cocofold.structure.model import Model

# Pixels of images, and atoms times images, of one pass: memory alone, results do not depend on them.
_PIXELS_AT_ONCE = 8_000_000
_ATOMS_AT_ONCE = 100_000
# Atoms within a cell of this share of the resolution are drawn as one: larger cells are faster and blur the model.
_CELL_PER_RESOLUTION = 0.6


class HypothesisScorer:
    """Ring correlations of images with a model's projections.

    Parameters
    ----------
    particles : ParticleSet
    model : Model
        Atoms closer to each other than the resolution tells are drawn as one.
    rings : RingPixels
        The rings that are compared.
    images : (n, n_pixels) complex
        Transforms of the particles' images, each ring of unit power.
    power : (n_rings,) float
        Mean power of the rings before that.
    """

    def __init__(
        self, particles: ParticleSet, model: Model, rings: RingPixels, images: torch.Tensor, power: torch.Tensor
    ) -> None:
        self.particles, self.model, self.rings = particles, model, rings
        self._device = rings.kx.device
        box, pixel = particles.box, particles.pixel_size_angstrom
        self.resolutions_angstrom = box * pixel / np.arange(1, len(power) + 1)
        self._points, self._masses = merge_nearby_atoms(
            model.positions, model.atomic_numbers, _CELL_PER_RESOLUTION * self.resolutions_angstrom[-1]
        )
        self.centroid = np.average(self._points, axis=0, weights=self._masses)
        self._images, self._power = images, power
        self._projections: dict[tuple, torch.Tensor] = {}
        self._transfers: dict[tuple, torch.Tensor] = {}
        self._shifts: dict[float, torch.Tensor] = {}

    @classmethod
    def read(
        cls, particles: ParticleSet, model: Model, resolution_angstrom: float, device: torch.device | str = "cpu"
    ) -> HypothesisScorer:
        """Read the images of all particles, once, as the Fourier pixels of the rings to a resolution.

        Raises
        ------
        InputError
            If images cannot be read.
        """
        n_rings = ring_count(particles.box, particles.pixel_size_angstrom, resolution_angstrom)
        rings = RingPixels.up_to(particles.box, n_rings, torch.device(device))
        optics = ParticleOptics(particles, rings)
        parts, powers = [], []
        for rows in _row_chunks(len(particles), _PIXELS_AT_ONCE // particles.box**2):
            planes = ring_transforms(particles, rows.numpy(), rings, optics)
            powers.append(ring_sums(planes.abs() ** 2 * rings.weight, rings))
            parts.append(torch.view_as_complex(normalise_rings(torch.view_as_real(planes), rings)))
        return cls(particles, model, rings, torch.cat(parts), torch.cat(powers).mean(0))

    def correlations(
        self, hypothesis: Hypothesis, turn: np.ndarray | None = None, move: np.ndarray | None = None
    ) -> np.ndarray:
        """Ring correlation of each image with its prediction, (n, n_rings).

        Parameters
        ----------
        hypothesis : Hypothesis
        turn : (3, 3), optional
            Rotates the model about its centroid first.
        move : (3,) Å, optional
            Moves the model.
        """
        seen = self._predict(hypothesis, turn, move)
        return hypothesis.contrast * self._correlate(seen, self._transfer(hypothesis), self.rings.weight)

    def correlations_of_defoci(
        self, hypothesis: Hypothesis, defoci_angstrom: np.ndarray, turn: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ring correlations under defoci common to all images, in two halves of the Fourier pixels.

        Returns
        -------
        two (n_defoci, n, n_rings)
        """
        seen = self._predict(hypothesis, turn, None)
        taken = with_pixel_size(self.particles, hypothesis.pixel_factor)
        draw = torch.rand(len(self.rings), generator=torch.Generator().manual_seed(0)) < 0.5
        half = draw.to(self._device)
        both: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for defocus in defoci_angstrom:
            same = np.full(len(taken), float(defocus))
            transfer = self._compute_transfer(with_defocus(taken, same, same))
            for correlations, chosen in zip(both, (half, ~half)):
                weight = self.rings.weight * chosen
                correlations.append(hypothesis.contrast * self._correlate(seen, transfer, weight))
        return np.stack(both[0]), np.stack(both[1])

    def spectrum_correlations(self, hypothesis: Hypothesis) -> np.ndarray:
        """Correlation of each image with its prediction over all rings as one, the images' spectrum made flat, (n,).

        In each ring a CTF, its absolute value and none may predict the same; how rings compare tells them apart.
        """
        seen, transfer = self._predict(hypothesis, None, None), self._transfer(hypothesis)
        power = ring_sums((seen.real**2 + seen.imag**2) * transfer**2 * self.rings.weight, self.rings)
        pixels = ring_sums(self.rings.weight[None], self.rings)
        flat = (power / self._power.clamp_min(torch.finfo(power.dtype).tiny)).double().cpu().numpy()
        predicted = np.sqrt(flat * pixels.double().cpu().numpy())
        norm = np.sqrt((predicted**2).sum(1) * float(pixels.sum()))
        seen_in_rings = self.correlations(hypothesis) * np.sqrt(pixels.double().cpu().numpy())
        return (predicted * seen_in_rings).sum(1) / np.maximum(norm, 1e-30)

    def _correlate(self, seen: torch.Tensor, transfer: torch.Tensor, weight: torch.Tensor) -> np.ndarray:
        cross = ring_sums((seen * self._images.conj()).real * transfer * weight, self.rings)
        power = ring_sums((seen.real**2 + seen.imag**2) * transfer**2 * weight, self.rings)
        return (cross * power.clamp_min(torch.finfo(power.dtype).tiny).rsqrt()).double().cpu().numpy()

    def _predict(self, hypothesis: Hypothesis, turn: np.ndarray | None, move: np.ndarray | None) -> torch.Tensor:
        """Transforms of shifted projections, (n, n_pixels) complex."""
        key = (hypothesis.transposed, hypothesis.mirror, hypothesis.pixel_factor, hypothesis.model_factor)
        if turn is not None or move is not None:
            projections = self._project(hypothesis, turn, move)
        else:
            if key not in self._projections:
                self._projections[key] = self._project(hypothesis, None, None)
            projections = self._projections[key]
        return projections * self._shift(hypothesis)

    def _shift(self, hypothesis: Hypothesis) -> torch.Tensor:
        """Factors that shift projections by the poses' origins, (n, n_pixels) complex."""
        factor = hypothesis.shift_factor / hypothesis.pixel_factor
        if factor not in self._shifts:
            origins = factor * self.particles.origins_angstrom
            origins = origins / (self.particles.box * self.particles.pixel_size_angstrom)
            x, y = torch.as_tensor(origins, dtype=torch.float32, device=self._device).T[:, :, None]
            phase = 2 * math.pi * (self.rings.kx * x + self.rings.ky * y)
            self._shifts[factor] = torch.polar(torch.ones_like(phase), phase)
        return self._shifts[factor]

    def _project(self, hypothesis: Hypothesis, turn: np.ndarray | None, move: np.ndarray | None) -> torch.Tensor:
        points = (self._points - self.centroid) / hypothesis.model_factor
        points = (points if turn is None else points @ turn.T) + self.centroid
        points = points if move is None else points + move
        taken = with_pixel_size(self.particles, hypothesis.pixel_factor)
        rotations = torch.as_tensor(hypothesis.rotations(taken.rotations), dtype=torch.float32)
        poses = magnified_poses(Poses(rotations, torch.zeros(len(taken), 2)), taken).to(self._device)
        positions = torch.as_tensor(points, dtype=torch.float32, device=self._device)
        masses = torch.as_tensor(self._masses, dtype=torch.float32, device=self._device)
        widths = torch.full_like(masses, REFERENCE_WIDTH_ANGSTROM)
        parts = [
            project(positions, masses, widths, poses[rows.to(self._device)], self.rings, taken.pixel_size_angstrom)
            for rows in _row_chunks(len(taken), _ATOMS_AT_ONCE // len(points))
        ]
        return torch.view_as_complex(torch.cat(parts))

    def _transfer(self, hypothesis: Hypothesis) -> torch.Tensor:
        key = (hypothesis.ctf, hypothesis.pixel_factor)
        if key not in self._transfers:
            if hypothesis.ctf == ABSENT:
                self._transfers[key] = torch.ones(len(self.particles), len(self.rings), device=self._device)
            else:
                taken = with_pixel_size(self.particles, hypothesis.pixel_factor)
                self._transfers[key] = self._compute_transfer(with_ctf(taken, hypothesis.ctf))
        return self._transfers[key]

    def _compute_transfer(self, particles: ParticleSet) -> torch.Tensor:
        rows = torch.arange(len(particles), device=self._device)
        return ParticleOptics(particles, self.rings).transfer(rows, self.rings)


def merge_nearby_atoms(
    positions: np.ndarray, masses: np.ndarray, cell_angstrom: float
) -> tuple[np.ndarray, np.ndarray]:
    """Atoms that share a cubic cell as one mass at their centre.

    Parameters
    ----------
    positions : (n_atoms, 3) float
        Å.
    masses : (n_atoms,) float
    cell_angstrom : float
        Side of the cells.

    Returns
    -------
    positions : (n, 3) float64
    masses : (n,) float64
    """
    cells = np.floor((positions - positions.min(0)) / cell_angstrom).astype(int)
    owner = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
    total = np.bincount(owner, masses)
    centres = np.stack([np.bincount(owner, masses * axis) / total for axis in positions.T], axis=1)
    return centres, total


def _row_chunks(count: int, at_once: int) -> tuple[torch.Tensor, ...]:
    return torch.arange(count).split(max(1, at_once))


GIVEN = "as given"
NEGATED, ABSENT = "negated", "none"
FLIPPED, UNFLIPPED, OPPOSITE_DEFOCUS = "phases flipped", "phases not flipped", "defocus of opposite sign"
SHIFT_CHOICES = (GIVEN, NEGATED, ABSENT)
MIRRORS = {"x": (-1.0, 1.0, 1.0), "y": (1.0, -1.0, 1.0), "z": (1.0, 1.0, -1.0), "centre": (-1.0, -1.0, -1.0)}
_MIRROR_ALONG_VIEW = np.array([[1.0], [1.0], [-1.0]])


@dataclass(frozen=True)
class Hypothesis:
    """One way to take particles; by default as their file says.

    Attributes
    ----------
    contrast : int
        1: protein is white as images are read; -1: dark.
    transposed : bool
        Each pose is the inverse of what it should be.
    mirror : str or None
        Poses are those of the map mirrored along x, y or z, or through its centre. Two of these differ by a half turn
        of the model, which one knows only from where the model lies.
    shifts : str
        As given, negated, or none, as if the images were centred already.
    ctf : str
        As given, none, of flipped phases, or of the opposite defocus.
    pixel_factor : float
        By which pixels are larger; poses' origins, defoci and the model stay as they are in Å.
    model_factor : float
        By which pixels are larger, where all stays as it is in pixels: the model is drawn smaller, about its centroid.
    origins_factor : float
        On the poses' origins, which are in pixels of another size.
    """

    contrast: int = 1
    transposed: bool = False
    mirror: str | None = None
    shifts: str = GIVEN
    ctf: str = GIVEN
    pixel_factor: float = 1.0
    model_factor: float = 1.0
    origins_factor: float = 1.0

    def rotations(self, given: np.ndarray) -> np.ndarray:
        """Poses, (n, 3, 3): ``A' = diag(1, 1, -1) A M`` of a map mirrored by M."""
        rotations = given.transpose(0, 2, 1) if self.transposed else given
        return rotations if self.mirror is None else _MIRROR_ALONG_VIEW * rotations * np.array(MIRRORS[self.mirror])

    @property
    def shift_factor(self) -> float:
        """Of the origins."""
        return {GIVEN: 1.0, NEGATED: -1.0, ABSENT: 0.0}[self.shifts] * self.origins_factor

    def changes(self) -> tuple[str, ...]:
        """Names of the attributes that are not as the file says."""
        return tuple(name for name, value in vars(self).items() if value != getattr(Hypothesis, name))

    def without(self, name: str) -> Hypothesis:
        """With one attribute as the file says."""
        return replace(self, **{name: getattr(Hypothesis, name)})


def other_ctfs(particles: ParticleSet) -> tuple[str, ...]:
    """Names of the CTFs that images may have instead of theirs."""
    flipped = any(group.phase_flipped or group.ctf_premultiplied for group in particles.optics)
    return (UNFLIPPED if flipped else FLIPPED, ABSENT, OPPOSITE_DEFOCUS)


def with_ctf(particles: ParticleSet, name: str) -> ParticleSet:
    """Particles with the optics of one of ``other_ctfs``, but for ``ABSENT``, of which there are none."""
    if name == OPPOSITE_DEFOCUS:
        return with_defocus(particles, -particles.defocus_u_angstrom, -particles.defocus_v_angstrom)
    if name in (FLIPPED, UNFLIPPED):
        flipped = name == FLIPPED
        optics = tuple(replace(one, phase_flipped=flipped, ctf_premultiplied=False) for one in particles.optics)
        return replace(particles, optics=optics)
    return particles


def with_defocus(particles: ParticleSet, u_angstrom: np.ndarray, v_angstrom: np.ndarray) -> ParticleSet:
    """Particles of other defoci, both (n,) Å."""
    return replace(particles, defocus_u_angstrom=u_angstrom, defocus_v_angstrom=v_angstrom)


def with_pixel_size(particles: ParticleSet, factor: float) -> ParticleSet:
    """Particles with pixels larger by a factor; all else stays as it is in Å."""
    if factor == 1.0:
        return particles
    optics = tuple(replace(one, pixel_size_angstrom=one.pixel_size_angstrom * factor) for one in particles.optics)
    return replace(particles, optics=optics)
