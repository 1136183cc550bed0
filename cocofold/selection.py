"""Selection of particles: the held-out ones first, then those to be fitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from cocofold.finetuning.holdout import heldout_count
from cocofold.imaging.fourier import ring_count
from cocofold.likelihood.frc_loss import AtomGaussians, correlate_in_chunks, images_per_chunk, settle_contrast
from cocofold.likelihood.observed_images import Observations
from cocofold.particles.particle_set import ParticleSet
from cocofold.particles.poses import view_directions
from cocofold.structure.model import Model
from cocofold.system.errors import InputError, require_within

CRITERIA = ("random", "frc", "views")


@dataclass(frozen=True)
class ParticleSelection:
    """Particles that were selected from a set.

    Attributes
    ----------
    by : str
        random, frc or views.
    selected, held_out : (n,) int
        Rows of the set from 0, ascending: particles to be fitted, and particles by which the fit is judged.
    scored_rings : tuple of int
        Fourier rings by which particles were selected, now or before.
    statistics : dict
        Figures of the selected particles and of all from which they were selected.
    """

    by: str
    selected: np.ndarray
    held_out: np.ndarray
    scored_rings: tuple[int, ...]
    statistics: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """As it goes to JSON."""
        return {
            "by": self.by,
            "count": len(self.rows),
            "scored_rings": list(self.scored_rings),
            "statistics": self.statistics,
            "selected": self.selected.tolist(),
            "held_out": self.held_out.tolist(),
        }

    @property
    def rows(self) -> np.ndarray:
        """Rows of all selected and held-out particles, in the set's order, (count,) int."""
        return np.sort(np.concatenate([self.selected, self.held_out]))

    def apply_to(self, particles: ParticleSet) -> ParticleSet:
        """The particles of the set that are selected or held out, marked as such."""
        marks = np.isin(self.rows, self.held_out) if len(self.held_out) else None
        return replace(particles.subset(self.rows), held_out=marks, scored_rings=self.scored_rings)


def select_particles(
    particles: ParticleSet,
    count: int,
    by: str,
    seed: int = 0,
    model: Model | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> ParticleSelection:
    """Select particles, of which some are held out.

    As many as fine-tuning holds out of ``count`` are drawn first, at random from all, so that no choice touches them;
    rows that share an image are held out together. The others are selected from what is left. Where the particles are
    marked already, those to hold out are drawn from the ones marked, and the others from the rest. What is selected
    depends on the images and the seed, not on the order in which the particles stand.

    Parameters
    ----------
    particles : ParticleSet
    count : int
        Number of particles, those held out included.
    by : str
        random; frc: those whose images agree best with the model; views: evenly from all directions of view.
    seed : int
    model : Model, optional
        In the map's frame; for frc.
    device
    progress : callable, optional
        Called with the number of images scored, and of all.

    Raises
    ------
    InputError
        If there are too few particles, or images cannot be read.
    """
    if by not in CRITERIA:
        raise InputError(f"--by {by}: give {', '.join(CRITERIA[:-1])} or {CRITERIA[-1]}")
    if not 1 <= count <= len(particles):
        raise InputError(f"--count {count}: must be from 1 to {len(particles)}, as many as there are particles")
    require_within("--seed", seed, 0, 2**63 - 1)
    # The second number keeps what is drawn here apart from other draws with the same seed.
    random = np.random.default_rng([seed, 2])
    held_out, candidates = _draw_held_out(particles, count, random)
    some, wanted = particles.subset(candidates), count - len(held_out)
    if by == "random":
        found = _ChosenRows(random.permutation(len(some))[:wanted])
    elif by == "views":
        found = _choose_by_views(some, wanted, random)
    elif model is None:
        raise InputError("--by frc: images are compared with a model; add --model FILE")
    else:
        found = _choose_by_agreement(some, wanted, score_images(some, model, device, progress))
    return ParticleSelection(
        by,
        np.sort(candidates[found.rows]),
        np.sort(held_out),
        tuple(sorted({*particles.scored_rings, *found.rings})),
        found.statistics,
    )


@dataclass(frozen=True)
class _ChosenRows:
    """Rows of the candidates that are selected, the rings that told, and figures."""

    rows: np.ndarray
    rings: tuple[int, ...] = ()
    statistics: dict[str, Any] = field(default_factory=dict)


def _draw_held_out(particles: ParticleSet, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the particles that are held out, and of those from which the others are selected."""
    order, images = _order_of_images(particles), particles.particle_numbers
    given = np.zeros(len(particles), dtype=bool) if particles.held_out is None else particles.held_out
    marked = np.isin(images, images[given])
    drawn = random.permutation(order[marked[order]] if marked.any() else order)
    # Numbers are those of images, of which the selection has its share.
    n_images = len(np.unique(images))
    wanted = heldout_count(round(count * n_images / len(particles)))
    chosen = images[drawn][np.sort(np.unique(images[drawn], return_index=True)[1])][:wanted]
    held_out = drawn[np.isin(images[drawn], chosen)]
    candidates = order[~marked[order] & ~np.isin(images[order], chosen)]
    if len(held_out) > count:
        raise InputError(
            f"--count {count}: {len(chosen)} images would be held out, and {len(held_out)} rows share them; select more"
        )
    if count - len(held_out) > len(candidates):
        raise InputError(
            f"--count {count}: {len(held_out)} are held out and {len(candidates)} are left to select from, as "
            f"{marked.sum()} of {len(particles)} particles are marked as held out already; select at most "
            f"{len(candidates) + len(held_out)}, or give the set from which these were selected"
        )
    return held_out, candidates


def _choose_by_views(particles: ParticleSet, count: int, random: np.random.Generator) -> _ChosenRows:
    n_bins = bin_count(count)
    bins = bins_of_views(particles.rotations, n_bins)
    rows = draw_evenly(bins, count, random)
    seen = np.unique(bins)
    figures = {"all": _particles_per_bin(bins, seen), "selected": _particles_per_bin(bins[rows], seen)}
    return _ChosenRows(rows, (), {"bins": n_bins, "empty_bins": n_bins - len(seen), **figures})


def _choose_by_agreement(particles: ParticleSet, count: int, scores: ImageScores) -> _ChosenRows:
    rows = np.argsort(-scores.values, kind="stable")[:count]
    extent = particles.box * particles.pixel_size_angstrom
    statistics = {
        "rings": list(scores.rings),
        "resolutions_angstrom": [round(extent / ring, 3) for ring in scores.rings],
        "contrast": scores.contrast,
        "all": _score_statistics(scores.values),
        "selected": _score_statistics(scores.values[rows]),
    }
    return _ChosenRows(rows, scores.rings, statistics)


def _order_of_images(particles: ParticleSet) -> np.ndarray:
    """Rows by the names of the stacks and the images' places therein, (n,) int."""
    rank = np.argsort(np.argsort([str(stack) for stack in particles.stacks]))
    return np.lexsort((particles.slice_index, rank[particles.stack_index]))


def _particles_per_bin(bins: np.ndarray, seen: np.ndarray) -> dict[str, int]:
    """How many particles are in each of the bins that some of all particles are in."""
    counts = np.bincount(bins, minlength=seen[-1] + 1)[seen]
    return {"fewest": int(counts.min()), "most": int(counts.max())}


def _score_statistics(scores: np.ndarray) -> dict[str, float]:
    figures = {
        "least": scores.min(),
        "mean": scores.mean(),
        "median": np.median(scores),
        "most": scores.max(),
        "standard_deviation": scores.std(),
    }
    return {name: round(float(figure), 5) for name, figure in figures.items()}


# Finer rings of single images hold too little signal to tell images apart.
SCORING_RESOLUTION_ANGSTROM = 10.0
# Every fourth ring is scored: fine-tuning does not fit these, as they were chosen by.
SCORED_RING_INTERVAL = 4
# Images between two reports of progress; scores do not depend on it.
_IMAGES_AT_ONCE = 500


@dataclass(frozen=True)
class ImageScores:
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
    rings = tuple(
        range(SCORED_RING_INTERVAL, ring_count(box, pixel, SCORING_RESOLUTION_ANGSTROM) + 1, SCORED_RING_INTERVAL)
    )
    if not rings:
        raise InputError(
            f"--by frc: images of {box} pixels of {pixel:g} Å have fewer than {SCORED_RING_INTERVAL} Fourier "
            "rings up to "
            f"{SCORING_RESOLUTION_ANGSTROM:g} Å; select by random or views"
        )
    return rings


def score_images(
    particles: ParticleSet,
    model: Model,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> ImageScores:
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
    gaussians = AtomGaussians.from_elements(model.atomic_numbers, device)
    try:
        contrast, _ = settle_contrast(observations, positions, gaussians)
        chunk = images_per_chunk(len(positions))
        parts = []
        for rows in torch.arange(len(particles)).split(_IMAGES_AT_ONCE):
            correlations = correlate_in_chunks(
                positions, gaussians, observations, rows, observations.rings(rings[-1]), chunk
            )
            parts.append(correlations[:, [ring - 1 for ring in rings]].double().mean(1).cpu().numpy())
            if progress is not None:
                progress(int(rows[-1]) + 1, len(particles))
    finally:
        observations.close()
    return ImageScores(np.concatenate(parts), rings, contrast)


# Particles in a bin on average, so that few bins are empty by chance, and bins at most: some 5° wide.
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
