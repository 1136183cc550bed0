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

import numpy as np
import torch

from cocofold.imaging.fourier import RingPixels, ring_sums
from cocofold.imaging.projection import project
from cocofold.likelihood.frc_loss import AtomGaussians, images_per_chunk, map_within_memory, split_into_chunks
from cocofold.likelihood.observed_images import Batch, Observations
from cocofold.structure.model import Model

# Least share of a ring's power that is noise, so that no ring, however clear, decides alone.
_LEAST_NOISE = 0.02
_TINY = torch.finfo(torch.float64).tiny
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
        total = max(float(chances.sum()), _TINY)
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
        return (self.scale * sums.cross * self.precision).sum(1) / expected.clamp_min(_TINY)


@dataclass(frozen=True)
class Mixture:
    """Models of which each image shows one, or none of them.

    Attributes
    ----------
    shares : (n_models,) or (n_models + 1,) float64
        Of the images; they add up to 1. Where images may show nothing, theirs is the last.
    chances : (n, n_models) or (n, n_models + 1) float64
        Probability of each model for each image.
    noise : NoiseModel
    """

    shares: torch.Tensor
    chances: torch.Tensor
    noise: NoiseModel

    def each(self, sums: Sequence[RingSums]) -> torch.Tensor:
        """Log of share times likelihood of each model, and of none, for each image."""
        likelihoods = [self.noise.log_likelihood(one) for one in sums]
        if len(self.shares) > len(sums):
            likelihoods.append(torch.zeros_like(likelihoods[0]))
        return torch.stack(likelihoods, 1) + self.shares.clamp_min(_TINY).log()

    def log_evidence(self, sums: Sequence[RingSums]) -> torch.Tensor:
        """Log-likelihood of each image given all models and their shares, (n,), less that of noise alone."""
        return self.each(sums).logsumexp(1)

    def share_errors(self) -> torch.Tensor:
        """Standard errors of the shares, as ``shares``, by the information that images have of them (Louis 1982)."""
        informed = ((self.chances / self.shares.clamp_min(_TINY)) ** 2).sum(0)
        # Shares add up to one: each has the freedom that the rest leaves it.
        return torch.sqrt((1 - self.shares).clamp_min(0) / informed.clamp_min(_TINY))


def fit_mixture(
    sums: Sequence[RingSums],
    numbers: torch.Tensor,
    used: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
    may_be_empty: bool = False,
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
    may_be_empty : bool
        Whether images may show nothing but noise.
    """
    every = torch.arange(len(sums[0].cross)) if rows is None else rows
    some = [one.of_rows(every) for one in sums]
    count = len(sums) + may_be_empty
    chances = torch.full((len(every), count), 1 / count, dtype=torch.float64)
    before = -torch.inf
    for _ in range(_MOST_ROUNDS):
        noise = NoiseModel.estimate(some, chances[:, : len(sums)], numbers, used)
        found = Mixture(chances.mean(0), chances, noise)
        each = found.each(some)
        chances = each.softmax(1)
        now = float(each.logsumexp(1).mean())
        if abs(now - before) < _SETTLED:
            break
        before = now
    return Mixture(chances.mean(0), found.each(sums).softmax(1), found.noise)


def evidence_of_each(
    sums: Sequence[RingSums], numbers: torch.Tensor, fitted: torch.Tensor, judging: torch.Tensor
) -> list[torch.Tensor]:
    """What judging images lose without each of several models, (n_judging,) each: gains in log-likelihood.

    Shares, scale and noise are those of the fitted images, with all models and without the one.
    """

    def evidence(some: Sequence[RingSums]) -> torch.Tensor:
        found = fit_mixture(some, numbers, rows=fitted, may_be_empty=True)
        return found.log_evidence([one.of_rows(judging) for one in some])

    together = evidence(sums)
    return [together - evidence([*sums[:k], *sums[k + 1 :]]) for k in range(len(sums))]


# Lengths of a motion that are tried (Å, root mean square); parts of the chains that move smoothly, their reach, and the
# number of images for each of them: of fewer the spread of pulls is not known in so many directions.
_PULL_LENGTHS, _MOST_PARTS, _FEWEST_PARTS, _PULL_REACH_ANGSTROM, _IMAGES_A_PART = (1.5, 3.0, 5.0), 24, 4, 10.0, 20
# Images of noise at least, for the spread of pulls without any motion
_NOISE_IMAGES = 400


def pull_apart(
    model: Model, observations: Observations, rows: torch.Tensor, rings: RingPixels, numbers: torch.Tensor, seed: int
) -> tuple[list[Model], float]:
    """A model moved both ways along the smooth motion in which single images pull it apart most.

    Where half of the images want a domain up and half of them down, their sum wants nothing, and their pulls spread
    along that motion more than noise does. The length of the motion is the one with the highest likelihood.

    Parameters
    ----------
    model : Model
    observations : Observations
    rows : (n,) int
        Images that are asked.
    rings : RingPixels
    numbers : (n_rings,) float64
        See ``numbers_in_rings``; 0 for rings that are not asked.
    seed : int
        Of images of noise that are compared.

    Returns
    -------
    models : list of two Model
    ratio : float
        Variance of the pulls along the motion over that of noise.
    """
    chunk, device = images_per_chunk(len(model)), observations.device
    gaussians = AtomGaussians.of_model(model, device)

    def sums(one: Model) -> RingSums:
        positions = torch.as_tensor(one.positions, dtype=torch.float32, device=device)
        return image_ring_sums(positions, gaussians, observations, rows, rings, chunk)

    fields, of_body = _smooth_motions(model, min(_MOST_PARTS, max(_FEWEST_PARTS, len(rows) // _IMAGES_A_PART)))
    noise = fit_mixture([sums(model)], numbers).noise
    positions = torch.as_tensor(model.positions, dtype=torch.float32, device=device)
    data, made_up = _pulls(positions, gaussians, observations, rows, rings, noise, fields.to(device), seed)
    weights, ratio = _leading_weights(data, made_up, of_body)
    motion = np.einsum("s,sax->ax", weights.numpy(), fields.double().numpy())
    motion /= np.sqrt((motion**2).sum(1).mean())
    pairs = [[model.moved_to(model.positions + way * length * motion) for way in (1, -1)] for length in _PULL_LENGTHS]
    found = []
    for pair in pairs:
        both = [sums(one) for one in pair]
        found.append(float(fit_mixture(both, numbers, may_be_empty=True).log_evidence(both).sum()))
    return pairs[int(np.argmax(found))], ratio


def _pulls(
    positions: torch.Tensor,
    gaussians: AtomGaussians,
    observations: Observations,
    rows: torch.Tensor,
    rings: RingPixels,
    noise: NoiseModel,
    fields: torch.Tensor,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of single images' likelihood along fields, (n, n_fields): of the images, and of model plus noise."""
    generator = torch.Generator().manual_seed(seed)
    flat = fields.reshape(len(fields), -1)
    atoms = (positions, gaussians.amplitudes, gaussians.widths_angstrom)
    pulls: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    spread = noise.numbers.clamp_min(1).reciprocal().mul(noise.noise).sqrt()
    draws = -(-_NOISE_IMAGES // max(1, len(rows)))
    for some in split_into_chunks(rows, images_per_chunk(len(positions))):
        batch = observations.batch(some, rings)
        with torch.no_grad():
            made = project(*atoms, batch.poses, rings, observations.pixel_size_angstrom) * batch.transfer
            made = noise.scale.to(made)[rings.ring, None] * made
        for draw in range(draws + 1):
            observed, found = batch.transforms, pulls[0]
            if draw > 0:
                random = torch.randn(made.shape, generator=generator).to(made)
                observed, found = made + spread.to(made)[rings.ring, None] * random, pulls[1]
            each = positions.detach().expand(len(some), -1, -1).contiguous().requires_grad_()
            shown = Batch(batch.poses, batch.transfer, observed)
            sums = batch_ring_sums(each, gaussians, shown, rings, observations.pixel_size_angstrom)
            likelihood = noise.log_likelihood(RingSums(sums.cross.double(), sums.power.double())).sum()
            (gradient,) = torch.autograd.grad(likelihood, each)
            found.append((gradient.reshape(len(some), -1) @ flat.T).double().cpu())
    return torch.cat(pulls[0]), torch.cat(pulls[1])


def _leading_weights(data: torch.Tensor, made_up: torch.Tensor, of_body: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Weights of the fields in the motion along which pulls spread most compared with noise, and how much more."""
    information = torch.cov(made_up.T)
    one = torch.eye(len(information), dtype=torch.float64)
    information = information + 1e-2 * information.diagonal().mean() * one
    # Motions of the whole body, as errors of poses give them, are taken out as by a fit of them to each image.
    kept = one - information @ of_body.T @ torch.linalg.solve(of_body @ information @ of_body.T, of_body)
    root = torch.linalg.cholesky(information)
    white = torch.linalg.solve_triangular(root, kept @ torch.cov(data.T) @ kept.T, upper=False)
    white = torch.linalg.solve_triangular(root, white.T, upper=False)
    values, vectors = torch.linalg.eigh((white + white.T) / 2)
    weights = torch.linalg.solve_triangular(root.T, vectors[:, -1:], upper=True)[:, 0]
    return kept.T @ weights, float(values[-1])


def _smooth_motions(model: Model, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth motions of parts of the chains, (n, n_atoms, 3) float32, and those of the whole body in them, (6, n)."""
    centres = model.positions[model.framed_residues()[1][:, 1]]
    parts = np.array([part.mean(0) for part in np.array_split(centres, min(count, len(centres)))])
    weights = np.exp(-((model.positions[:, None] - parts) ** 2).sum(-1) / (2 * _PULL_REACH_ANGSTROM**2))
    weights /= np.maximum(weights.sum(1, keepdims=True), 1e-12)
    fields = np.einsum("as,xy->sxay", weights, np.eye(3)).reshape(3 * len(parts), len(model), 3)
    away = parts - parts.mean(0)
    shifts = [np.tile(axis, (len(parts), 1)) for axis in np.eye(3)]
    turns = [np.cross(axis, away) for axis in np.eye(3)]
    of_body = np.stack([motion.reshape(-1) for motion in (*shifts, *turns)])
    return torch.as_tensor(fields, dtype=torch.float32), torch.as_tensor(of_body)
