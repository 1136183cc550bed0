"""Particles in equal numbers from all directions of view.

What counts is the axis along which a particle was projected. A turn of the image in its plane leaves it as it is. So
does the view from the opposite side, whose image is the mirror image and holds the same information.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cocofold.particles.poses import view_directions

_VIEWS_PER_BIN = 10
_MOST_BINS = 1000


def bin_count(count: int) -> int:
    """Bins for so many particles: ten of them in each on average, 1,000 bins at most."""
    return min(max(1, count // _VIEWS_PER_BIN), _MOST_BINS)


def bins_of_views(rotations: np.ndarray, n_bins: int) -> np.ndarray:
    """Bin of each particle's view, (n,) int from 0: cells of equal area on half the sphere, about as high as wide.

    Bands run around the map's z axis from the pole to the equator; each is cut into as many cells as it has of the
    area.

    Parameters
    ----------
    rotations : (n, 3, 3) float
        Matrices A: from the map's frame to the image's.
    n_bins : int
    """
    axes = view_directions(rotations)
    axes = np.where(axes[:, 2:] < 0, -axes, axes)
    # A cell of area 2 pi / n_bins has sides of its root, of which pi / 2 from pole to equator holds so many.
    n_bands = max(1, round(np.sqrt(np.pi * n_bins / 8)))
    first = np.round(n_bins * (1 - np.cos(np.linspace(0, np.pi / 2, n_bands + 1)))).astype(int)
    area = n_bins * (1 - np.clip(axes[:, 2], 0, 1))
    band = np.clip(np.searchsorted(first, area, side="right") - 1, 0, n_bands - 1)
    cells = np.diff(first)[band]
    around = np.arctan2(axes[:, 1], axes[:, 0]) / (2 * np.pi) % 1
    return first[band] + np.minimum((cells * around).astype(int), cells - 1)


def draw_evenly(bins: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Draw one particle from each bin, then a second one, and so on; bins that are exhausted are left out.

    Parameters
    ----------
    bins : (n,) int
    count : int
        At most n.
    random : numpy.random.Generator

    Returns
    -------
    (count,) int
        Rows of ``bins``.
    """
    shuffled = random.permutation(len(bins))
    turn = pd.Series(bins[shuffled]).groupby(bins[shuffled]).cumcount().to_numpy()
    return shuffled[np.argsort(turn, kind="stable")[:count]]
