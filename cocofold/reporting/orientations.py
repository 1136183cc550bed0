"""From where particles were seen, and how evenly their views sample Fourier space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

_SHELL_RADIUS = 50
_SHELL_POINTS = 6000
_MOST_VIEWS = 20_000
_VIEWS_SMOOTHED_OVER = 12
_LEAST_SMOOTHING_DEG, _MOST_SMOOTHING_DEG = 5.0, 25.0
_AT_ONCE = 500


@dataclass(frozen=True)
class Sampling:
    """How evenly views sample a shell of Fourier space.

    Attributes
    ----------
    scf : float
        Sampling compensation factor SCF*, 0 to 1.
    scf_of_random_views : float
        Of as many views drawn evenly over the sphere: what few particles reach at most.
    unsampled : float
        Share of the shell that no view samples.
    views : int
        How many were used.
    radius : int
        Of the shell, in Fourier pixels.
    """

    scf: float
    scf_of_random_views: float
    unsampled: float
    views: int
    radius: int


def even_directions(count: int) -> np.ndarray:
    """Directions spread evenly over the sphere (a Fibonacci spiral), (count, 3)."""
    turn = np.arange(count) * np.pi * (3 - np.sqrt(5))
    height = 1 - (2 * np.arange(count) + 1) / count
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), height], axis=1)


def shell_sampling(directions: np.ndarray, radius: int = _SHELL_RADIUS) -> np.ndarray:
    """How many views sample each of 6,000 points of a Fourier shell, (6000,) int.

    A view samples what lies within half a Fourier pixel of its central slice: ``|p · d| < 1 / (2 radius)``.
    """
    points = even_directions(_SHELL_POINTS)
    counts = np.zeros(len(points), dtype=int)
    for first in range(0, len(directions), _AT_ONCE):
        counts += (np.abs(points @ directions[first : first + _AT_ONCE].T) < 0.5 / radius).sum(1)
    return counts


def compensation_factor(counts: np.ndarray) -> float:
    """Sampling compensation factor of a shell: ``1 / (mean of S · mean of 1/S)``, 1 for even sampling.

    Baldwin and Lyumkis (2020), doi:10.1016/j.pbiomolbio.2019.09.002. As in their program (2021,
    doi:10.1016/j.pbiomolbio.2020.06.003: SCF*), the factor of the sampled points is lowered for the share that no view
    samples: ``SCF* = SCF / (1 + q/(1 - q) · mean of S · SCF / 2)``.
    """
    sampled = counts[counts > 0]
    if len(sampled) == 0:
        return 0.0
    share = 1 - len(sampled) / len(counts)
    factor = 1 / (counts.mean() * (1 / sampled).mean())
    return float(factor / (1 + share / (1 - share) * counts.mean() * factor / 2))


def sampling(directions: np.ndarray, symmetry: np.ndarray | None = None, seed: int = 0) -> Sampling:
    """How evenly views sample Fourier space.

    Parameters
    ----------
    directions : (n, 3) float
        Of more than 20,000, copies by symmetry included, as many are drawn.
    symmetry : (m, 3, 3) float, optional
        Rotations of a point group: each view counts from all directions that are alike.
    seed : int
        Of what is drawn.
    """
    random = np.random.default_rng(seed)
    turns = np.eye(3)[None] if symmetry is None else symmetry
    most = _MOST_VIEWS // len(turns)
    if len(directions) > most:
        directions = directions[random.choice(len(directions), most, replace=False)]
    even = random.normal(size=(len(directions), 3))
    even /= np.linalg.norm(even, axis=1, keepdims=True)
    counts = shell_sampling(_copied(directions, turns))
    return Sampling(
        compensation_factor(counts),
        compensation_factor(shell_sampling(_copied(even, turns))),
        float((counts == 0).mean()),
        len(directions),
        _SHELL_RADIUS,
    )


def _copied(directions: np.ndarray, turns: np.ndarray) -> np.ndarray:
    return np.einsum("mij,nj->mni", turns, directions).reshape(-1, 3)


def smoothing_deg(count: int) -> float:
    """Radius of a cap in which an even distribution of so many views has 12 of them; from 5° to 25°."""
    cosine = np.clip(1 - 2 * _VIEWS_SMOOTHED_OVER / max(count, 1), -1, 1)
    return float(np.clip(np.rad2deg(np.arccos(cosine)), _LEAST_SMOOTHING_DEG, _MOST_SMOOTHING_DEG))


def density_on_mollweide(
    directions: np.ndarray, radius_deg: float, columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Density of views on a Mollweide map of the sphere, relative to an even distribution.

    Parameters
    ----------
    directions : (n, 3) float
    radius_deg : float
        Of the cap around each pixel in which views are counted.
    columns : int

    Returns
    -------
    x, y : (columns,), (columns // 2,) float
        Of the map's pixels: from -2 to 2 and -1 to 1.
    density : (columns // 2, columns) float
        Views within the cap over as many as an even distribution has there; NaN outside the map.
    """
    rows = columns // 2
    x = (np.arange(columns) + 0.5) * 4 / columns - 2
    y = (np.arange(rows) + 0.5) * 2 / rows - 1
    theta = np.arcsin(y)[:, None]
    longitude = np.pi * x[None] / (2 * np.cos(theta))
    latitude = np.arcsin((2 * theta + np.sin(2 * theta)) / np.pi)
    inside = np.abs(longitude) <= np.pi
    pixels = np.stack(
        [
            np.cos(latitude) * np.cos(longitude),
            np.cos(latitude) * np.sin(longitude),
            np.broadcast_to(np.sin(latitude), inside.shape),
        ],
        axis=-1,
    )[inside]
    reach = 2 * np.sin(np.deg2rad(radius_deg) / 2)
    found = cKDTree(directions).query_ball_point(pixels, reach, return_length=True)
    expected = len(directions) * (1 - np.cos(np.deg2rad(radius_deg))) / 2
    density = np.full(inside.shape, np.nan)
    density[inside] = found / expected
    return x, y, density
