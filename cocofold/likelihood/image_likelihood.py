"""Likelihood of single images given models: which of several models shows a particle, and whether any does.

An image's ring r has unit power and is taken for ``g_r p_r`` and white noise of variance ``v_r / n_r`` a number, with
``p_r`` the model's projection times the CTF and ``n_r`` the ring's numbers. Scale ``g_r`` and noise ``v_r`` are those
of all images together. Then two sums over a ring are all that the likelihood needs of an image and a model: of
observed times predicted values, and of the predicted ones' squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from cocofold.imaging.fourier import RingPixels, ring_sums
from cocofold.imaging.projection import project
from cocofold.likelihood.frc_loss import AtomGaussians, map_within_memory, split_into_chunks
from cocofold.likelihood.observed_images import Batch, Observations

# Least share of a ring's power that is noise, so that no ring, however clear, decides alone.
_LEAST_NOISE = 0.02
# Rounds of expectation and maximisation, and the change of a mean log-likelihood below which they end.
_MOST_ROUNDS, _SETTLED = 200, 1e-7


class RingSums(NamedTuple):
    """What the likelihood of images needs of them and a model, both (n, n_rings).

    Attributes
    ----------
    cross : Tensor
        Sums over a ring of observed times predicted values; the observed ring has unit power.
    power : Tensor
        Sums of the squares of the predicted values.
    """

    cross: torch.Tensor
    power: torch.Tensor

    def of_rows(self, rows: torch.Tensor) -> RingSums:
        """Of some of the images."""
        return RingSums(self.cross[rows], self.power[rows])


def batch_ring_sums(
    positions: torch.Tensor,
    gaussians: AtomGaussians,
    batch: Batch,
    rings: RingPixels,
    pixel_size_angstrom: float,
) -> RingSums:
    """Ring sums of a batch of images with a model, with gradients to atoms and to the batch's poses.

    Parameters
    ----------
    positions : (n_atoms, 3) float
        Å.
    gaussians : AtomGaussians
    batch : Batch
    rings : RingPixels
        Those of the batch.
    pixel_size_angstrom : float
    """
    atoms = (positions, gaussians.amplitudes, gaussians.widths_angstrom)
    predicted = project(*atoms, batch.poses, rings, pixel_size_angstrom) * batch.transfer
    cross = ring_sums((predicted * batch.transforms).sum(-1) * rings.weight, rings)
    return RingSums(cross, ring_sums((predicted**2).sum(-1) * rings.weight, rings))


@torch.no_grad()
def image_ring_sums(
    positions: torch.Tensor,
    gaussians: AtomGaussians,
    observations: Observations,
    rows: torch.Tensor,
    rings: RingPixels,
    chunk: int,
) -> RingSums:
    """Ring sums of many images, ``chunk`` at a time at most, (n, n_rings) float64 on the CPU."""
    positions = positions.contiguous()
    parts = split_into_chunks(rows, chunk)
    observations.prefetch(parts)

    def sums(some: torch.Tensor) -> torch.Tensor:
        batch = observations.batch(some, rings)
        return torch.stack(
            batch_ring_sums(positions, gaussians, batch, rings, observations.pixel_size_angstrom), dim=1
        ).cpu()

    found = [part for some in parts for part in map_within_memory(sums, observations, some)]
    every = torch.cat(found).double() if found else torch.zeros(0, 2, rings.n_rings, dtype=torch.float64)
    return RingSums(every[:, 0], every[:, 1])


def numbers_in_rings(rings: RingPixels) -> torch.Tensor:
    """How many independent numbers each ring of an image has, (n_rings,) float64 on the CPU."""
    return ring_sums(rings.weight.double()[None], rings)[0].cpu()


@dataclass(frozen=True)
class NoiseModel:
    """Scale of predictions and noise of images, each (n_rings,) float64.

    Attributes
    ----------
    scale : Tensor
        ``g``, which brings a prediction to the scale of images.
    noise : Tensor
        ``v``, the share of a ring's power that is noise.
    numbers : Tensor
        ``n``, the ring's independent numbers; 0 for rings that are not asked.
    """

    scale: torch.Tensor
    noise: torch.Tensor
    numbers: torch.Tensor

    @property
    def precision(self) -> torch.Tensor:
        """Inverse of the variance of a ring's numbers, (n_rings,)."""
        return self.numbers / self.noise

    @classmethod
    def estimate(
        cls,
        sums: Sequence[RingSums],
        chances: torch.Tensor,
        numbers: torch.Tensor,
        used: torch.Tensor | None = None,
    ) -> NoiseModel:
        """Scale and noise of images that are shown by models with some probability.

        Parameters
        ----------
        sums : sequence of RingSums
            With each model, all of the same n images.
        chances : (n, n_models) float64
            Probability of each model for each image.
        numbers : (n_rings,) float64
            See ``numbers_in_rings``.
        used : (n_rings,) bool, optional
            Rings that are asked.
        """
        cross = torch.stack([(chances[:, k, None] * one.cross).sum(0) for k, one in enumerate(sums)]).sum(0)
        power = torch.stack([(chances[:, k, None] * one.power).sum(0) for k, one in enumerate(sums)]).sum(0)
        known = power > 0
        scale = torch.where(known, cross / torch.where(known, power, torch.ones_like(power)), torch.zeros_like(power))
        # A ring that speaks against the models says nothing of their scale.
        scale = scale.clamp_min(0)
        total = max(float(chances.sum()), torch.finfo(torch.float64).tiny)
        noise = (1 - (2 * scale * cross - scale**2 * power) / total).clamp_min(_LEAST_NOISE)
        return cls(scale, noise, numbers if used is None else numbers * used)

    def log_likelihood(self, sums: RingSums) -> torch.Tensor:
        """Log-likelihood of each image, (n,), less that of an image of nothing but noise; with gradients."""
        scale, precision = (values.to(sums.cross) for values in (self.scale, self.precision))
        of_noise = float((self.numbers * (self.noise.log() + 1 / self.noise - 1)).sum()) / 2
        return ((scale * sums.cross - scale**2 * sums.power / 2) * precision).sum(1) - of_noise

    def explained(self, sums: RingSums) -> torch.Tensor:
        """How much of the signal that a model predicts is in each image, (n,): 1 as in all, 0 if there is none.

        It is the image's own scale with the highest likelihood.
        """
        expected = (self.scale**2 * sums.power * self.precision).sum(1)
        return (self.scale * sums.cross * self.precision).sum(1) / expected.clamp_min(torch.finfo(torch.float64).tiny)


@dataclass(frozen=True)
class Mixture:
    """Models of which each image shows one.

    Attributes
    ----------
    shares : (n_models,) float64
        Of the images; they add up to 1.
    chances : (n, n_models) float64
        Probability of each model for each image.
    noise : NoiseModel
    """

    shares: torch.Tensor
    chances: torch.Tensor
    noise: NoiseModel

    def each(self, sums: Sequence[RingSums]) -> torch.Tensor:
        """Log of share times likelihood of each model for each image, (n, n_models)."""
        likelihoods = torch.stack([self.noise.log_likelihood(one) for one in sums], 1)
        return likelihoods + self.shares.clamp_min(torch.finfo(torch.float64).tiny).log()

    def log_evidence(self, sums: Sequence[RingSums]) -> torch.Tensor:
        """Log-likelihood of each image given all models and their shares, (n,), less that of noise alone."""
        return self.each(sums).logsumexp(1)

    def share_errors(self) -> torch.Tensor:
        """Standard errors of the shares, (n_models,), by the information that each image has of them (Louis 1982)."""
        information = (self.chances / self.shares.clamp_min(torch.finfo(torch.float64).tiny)) ** 2
        # Shares that add up to one: each has the freedom that the rest leaves it.
        informed = information.sum(0).clamp_min(torch.finfo(torch.float64).tiny)
        return torch.sqrt((1 - self.shares).clamp_min(0) / informed)


def fit_mixture(
    sums: Sequence[RingSums],
    numbers: torch.Tensor,
    used: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
) -> Mixture:
    """Shares, scale and noise with the highest likelihood, by expectation and maximisation.

    Parameters
    ----------
    sums : sequence of RingSums
        Of the same n images with each model.
    numbers : (n_rings,) float64
        See ``numbers_in_rings``.
    used : (n_rings,) bool, optional
        Rings that are asked.
    rows : (m,) int, optional
        Images by which shares, scale and noise are found; by default all. Probabilities are given for all.
    """
    every = torch.arange(len(sums[0].cross)) if rows is None else rows
    some = [one.of_rows(every) for one in sums]
    chances = torch.full((len(every), len(sums)), 1 / len(sums), dtype=torch.float64)
    before = -torch.inf
    for _ in range(_MOST_ROUNDS):
        noise = NoiseModel.estimate(some, chances, numbers, used)
        found = Mixture(chances.mean(0), chances, noise)
        each = found.each(some)
        chances = each.softmax(1)
        now = float(each.logsumexp(1).mean())
        if abs(now - before) < _SETTLED:
            break
        before = now
    return Mixture(chances.mean(0), found.each(sums).softmax(1), found.noise)
