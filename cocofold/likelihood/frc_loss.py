"""How well atoms explain images, in chunks of bounded memory, and the gradient of that."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cocofold.imaging.projection import REFERENCE_WIDTH_ANGSTROM, project
from cocofold.imaging.rings import RingPixels, ring_correlations, ring_count
from cocofold.likelihood.observed_images import Observations

LEAST_VARIANCE_A2, MOST_VARIANCE_A2 = 0.1, 0.8
LEAST_AMPLITUDE, MOST_AMPLITUDE = 1.0, 20.0


@dataclass(frozen=True)
class AtomGaussians:
    """Amplitude and width (Å) of each atom's Gaussian, both (n_atoms,) float."""

    amplitudes: torch.Tensor
    widths_angstrom: torch.Tensor

    @classmethod
    def from_elements(cls, atomic_numbers: np.ndarray, device: torch.device | str = "cpu") -> AtomGaussians:
        """Those of atoms of which no more is known than their elements, (n_atoms,) int."""
        amplitudes = torch.as_tensor(atomic_numbers, dtype=torch.float32, device=device)
        return cls(amplitudes, torch.full_like(amplitudes, REFERENCE_WIDTH_ANGSTROM))

    def copied(self) -> AtomGaussians:
        """The same values, which no optimiser changes any more."""
        return AtomGaussians(self.amplitudes.detach().clone(), self.widths_angstrom.detach().clone())

    def penalty(self, counted: torch.Tensor) -> torch.Tensor:
        """Hinges that keep variances in 0.1 to 0.8 Å² and amplitudes in 1 to 20 (paper eq. 4).

        Parameters
        ----------
        counted : (n_atoms,) bool
            Protein atoms; others are exempt.
        """
        excess = _outside(self.widths_angstrom**2, LEAST_VARIANCE_A2, MOST_VARIANCE_A2)
        excess = excess + _outside(self.amplitudes, LEAST_AMPLITUDE, MOST_AMPLITUDE)
        return excess[counted].sum()


def _outside(values: torch.Tensor, least: float, most: float) -> torch.Tensor:
    return torch.relu(least - values) + torch.relu(values - most)


def correlate(
    positions: torch.Tensor, gaussians: AtomGaussians, observations: Observations, rows: torch.Tensor, rings: RingPixels
) -> torch.Tensor:
    """Fourier ring correlations of the images in ``rows`` with their predictions, (n, n_rings)."""
    batch = observations.batch(rows, rings)
    predicted = project(
        positions,
        gaussians.amplitudes,
        gaussians.widths_angstrom,
        batch.poses,
        rings,
        observations.pixel_size_angstrom,
    )
    return ring_correlations(predicted * batch.transfer, batch.transforms, rings)


def split_into_chunks(rows: torch.Tensor, most: int) -> tuple[torch.Tensor, ...]:
    """Rows in as few chunks of ``most`` at most as it takes, of even sizes: processes then have even shares."""
    return rows.tensor_split(chunk_count(rows, most)) if len(rows) else ()


def chunk_count(rows: torch.Tensor, most: int) -> int:
    """How many chunks that makes."""
    return math.ceil(len(rows) / most)


def map_within_memory(
    compute: Callable[[torch.Tensor], torch.Tensor], observations: Observations, rows: torch.Tensor
) -> list[torch.Tensor]:
    """What some rows of images give, all at once or in pieces that a GPU's memory holds.

    Raises
    ------
    InputError
        If it does not hold one image.
    """
    found: list[torch.Tensor] = []
    left = rows
    while len(left):
        some = left[: observations.most_at_once]
        try:
            part = compute(some)
        except torch.cuda.OutOfMemoryError:
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


def mean_correlation_gradient(
    positions: torch.Tensor,
    gaussians: AtomGaussians,
    observations: Observations,
    rows: torch.Tensor,
    rings: RingPixels,
    chunk: int,
) -> tuple[float, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean correlation over fitted rings and images (minus paper eq. 3) and its gradient.

    Chunks are added two halves at a time (``sum_pairwise``), so that the number of processes does not change
    the result.

    Returns
    -------
    value : float
    gradients : three tensors
        With respect to positions, amplitudes and widths, of their shapes.
    """
    if not len(rows):
        return unpack_gradient(positions.new_zeros(5 * len(positions) + 1))
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
    """Sum of what the chunks ``span[0]`` to ``span[1] - 1`` of ``rows`` add; see ``sum_pairwise``."""
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
    """What some of ``count`` images add to the mean correlation and its gradient.

    Returns
    -------
    (n_atoms * 5 + 1,) float
        Gradients with respect to positions, amplitudes and widths one after another, and the value.
    """
    # Contiguous, as another process has them: the layout in memory decides how a product is rounded
    leaves = [
        values.detach().contiguous().requires_grad_()
        for values in (positions, gaussians.amplitudes, gaussians.widths_angstrom)
    ]

    def share(some: torch.Tensor) -> torch.Tensor:
        correlations = correlate(leaves[0], AtomGaussians(*leaves[1:]), observations, some, rings)
        value = observations.fitted(correlations).mean(1).sum() / count
        return torch.cat([*(part.reshape(-1) for part in torch.autograd.grad(value, leaves)), value.detach()[None]])

    first, *others = map_within_memory(share, observations, rows)
    return sum(others, first)


def unpack_gradient(share: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What ``packed_gradient`` has put together, as ``mean_correlation_gradient`` returns it."""
    n = (len(share) - 1) // 5
    by_position, by_amplitude, by_width, value = share.split([3 * n, n, n, 1])
    return float(value), by_position.view(n, 3), by_amplitude, by_width


_MOST_CONTRAST_IMAGES = 300
_CONTRAST_RESOLUTION_ANGSTROM = 20.0
_CLEAR_IN_ERRORS = 5.0
_ATOMS_AT_ONCE = 24_000


@dataclass(frozen=True)
class ContrastEstimate:
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
            f"correlation with the start to {_CONTRAST_RESOLUTION_ANGSTROM:g} Å {self.correlation:.3f} ± "
            f"{self.error:.3f} "
            f"over {self.images} images"
        )


def find_contrast(positions: torch.Tensor, gaussians: AtomGaussians, observations: Observations) -> ContrastEstimate:
    """Mean ring correlation to 20 Å of up to 300 images, spread over the set, with the start model.

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
    chunk = max(1, _ATOMS_AT_ONCE // len(positions))
    of_images = correlate_in_chunks(positions, gaussians, observations, rows, rings, chunk).mean(1).double()
    error = float(of_images.std(unbiased=True)) / count**0.5 if count > 1 else float("inf")
    return ContrastEstimate(float(of_images.mean()), error, count)
