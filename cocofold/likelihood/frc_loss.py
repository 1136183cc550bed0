"""How well atoms explain images: ring correlations in chunks of bounded memory, their gradient, and the contrast."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from cocofold.imaging.fourier import RingPixels, ring_correlations, ring_count
from cocofold.imaging.projection import REFERENCE_WIDTH_ANGSTROM, project
from cocofold.likelihood.observed_images import Observations
from cocofold.structure.confidence import ordered_atoms
from cocofold.structure.model import Model
from cocofold.system.hardware import is_out_of_device_memory

# Variances (Å²) and amplitudes of Gaussians within which the penalty is zero; paper eq. 4.
LEAST_VARIANCE_A2, MOST_VARIANCE_A2 = 0.1, 0.8
LEAST_AMPLITUDE, MOST_AMPLITUDE = 1.0, 20.0
# Atoms times images compared at once where no plan of memory says: few enough for a processor's caches. Another number
# rounds sums differently. A run's own number is its option chunk_atoms.
_ATOMS_AT_ONCE = 24_000
_CTFS_AT_ONCE = 256


@dataclass(frozen=True)
class AtomGaussians:
    """Amplitude and width (Å) of each atom's Gaussian, both (n_atoms,) float."""

    amplitudes: torch.Tensor
    widths_angstrom: torch.Tensor

    @classmethod
    def from_elements(cls, atomic_numbers: np.ndarray, device: torch.device | str = "cpu") -> AtomGaussians:
        """Gaussians by the elements alone: atomic numbers, (n_atoms,) int, are amplitudes, and widths are alike."""
        amplitudes = torch.as_tensor(atomic_numbers, dtype=torch.float32, device=device)
        return cls(amplitudes, torch.full_like(amplitudes, REFERENCE_WIDTH_ANGSTROM))

    @classmethod
    def of_model(cls, model: Model, device: torch.device | str = "cpu") -> AtomGaussians:
        """Gaussians by the elements of a model's atoms, of amplitude 0 where residues are disordered."""
        return cls.from_elements(model.atomic_numbers * ordered_atoms(model), device)

    def detached(self) -> AtomGaussians:
        """Copies of the values, which no optimiser changes."""
        return AtomGaussians(self.amplitudes.detach().clone(), self.widths_angstrom.detach().clone())

    def of_first_copy(self, copies: int) -> AtomGaussians:
        """Copies of the values of the first of so many equal copies of a molecule, which follow each other."""
        count = len(self.amplitudes) // copies
        return AtomGaussians(self.amplitudes[:count], self.widths_angstrom[:count]).detached()

    def repeated(self, copies: int) -> AtomGaussians:
        """Gaussians of so many copies of these atoms, which follow each other; differentiable."""
        values = (self.amplitudes, self.widths_angstrom)
        return self if copies == 1 else AtomGaussians(*(each.repeat(copies) for each in values))

    def penalty(self, counted: torch.Tensor, is_mean: bool = False) -> torch.Tensor:
        """Hinges that keep variances in 0.1 to 0.8 Å² and amplitudes in 1 to 20 (paper eq. 4).

        Parameters
        ----------
        counted : (n_atoms,) bool
            Atoms of ordered residues with a backbone; others are exempt.
        is_mean : bool
            Whether it is the mean over these atoms, as in the paper, or their sum.
        """
        excess = _outside(self.widths_angstrom**2, LEAST_VARIANCE_A2, MOST_VARIANCE_A2)
        excess = excess + _outside(self.amplitudes, LEAST_AMPLITUDE, MOST_AMPLITUDE)
        # By a product: to take the counted ones out, a GPU would have to be waited for
        total = (excess * counted).sum()
        return total / counted.sum().clamp(min=1) if is_mean else total


def _outside(values: torch.Tensor, least: float, most: float) -> torch.Tensor:
    return torch.relu(least - values) + torch.relu(values - most)


def correlate(
    positions: torch.Tensor, gaussians: AtomGaussians, observations: Observations, rows: torch.Tensor, rings: RingPixels
) -> torch.Tensor:
    """Fourier ring correlations of the images in ``rows`` with their predictions, by dose if known, (n, n_rings)."""
    batch = observations.batch(rows, rings)
    seen_from = (batch.poses, rings, observations.pixel_size_angstrom)
    predicted = project(positions, gaussians.amplitudes, gaussians.widths_angstrom, *seen_from)
    found = ring_correlations(predicted * batch.transfer, batch.transforms, rings)
    return observations.weighted_by_dose(found, rows)


def split_into_chunks(rows: torch.Tensor, most: int) -> tuple[torch.Tensor, ...]:
    """Split rows into as few chunks of ``most`` at most as it takes, of even sizes: processes then have even shares."""
    return rows.tensor_split(chunk_count(rows, most)) if len(rows) else ()


def chunk_count(rows: torch.Tensor, most: int) -> int:
    """Number of chunks into which ``split_into_chunks`` splits rows."""
    return math.ceil(len(rows) / most)


def images_per_chunk(n_atoms: int) -> int:
    """Number of images to compare at once with so many atoms, outside a run, which plans its memory."""
    return max(1, _ATOMS_AT_ONCE // n_atoms)


def map_within_memory(
    compute: Callable[[torch.Tensor], torch.Tensor], observations: Observations, rows: torch.Tensor
) -> list[torch.Tensor]:
    """Results of ``compute`` for rows of images, all at once or in pieces that a GPU's memory holds.

    Raises
    ------
    InputError
        If it does not hold one image.
    """
    found: list[torch.Tensor] = []
    left = rows
    while len(left):
        some = left[: observations.image_limit]
        try:
            part = compute(some)
        except RuntimeError as error:
            if not is_out_of_device_memory(error):
                raise
            part = None
        if part is None:
            # What the failed attempt held is free by now.
            observations.lower_images_at_once(len(some))
            continue
        found.append(part)
        left = left[len(some) :]
    return found


def correlate_in_chunks(
    positions: torch.Tensor,
    gaussians: AtomGaussians,
    observations: Observations,
    rows: torch.Tensor,
    rings: RingPixels,
    chunk: int,
) -> torch.Tensor:
    """Fourier ring correlations of many images, ``chunk`` at a time at most, (n, n_rings)."""
    parts = correlate_chunks(positions, gaussians, observations, split_into_chunks(rows, chunk), rings)
    return torch.cat(parts) if parts else torch.empty(0, rings.n_rings, device=positions.device)


@torch.no_grad()
def correlate_chunks(
    positions: torch.Tensor,
    gaussians: AtomGaussians,
    observations: Observations,
    parts: Sequence[torch.Tensor],
    rings: RingPixels,
) -> list[torch.Tensor]:
    """Fourier ring correlations of the images of each chunk, which are read ahead, all (n, n_rings)."""
    positions = positions.contiguous()
    observations.prefetch(parts)

    def correlations(some: torch.Tensor) -> torch.Tensor:
        return correlate(positions, gaussians, observations, some, rings)

    return [torch.cat(map_within_memory(correlations, observations, some)) for some in parts]


class CorrelationGradient(NamedTuple):
    """Mean correlation, and its gradient with respect to positions (n_atoms, 3), amplitudes and widths (n_atoms,)."""

    value: float
    positions: torch.Tensor
    amplitudes: torch.Tensor
    widths: torch.Tensor


def mean_correlation_gradient(
    positions: torch.Tensor,
    gaussians: AtomGaussians,
    observations: Observations,
    rows: torch.Tensor,
    rings: RingPixels,
    chunk: int,
) -> CorrelationGradient:
    """Mean correlation over fitted rings and images (minus paper eq. 3) and its gradient.

    Chunks are added two halves at a time (``sum_pairwise``), so that the number of processes does not change
    the result.

    Parameters
    ----------
    positions : (n_atoms, 3) float
        Å.
    gaussians : AtomGaussians
    observations : Observations
    rows : (n,) int
        Images.
    rings : RingPixels
    chunk : int
        Number of images compared at once, at most.
    """
    if not len(rows):
        return unpack_gradient(positions.new_zeros(packed_length(len(positions))))
    span = (0, chunk_count(rows, chunk))
    return unpack_gradient(packed_gradient_of_chunks(positions, gaussians, observations, rows, rings, chunk, span))


def packed_gradient_of_chunks(
    positions: torch.Tensor,
    gaussians: AtomGaussians,
    observations: Observations,
    rows: torch.Tensor,
    rings: RingPixels,
    chunk: int,
    span: tuple[int, int],
) -> torch.Tensor:
    """Packed gradient of the chunks ``span[0]`` to ``span[1] - 1`` of ``rows``, added by ``sum_pairwise``."""
    parts = split_into_chunks(rows, chunk)

    def of_chunk(first: int, last: int) -> torch.Tensor | None:
        if last - first > 1:
            return None
        return packed_gradient(positions, gaussians, observations, parts[first], rings, len(rows))

    return sum_pairwise(*span, of_chunk)


def sum_pairwise(first: int, last: int, known: Callable[[int, int], torch.Tensor | None]) -> torch.Tensor:
    """Sum of chunks ``first`` to ``last`` - 1: that of their first half and that of their second, each found likewise.

    Whoever adds what, the sum is the same, bit by bit: ``known`` gives the sum of some chunks, at least of single ones,
    and None where it has to be found.
    """
    found = known(first, last)
    if found is None:
        middle = (first + last) // 2
        found = sum_pairwise(first, middle, known) + sum_pairwise(middle, last, known)
    return found


def pairwise_spans(first: int, last: int, begin: int, end: int) -> list[tuple[int, int]]:
    """Largest spans within ``begin`` to ``end - 1`` of those that ``sum_pairwise`` adds from ``first`` on."""
    if begin >= last or end <= first or begin >= end:
        return []
    if begin <= first and last <= end:
        return [(first, last)]
    middle = (first + last) // 2
    return pairwise_spans(first, middle, begin, end) + pairwise_spans(middle, last, begin, end)


def packed_gradient(
    positions: torch.Tensor,
    gaussians: AtomGaussians,
    observations: Observations,
    rows: torch.Tensor,
    rings: RingPixels,
    count: int,
) -> torch.Tensor:
    """Share of some of ``count`` images in the mean correlation and its gradient.

    Returns
    -------
    (packed_length(n_atoms),) float
        Gradients with respect to positions, amplitudes and widths one after another, and the value.
    """
    # Contiguous, as another process has them: the layout in memory decides how a product is rounded
    leaves = [
        values.detach().contiguous().requires_grad_()
        for values in (positions, gaussians.amplitudes, gaussians.widths_angstrom)
    ]

    def share(some: torch.Tensor) -> torch.Tensor:
        correlations = correlate(leaves[0], AtomGaussians(*leaves[1:]), observations, some, rings)
        value = observations.without_scored_rings(correlations).mean(1).sum() / count
        return torch.cat([*(part.reshape(-1) for part in torch.autograd.grad(value, leaves)), value.detach()[None]])

    first, *others = map_within_memory(share, observations, rows)
    return sum(others, first)


def packed_length(n_atoms: int) -> int:
    """Length of a packed gradient: five numbers an atom, and the value."""
    return 5 * n_atoms + 1


def unpack_gradient(packed: torch.Tensor) -> CorrelationGradient:
    """Value and gradients out of what ``packed_gradient`` has put together."""
    n = (len(packed) - 1) // 5
    by_position, by_amplitude, by_width, value = packed.split([3 * n, n, n, 1])
    return CorrelationGradient(float(value), by_position.view(n, 3), by_amplitude, by_width)


# Images that tell the contrast: of fewer the standard error is larger, more cost time at the start of every run.
_MOST_CONTRAST_IMAGES = 300
# Finest resolution that tells it, Å: to there a start that is wrong in places still agrees with the images.
_CONTRAST_RESOLUTION_ANGSTROM = 20.0
# Mean correlation, in its standard errors, from which the contrast counts as found. A wrong contrast turns the loss
# round, so this asks for more than the 3 standard errors by which a cycle is better than the start.
_CLEAR_IN_ERRORS = 5.0


@dataclass(frozen=True)
class ContrastEstimate:
    """What images say of their contrast.

    Attributes
    ----------
    correlation, error : float
        Mean low-resolution correlation with the model, and its standard error.
    images : int
        Number of images compared.
    """

    correlation: float
    error: float
    images: int

    @property
    def verdict(self) -> str:
        """How protein appears in the images: white, dark or undecided."""
        if not abs(self.correlation) > _CLEAR_IN_ERRORS * self.error:  # also if either is not a number
            return "undecided"
        return "white" if self.correlation > 0 else "dark"

    def __str__(self) -> str:
        return (
            f"correlation with the start to {_CONTRAST_RESOLUTION_ANGSTROM:g} Å {self.correlation:.3f} ± "
            f"{self.error:.3f} "
            f"over {self.images} images"
        )


def settle_contrast(
    observations: Observations, positions: torch.Tensor, gaussians: AtomGaussians, asked: str = "auto"
) -> tuple[str, ContrastEstimate | None]:
    """Take protein for white or dark in the images, as told or as they say; undecided ones are taken for white.

    Parameters
    ----------
    observations : Observations
        Their contrast is flipped if protein is dark.
    positions : (n_atoms, 3) float
        Å.
    gaussians : AtomGaussians
    asked : str
        white, dark, or auto to ask the images; see ``find_contrast``.

    Returns
    -------
    contrast : str
        white, dark or undecided.
    found : ContrastEstimate or None
        What the images say; None if they were not asked.
    """
    found = find_contrast(positions, gaussians, observations) if asked == "auto" else None
    contrast = asked if found is None else found.verdict
    if contrast == "dark":
        observations.flip_contrast()
    return contrast, found


def find_contrast(positions: torch.Tensor, gaussians: AtomGaussians, observations: Observations) -> ContrastEstimate:
    """Mean ring correlation to 20 Å of up to 300 images, spread over the set, with a model.

    Parameters
    ----------
    positions : (n_atoms, 3) float
    gaussians : AtomGaussians
    observations : Observations
    """
    count = min(_MOST_CONTRAST_IMAGES, len(observations))
    rows = torch.linspace(0, len(observations) - 1, count).round().long()
    wanted = ring_count(observations.particles.box, observations.pixel_size_angstrom, _CONTRAST_RESOLUTION_ANGSTROM)
    rings = observations.rings(min(wanted, observations.finest_rings))
    chunk = images_per_chunk(len(positions))
    of_images = correlate_in_chunks(positions, gaussians, observations, rows, rings, chunk).mean(1).double()
    of_images = of_images[torch.isfinite(of_images)]
    count = len(of_images)
    error = float(of_images.std(unbiased=True)) / count**0.5 if count > 1 else float("inf")
    return ContrastEstimate(float(of_images.mean()), error, count)


def image_information(observations: Observations, rows: torch.Tensor) -> np.ndarray:
    """What images, (n,) int, tell of an atom's shift across their views, (n,) float, up to a common factor.

    Fisher information in white noise: the sum of k^2 CTF^2 |f|^2, with the dose's damage and an atom's Gaussian f.
    """
    particles, rings = observations.particles, observations.rings(observations.finest_rings)
    premultiplied = np.array([group.ctf_premultiplied for group in particles.optics])[particles.optics_index]
    # Noise of images that were multiplied by their CTF was multiplied too.
    powers = torch.as_tensor(np.where(premultiplied, 1.0, 2.0), dtype=torch.float32, device=observations.device)
    told = []
    for some in rows.to(observations.device).split(_CTFS_AT_ONCE):
        squares = torch.stack(observations.optics.frequencies(some, rings)).square().sum(0)
        atom = rings.weight * squares * torch.exp(-((2 * math.pi * REFERENCE_WIDTH_ANGSTROM) ** 2) * squares)
        told.append((observations.optics.transfer(some, rings).abs() ** powers[some][:, None] * atom).sum(1))
    return torch.cat(told).double().cpu().numpy()
