"""Clouds of Gaussians that are imaged: atoms, the solvent they displace, a belt of detergent, junk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from cocofold.imaging import REFERENCE_WIDTH_ANGSTROM
from cocofold.simulation.settings import Settings
from cocofold.structure import Model

# Per atom other than hydrogen in a protein of 1.35 g/cm^3, and per water molecule (an oxygen, Z = 8).
_VOLUME_PER_ATOM_A3 = 16.9
_WATER_VOLUME_A3 = 29.9
_OXYGEN = 8.0

_BELT_SPACING_ANGSTROM = 3.0
_BELT_WIDTH_ANGSTROM = 2.0
_BELT_THICKNESS_ANGSTROM = 15.0
_BELT_DENSITY_OF_PROTEIN = 0.4
_CLOSEST_TO_PROTEIN_ANGSTROM = 3.0
_MEAN_ATOMIC_NUMBER = 6.7


@dataclass(frozen=True)
class Gaussians:
    """A cloud of Gaussians: ``(n, 3)`` Å, amplitude at the peak and width (Å), both ``(n,)``."""

    positions: np.ndarray
    amplitudes: np.ndarray
    widths_angstrom: np.ndarray


def atoms_of(model: Model) -> Gaussians:
    """Atoms as fine-tuning starts with them: the atomic number at the peak, the paper's width."""
    return _alike(model.positions, model.atomic_numbers.astype(float), REFERENCE_WIDTH_ANGSTROM)


def particle(model: Model, settings: Settings) -> list[Gaussians]:
    """All that turns with the particle: its atoms, the solvent they displace, a detergent belt."""
    parts = [atoms_of(model)]
    if settings.solvent:
        parts.append(_displaced_solvent(model))
    if settings.belt:
        parts.append(_belt(model, settings.belt))
    return parts


def blob(model: Model, rng: np.random.Generator) -> Gaussians:
    """Junk of the particle's mass and size: each atom in a random direction, as far from their centre as it was."""
    centre = model.positions.mean(0)
    distance = np.linalg.norm(model.positions - centre, axis=1, keepdims=True)
    direction = rng.standard_normal((len(model), 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return _alike(centre + distance * direction, model.atomic_numbers.astype(float), REFERENCE_WIDTH_ANGSTROM)


def reach_angstrom(parts: list[Gaussians], centre: float) -> float:
    """Largest distance of a Gaussian from the centre of the box."""
    return max(float(np.linalg.norm(part.positions - centre, axis=1).max()) for part in parts)


def _alike(positions: np.ndarray, amplitudes: np.ndarray, width: float) -> Gaussians:
    return Gaussians(positions, amplitudes, np.full(len(positions), width))


def _integral(amplitude: float, width: float) -> float:
    return amplitude * (2 * np.pi) ** 1.5 * width**3


def _displaced_solvent(model: Model) -> Gaussians:
    """Flat solvent, taken out where atoms are (Fraser, MacRae & Suzuki, J. Appl. Cryst. 11, 693, 1978).

    Each atom other than hydrogen displaces water from a Gaussian ``exp(-pi r^2 / V^(2/3))`` of its volume V.
    """
    heavy = model.atomic_numbers > 1
    density = _integral(_OXYGEN, REFERENCE_WIDTH_ANGSTROM) / _WATER_VOLUME_A3
    width = _VOLUME_PER_ATOM_A3 ** (1 / 3) / np.sqrt(2 * np.pi)
    return _alike(model.positions[heavy], np.full(int(heavy.sum()), -density), width)


def _belt(model: Model, height: float) -> Gaussians:
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
    positions = positions[cKDTree(model.positions).query(positions)[0] > _CLOSEST_TO_PROTEIN_ANGSTROM]
    protein = _integral(_MEAN_ATOMIC_NUMBER, REFERENCE_WIDTH_ANGSTROM) / _VOLUME_PER_ATOM_A3
    water = _integral(_OXYGEN, REFERENCE_WIDTH_ANGSTROM) / _WATER_VOLUME_A3
    mass = _BELT_DENSITY_OF_PROTEIN * (protein - water) * _BELT_SPACING_ANGSTROM**3
    peak = mass / _integral(1.0, _BELT_WIDTH_ANGSTROM)
    return _alike(positions, np.full(len(positions), peak), _BELT_WIDTH_ANGSTROM)
