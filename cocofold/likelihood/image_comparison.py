"""Comparison of atoms with images, and the poses of single particles, which it refines against the atoms.

An image's ring is taken for ``g p`` and white noise, as in ``likelihood.image_likelihood``, with the prediction p at
the particle's pose. A pose is off by a turn in the image's frame (a rotation vector) and a shift of the origin: five
numbers, normal about zero with one width for turns and one for shifts. A pass linearises predictions about the poses as
they are (Gauss-Newton), finds the widths with the highest marginal likelihood of all images together, and moves each
pose to the maximum of its posterior probability. Where images show no errors, the widths are zero and nothing moves.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from cocofold.imaging.fourier import RingPixels, ring_sums
from cocofold.imaging.projection import project
from cocofold.likelihood.frc_loss import (
    AtomGaussians,
    CorrelationGradient,
    correlate_in_chunks,
    map_within_memory,
    mean_correlation_gradient,
    split_into_chunks,
)
from cocofold.likelihood.image_likelihood import NoiseModel, image_ring_sums, numbers_in_rings
from cocofold.likelihood.observed_images import Batch, Observations
from cocofold.likelihood.particle_optics import EQUATION_NUMBERS, ERRORS_PER_POSE, PoseEquations, PosePrior

# Fewer rings than this leave too few to judge by.
FEWEST_RINGS_FOR_POSES = 8
# Every fourth ring judges and is not asked for poses: enough rings to judge by, at a seventh of the poses' precision.
_JUDGING_INTERVAL = 4
# Images by which noise, scale and the prior's widths are found, at most: more know them better than it takes.
_MOST_TELLING_IMAGES = 300
# Of single passes the second still gains; the third is for poses that start as they were given.
_PASSES, _PASSES_ANEW = 2, 3
# Images whose poses are refined together, of all: they bound the memory.
_IMAGES_IN_BLOCK = 10_000
# Evidence (natural logarithm of the likelihood) and gain on the judging rings, in its standard errors, from which poses
# count as off. Of poses that are right, 0 was found.
_LEAST_EVIDENCE, _CLEAR_IN_ERRORS = 10.0, 3.0


class Comparison(ABC):
    """Compares atoms with images, here or with workers; the result is the same, bit by bit."""

    @abstractmethod
    def gradient(
        self,
        positions: torch.Tensor,
        gaussians: AtomGaussians,
        rows: torch.Tensor,
        rings: RingPixels,
        chunk: int,
        meanwhile: Callable[[], None],
    ) -> CorrelationGradient:
        """See ``mean_correlation_gradient``; ``meanwhile`` is called once, where workers would be waited for."""

    @abstractmethod
    def score(
        self, positions: torch.Tensor, gaussians: AtomGaussians, rows: torch.Tensor, rings: RingPixels, chunk: int
    ) -> torch.Tensor:
        """See ``correlate_in_chunks``."""

    @abstractmethod
    def prefetch(self, rows: torch.Tensor, chunk: int) -> None:
        """Begin to read images for the gradient after the next."""

    @abstractmethod
    def pose_equations(
        self,
        positions: torch.Tensor,
        gaussians: AtomGaussians,
        rows: torch.Tensor,
        rings: RingPixels,
        chunk: int,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """See ``pose_equations``, of rows, (n,) int: (n, 20) float on the CPU."""

    @abstractmethod
    def move_poses(self, rows: torch.Tensor, errors: torch.Tensor) -> None:
        """See ``Observations.move_poses``."""

    def drawn(self, positions: torch.Tensor, gaussians: AtomGaussians) -> tuple[torch.Tensor, AtomGaussians]:
        """All that is drawn in images: by default the atoms, and nothing beside them."""
        return positions, gaussians

    def begin_stage(self, positions: Callable[[], torch.Tensor], finest_angstrom: float) -> None:  # noqa: B027
        """Take note of the beginning of a stage that compares to a resolution; ``positions`` gives (n_atoms, 3) Å."""

    def state(self) -> dict[str, torch.Tensor]:
        """What ``restore`` needs; of most comparisons nothing."""
        return {}

    def restore(self, state: dict[str, torch.Tensor]) -> None:  # noqa: B027
        """Go back to a state."""

    @abstractmethod
    def on_idle_cores(self) -> contextlib.AbstractContextManager[None]:
        """Within this, the coordinator works by itself, also on the cores of workers that wait."""


class LocalComparison(Comparison):
    """Comparison in this process."""

    def __init__(self, observations: Observations) -> None:
        self._observations = observations

    def gradient(
        self,
        positions: torch.Tensor,
        gaussians: AtomGaussians,
        rows: torch.Tensor,
        rings: RingPixels,
        chunk: int,
        meanwhile: Callable[[], None],
    ) -> CorrelationGradient:
        """See ``Comparison``."""
        meanwhile()
        return mean_correlation_gradient(positions, gaussians, self._observations, rows, rings, chunk)

    def score(
        self, positions: torch.Tensor, gaussians: AtomGaussians, rows: torch.Tensor, rings: RingPixels, chunk: int
    ) -> torch.Tensor:
        """See ``Comparison``."""
        return correlate_in_chunks(positions, gaussians, self._observations, rows, rings, chunk)

    def prefetch(self, rows: torch.Tensor, chunk: int) -> None:
        """See ``Comparison``."""
        self._observations.prefetch(split_into_chunks(rows, chunk))

    def pose_equations(
        self,
        positions: torch.Tensor,
        gaussians: AtomGaussians,
        rows: torch.Tensor,
        rings: RingPixels,
        chunk: int,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """See ``Comparison``."""
        parts = split_into_chunks(rows, chunk)
        return torch.cat(pose_equations(positions, gaussians, self._observations, parts, rings, weights)).cpu()

    def move_poses(self, rows: torch.Tensor, errors: torch.Tensor) -> None:
        """See ``Comparison``."""
        self._observations.move_poses(rows, errors)

    def on_idle_cores(self) -> contextlib.AbstractContextManager[None]:
        """See ``Comparison``; there are no workers."""
        return contextlib.nullcontext()


@torch.no_grad()
def pose_equations(
    positions: torch.Tensor,
    gaussians: AtomGaussians,
    observations: Observations,
    parts: Sequence[torch.Tensor],
    rings: RingPixels,
    weights: torch.Tensor,
) -> list[torch.Tensor]:
    """Normal equations of the errors of each image's pose, of each chunk of rows.

    Parameters
    ----------
    positions : (n_atoms, 3) float
        Å.
    gaussians : AtomGaussians
    observations : Observations
    parts : sequence of (n,) int
        Chunks of images, which are read ahead.
    rings : RingPixels
    weights : (2, n_rings) float
        Scale g of predictions, and precision (inverse variance) of a ring's numbers.

    Returns
    -------
    list of (n, 20) float
        Gradient of the log-likelihood at the present poses, and the lower triangle of the matrix of second derivatives
        of its negative, without those of predictions; errors are turns about x, y and z of the image (rad), and shifts
        of the origin (Å).
    """
    positions = positions.contiguous()
    scale, precision = weights.to(rings.kx.device)
    of_gradient, of_matrix = scale * precision, scale**2 * precision
    of_ring = torch.stack([of_gradient] * ERRORS_PER_POSE + [of_matrix] * (EQUATION_NUMBERS - ERRORS_PER_POSE))
    lower = np.tril_indices(ERRORS_PER_POSE)

    def equations(some: torch.Tensor) -> torch.Tensor:
        batch = observations.batch(some, rings)
        predicted, slopes = _predictions(positions, gaussians, observations, some, batch, rings)
        left = batch.transforms - scale[rings.ring, None] * predicted
        numbers = [(slope * left).sum(-1) for slope in slopes]
        numbers += [(slopes[row] * slopes[column]).sum(-1) for row, column in zip(*lower)]
        sums = ring_sums((torch.stack(numbers, dim=1) * rings.weight).flatten(0, 1), rings)
        return (sums.reshape(len(some), EQUATION_NUMBERS, -1) * of_ring).sum(-1)

    observations.prefetch(parts)
    return [torch.cat(map_within_memory(equations, observations, some)) for some in parts]


def _predictions(
    positions: torch.Tensor,
    gaussians: AtomGaussians,
    observations: Observations,
    rows: torch.Tensor,
    batch: Batch,
    rings: RingPixels,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Predicted transforms, (n, n_pixels, 2), and their derivatives with respect to the five errors, each likewise.

    A turn w moves an atom at u, seen from the rotation centre, by w x u, and by that the phase of its share of the
    transform: the derivatives are transforms of projections whose atoms are weighted by u.
    """
    pixel, on_device = observations.pixel_size_angstrom, rows.to(observations.device)
    turned = observations.rotations[on_device].transpose(1, 2)
    seen = torch.matmul(positions - (rings.box // 2) * pixel, turned)

    def transform(amplitudes: torch.Tensor) -> torch.Tensor:
        return batch.transfer * project(positions, amplitudes, gaussians.widths_angstrom, batch.poses, rings, pixel)

    plain = transform(gaussians.amplitudes)
    by_x, by_y, by_z = (transform(gaussians.amplitudes * seen[..., axis]) for axis in range(3))
    kx, ky = (2 * math.pi * axis[..., None] for axis in observations.optics.frequencies(on_device, rings))
    at = 2 * math.pi / (rings.box * pixel)
    turns = [_times_i(ky * by_z), _times_i(-kx * by_z), _times_i(kx * by_y - ky * by_x)]
    return plain, [*turns, *(_times_i(at * axis[:, None] * plain) for axis in (rings.kx, rings.ky))]


def _times_i(values: torch.Tensor) -> torch.Tensor:
    """Real and imaginary parts, (..., 2), multiplied by the imaginary unit."""
    return torch.stack([-values[..., 1], values[..., 0]], dim=-1)


def judging_rings(n_rings: int, scored: Sequence[int] = ()) -> list[int]:
    """Rings, from 1, that judge refined poses; those by which particles were chosen can judge nothing."""
    return [ring for ring in range(_JUDGING_INTERVAL, n_rings + 1, _JUDGING_INTERVAL) if ring not in scored]


class PoseRefiner:
    """Poses of a run's particles, refined against its atoms.

    Parameters
    ----------
    comparison : Comparison
        With these observations.
    observations : Observations
    telling : (n,) int
        Fitted images, of which some say how noisy images are and how far poses are off.
    rings : RingPixels
        All rings of the run.
    chunk : int
        Number of images compared at once, at most.
    all_rings : bool
        Whether rings that would judge are asked too, as there are no images to be judged.
    """

    def __init__(
        self,
        comparison: Comparison,
        observations: Observations,
        telling: torch.Tensor,
        rings: RingPixels,
        chunk: int,
        all_rings: bool = False,
    ) -> None:
        self._comparison, self._observations, self._rings, self._chunk = comparison, observations, rings, chunk
        spread = torch.linspace(0, len(telling) - 1, min(len(telling), _MOST_TELLING_IMAGES)).round().long()
        self._telling = telling[spread]
        self._all_rings = all_rings
        self.judging = judging_rings(rings.n_rings, observations.particles.scored_rings)
        self.errors = torch.zeros(len(observations), ERRORS_PER_POSE)
        self.prior = PosePrior()
        self.active: bool | None = None
        self._anyhow = False

    @classmethod
    def of_run(cls, asked: str, *given: Any) -> PoseRefiner | None:
        """That of a run which asks for it with auto or on; poses are those given at first."""
        if asked == "off":
            return None
        found = cls(*given)
        found._anyhow = asked == "on"
        found.restore(found.state())
        return found

    def decide(self, positions: torch.Tensor, gaussians: AtomGaussians) -> bool:
        """Find out whether poses are off: by the evidence, and by rings that were not asked, of the telling images."""
        before = self._judged(positions, gaussians)
        asks_all, self._all_rings = self._all_rings, False
        evidence = self.refine(positions, gaussians, self._telling, _PASSES_ANEW)
        self._all_rings = asks_all
        gains = (self._judged(positions, gaussians) - before).numpy()
        gains = gains[np.isfinite(gains)]
        error = gains.std() / max(1, len(gains)) ** 0.5
        self.active = self._anyhow or bool(evidence > _LEAST_EVIDENCE and gains.mean() > _CLEAR_IN_ERRORS * error)
        if not self.active:
            self._move(self._telling, torch.zeros(len(self._telling), ERRORS_PER_POSE))
            self.prior = PosePrior()
        return self.active

    def begin_stage(self, positions: torch.Tensor, gaussians: AtomGaussians, rows: torch.Tensor) -> None:
        """Refine the poses of images that a stage will compare, if poses are off."""
        if self.decide(positions, gaussians) if self.active is None else self.active:
            self.refine(positions, gaussians, rows)

    def refine(
        self,
        positions: torch.Tensor,
        gaussians: AtomGaussians,
        rows: torch.Tensor,
        passes: int = _PASSES,
        prior: PosePrior | None = None,
    ) -> float:
        """Refine the poses of some images from where they are; returns the evidence that poses are off.

        Parameters
        ----------
        positions, gaussians, rows
            As of ``Comparison.score``.
        passes : int
        prior : PosePrior, optional
            By default it is found by these images.
        """
        evidence = 0.0
        for _ in range(passes):
            weights = self._weights(positions, gaussians)
            packed = self._comparison.pose_equations(positions, gaussians, rows, self._rings, self._chunk, weights)
            equations = PoseEquations.unpack(packed.double().numpy(), self.errors[rows].double().numpy())
            if prior is None:
                self.prior, evidence = equations.estimate_prior()
            found = equations.solve(self.prior if prior is None else prior)
            self._move(rows, torch.as_tensor(found, dtype=torch.float32))
        return evidence

    def refine_all(self, positions: torch.Tensor, gaussians: AtomGaussians) -> None:
        """Refine the poses of all images by all rings, with the prior of the telling ones."""
        self._all_rings = True
        self.refine(positions, gaussians, self._telling, _PASSES_ANEW)
        for rows in torch.arange(len(self.errors)).split(_IMAGES_IN_BLOCK):
            self._move(rows, torch.zeros(len(rows), ERRORS_PER_POSE))
            self.refine(positions, gaussians, rows, _PASSES_ANEW + 1, self.prior)

    def score_anew(self, positions: torch.Tensor, gaussians: AtomGaussians, rows: torch.Tensor) -> torch.Tensor:
        """Correlations of images, (n, n_rings), at poses that are refined from those given, and forgotten."""
        kept = self.errors[rows].clone()
        self._move(rows, torch.zeros_like(kept))
        self.refine(positions, gaussians, rows, _PASSES_ANEW, self.prior)
        scores = self._comparison.score(positions, gaussians, rows, self._rings, self._chunk)
        self._move(rows, kept)
        return scores

    def _judged(self, positions: torch.Tensor, gaussians: AtomGaussians) -> torch.Tensor:
        """Mean correlation of each telling image on the judging rings, (n,) float64 on the CPU."""
        scores = self._comparison.score(positions, gaussians, self._telling, self._rings, self._chunk)
        return scores[:, [ring - 1 for ring in self.judging]].mean(1).cpu().double()

    def _weights(self, positions: torch.Tensor, gaussians: AtomGaussians) -> torch.Tensor:
        """Scale of predictions and precision of a ring's numbers, (2, n_rings), by the telling images."""
        drawn = self._comparison.drawn(positions, gaussians)
        sums = image_ring_sums(*drawn, self._observations, self._telling, self._rings, self._chunk)
        left_out = {*self._observations.particles.scored_rings, *(() if self._all_rings else self.judging)}
        asked = torch.tensor([ring not in left_out for ring in range(1, self._rings.n_rings + 1)])
        every = torch.ones(len(self._telling), 1, dtype=torch.float64)
        noise = NoiseModel.estimate([sums], every, numbers_in_rings(self._rings), asked)
        return torch.stack([noise.scale, noise.precision]).float()

    def _move(self, rows: torch.Tensor, errors: torch.Tensor) -> None:
        self.errors[rows] = errors
        self._comparison.move_poses(rows, errors)

    def state(self) -> dict[str, torch.Tensor]:
        """What ``restore`` needs."""
        known = [self.prior.turn_rad, self.prior.shift_angstrom, -1.0 if self.active is None else float(self.active)]
        return {"errors": self.errors, "known": torch.tensor(known, dtype=torch.float64)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go back to a state."""
        turn, shift, active = state["known"].tolist()
        self.prior, self.active = PosePrior(turn, shift), None if active < 0 else bool(active)
        self._move(torch.arange(len(self.errors)), state["errors"].clone())
